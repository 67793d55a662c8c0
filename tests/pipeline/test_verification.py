"""Verification: each kind of damage is found, alone and by its name, without the help of the file's hash."""

import hashlib
import json
import os
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings
from pipeline.settings import LabelSettings, settings_digest
from pipeline.verification import Verification, VerifySummary
from storage.errors import MissingFileError, SettingsError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_values, read_provenance
from storage.ledger import Entry, Ledger
from storage.schema import IGNORE, ClassSchema
from storage.soft_store import NO_CONFIDENCE, SoftStore, StoreForm
from storage.workspace import Workspace

IMAGES = {"a/1.png": (40, 56), "a/2.png": (40, 56), "b/3.jpg": (33, 47)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images and the run lie that the first test makes and every test copies."""
    return tmp_path_factory.mktemp("labelled")


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], labelled: Path) -> LabelSettings:
    """A run of three images, labelled."""
    made = LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(0.5, 1.0), device="cpu", out=tmp_path / "run"
    )
    if not (labelled / "run").exists():
        for number, (name, size) in enumerate(IMAGES.items()):
            make_image(labelled / "images" / name, size, number)
        label(made.model_copy(update={"images": labelled / "images", "out": labelled / "run"}))
    for folder in ("images", "run"):
        shutil.copytree(labelled / folder, tmp_path / folder)
    made.write(made.out / "settings.toml", "label")
    return made


@pytest.fixture
def run(settings: LabelSettings) -> Path:
    """The run's folder."""
    return settings.out


def label(settings: LabelSettings) -> None:
    """Label to the end."""
    with LabelRun(settings) as label_run:
        for _ in label_run:
            pass


def verify(run: Path, *, repair: bool = False, workers: int | None = 2) -> VerifySummary:
    """Verify to the end."""
    with Verification(run, repair=repair, workers=workers) as verification:
        keys = [found.key for found in verification if found.of_item]
        assert len(keys) == len(set(keys)) == verification.summary.items, "every item is accounted for exactly once"
        return verification.summary


def problems(run: Path) -> list[tuple[str, str]]:
    """Kind and key of all that is found."""
    return [(problem.kind, problem.key) for problem in verify(run).problems]


def entry_of(run: Path, key: str) -> Entry:
    """An entry of the ledger."""
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        entry = ledger.get(key)
    assert entry is not None
    return entry


def record(run: Path, key: str, **changes: object) -> None:
    """Change an item's entry so that size and hash are those of its file, whatever is in it."""
    content = (run / "labels" / f"{key}.png").read_bytes()
    known = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.commit([replace(entry_of(run, key), **known, **changes)])  # type: ignore[arg-type] # fields by name


def rewrite(run: Path, key: str, values: object = None, **provenance: str | float) -> None:
    """Write a label anew, of other values or another provenance."""
    path = run / "labels" / f"{key}.png"
    pixels = read_label_values(path) if values is None else np.asarray(values, np.uint8)
    path.write_bytes(encode_label_png(LabelMap(pixels, 255), read_provenance(path) | provenance))


def change_settings(run: Path, **changes: object) -> None:
    """Have a run's ledger, entries and labels speak of other settings, all of them alike."""
    with Ledger(run / "ledger.sqlite") as ledger:
        settings = {**(ledger.settings or {}), **changes}
        ledger.claim(settings)
        keys = sorted(ledger.done_keys())
    for key in keys:
        rewrite(run, key, settings=settings_digest(settings))
        record(run, key, settings_digest=settings_digest(settings))


def flip(path: Path, position: int) -> None:
    """Turn one byte of a file round."""
    content = path.read_bytes()
    path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])


def files(run: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of all files of a run."""
    found = (path for path in run.rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_sound_run_has_no_problems_and_is_not_written_to(run: Path) -> None:
    """Nothing is found where nothing is wrong, and no byte and no time of the run changes."""
    before = files(run)
    summary = verify(run)
    assert (summary.items, summary.labels, summary.checked) == (3, 3, 3)
    assert (dict(summary.kinds), summary.damaged, summary.left) == ({}, 0, 0)
    assert files(run) == before


def test_results_come_in_the_order_of_the_keys(run: Path) -> None:
    """However many threads there are, the stream is the same."""
    with Verification(run, workers=3) as verification:
        assert [found.key for found in verification] == ["a/1", "a/2", "b/3"]


def test_a_missing_label_is_found(run: Path) -> None:
    """An entry without its file, or with a folder in the file's place."""
    (run / "labels/a/1.png").unlink()
    (run / "labels/b/3.png").unlink()
    (run / "labels/b/3.png").mkdir()
    assert problems(run) == [("missing", "a/1"), ("missing", "b/3")]


def test_a_run_whose_labels_are_all_gone_misses_each(run: Path) -> None:
    """The ledger alone is enough of a run to say what is missing."""
    for path in (run / "labels").rglob("*.png"):
        path.unlink()
    assert verify(run).kinds == {"missing": 3}


@pytest.mark.parametrize("cut", [1, 4, 20, 200])
def test_a_truncated_label_is_found_without_its_hash(run: Path, cut: int) -> None:
    """Wherever it ends early, also behind the last pixel."""
    path = run / "labels/a/2.png"
    path.write_bytes(path.read_bytes()[:-cut])
    assert problems(run) == [("undecodable", "a/2")]
    record(run, "a/2")
    assert problems(run) == [("undecodable", "a/2")]


def test_every_flipped_byte_is_found_without_its_hash(run: Path) -> None:
    """In the signature, the header, the text chunk, the pixels, a checksum and the end."""
    path = run / "labels/a/2.png"
    whole = path.read_bytes()
    text, pixels = whole.index(b"tEXt") + 30, whole.index(b"IDAT") + 40
    for position in (0, 9, 18, 29, text, pixels, pixels - 42, len(whole) - 14, len(whole) - 2):
        flip(path, position)
        record(run, "a/2")
        assert problems(run) == [("undecodable", "a/2")], position
        path.write_bytes(whole)


def test_bytes_behind_the_end_are_found(run: Path) -> None:
    """A file that a label was followed by."""
    path = run / "labels/a/2.png"
    path.write_bytes(path.read_bytes() + b"more")
    record(run, "a/2")
    assert problems(run) == [("undecodable", "a/2")]


def test_a_file_that_is_no_label_is_undecodable(run: Path) -> None:
    """Colours, text, nothing at all, and a header that claims more pixels than memory holds."""
    path = run / "labels/a/2.png"
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    end = path.read_bytes()[-12:]
    for content in (b"", b"text", path.read_bytes()[:8] + chunk + end, path.read_bytes()[:8] + end):
        path.write_bytes(content)
        record(run, "a/2")
        assert problems(run) == [("undecodable", "a/2")]
    Image.new("RGB", (56, 40)).save(path)
    assert problems(run) == [("undecodable", "a/2")]


def test_a_label_of_another_size_is_found_by_ledger_and_by_image(run: Path) -> None:
    """The size recorded is asked first; where the ledger lies too, the image tells."""
    rewrite(run, "a/1", read_label_values(run / "labels/a/1.png")[:-1])
    record(run, "a/1")
    assert problems(run) == [("wrong size", "a/1")]
    values = read_label_values(run / "labels/a/1.png")
    counts = np.bincount(values.ravel(), minlength=256)
    record(run, "a/1", height=39, counts=tuple(counts[:3].tolist()), ignored=int(counts[IGNORE]))
    summary = verify(run)
    assert [(p.kind, p.key) for p in summary.problems] == [("wrong size", "a/1")]
    assert "its image is 56x40" in summary.problems[0].reason


def test_an_illegal_value_is_found_without_hash_and_counts(run: Path) -> None:
    """One pixel of a value that is no class."""
    values = read_label_values(run / "labels/a/1.png").copy()
    values[3, 5] = 7
    rewrite(run, "a/1", values)
    record(run, "a/1")
    summary = verify(run)
    assert [(p.kind, p.key) for p in summary.problems] == [("illegal value", "a/1")]
    assert "value 7" in summary.problems[0].reason


def test_a_label_of_other_settings_is_found_without_its_hash(run: Path) -> None:
    """In the file, also where it says nothing, and in the ledger."""
    rewrite(run, "a/1", settings="another")
    record(run, "a/1")
    values = read_label_values(run / "labels/a/2.png")
    (run / "labels/a/2.png").write_bytes(encode_label_png(LabelMap(values, 3)))
    record(run, "a/2")
    record(run, "b/3", settings_digest="another")
    assert problems(run) == [("foreign settings", key) for key in ("a/1", "a/2", "b/3")]


def test_other_settings_in_the_ledger_are_foreign_to_every_label(run: Path) -> None:
    """What the ledger says of the whole run is compared, not only its digest in each entry."""
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.claim({**(ledger.settings or {}), "threshold": 0.4})
    assert verify(run).kinds == {"foreign settings": 3}


def test_other_pixels_are_found_with_and_without_the_hash(run: Path) -> None:
    """Two classes exchanged are other pixels by class; two pixels exchanged are known by the hash alone."""
    values = read_label_values(run / "labels/a/1.png").copy()
    rewrite(run, "a/1", np.where(values == 0, 1, np.where(values == 1, 0, values)))
    record(run, "a/1")
    rewrite(run, "a/2", read_label_values(run / "labels/a/2.png")[::-1])
    assert problems(run) == [("altered", "a/1"), ("altered", "a/2")]


def test_another_hash_or_another_count_of_ignored_pixels_is_found(run: Path) -> None:
    """The ledger is not believed more than the file."""
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.commit([replace(entry_of(run, "a/1"), sha256="0" * 64)])
        ledger.commit([replace(entry_of(run, "a/2"), ignored=1 + entry_of(run, "a/2").ignored)])
        ledger.commit([replace(entry_of(run, "b/3"), bytes=1)])
    assert problems(run) == [("altered", key) for key in ("a/1", "a/2", "b/3")]


def test_a_link_that_leads_out_of_the_run_is_a_missing_label(run: Path) -> None:
    """Labels of a folder that was moved elsewhere are not this run's."""
    (run / "labels/b").rename(run.parent / "b")
    (run / "labels/b").symlink_to(run.parent / "b")
    assert problems(run) == [("missing", "b/3")]


def test_items_without_a_label_are_told_and_are_no_damage(
    settings: LabelSettings, run: Path, make_image: Callable[..., object]
) -> None:
    """Failed, without an entry, gone, replaced, and two of one key: each is told once, as what it is."""
    (settings.images / "c.png").write_text("no image")
    label(settings)
    make_image(settings.images / "d.png", (40, 56), 9)
    make_image(settings.images / "a/1.jpg", (40, 56), 9)
    (settings.images / "a/2.png").unlink()
    make_image(settings.images / "b/3.jpg", (33, 47), 9)
    summary = verify(run)
    assert [(problem.kind, problem.key) for problem in summary.problems] == [
        *(("orphan", "a/2"), ("unfinished", "b/3")),
        *(("refused", "a/1.jpg"), ("refused", "a/1.png"), ("failed", "c"), ("unfinished", "d")),
    ]
    assert (summary.items, summary.labels, summary.damaged, summary.left) == (7, 3, 0, 5)


def test_an_image_that_was_damaged_since_leaves_its_label_sound(settings: LabelSettings, run: Path) -> None:
    """The next run will tell; the label is what was made."""
    (settings.images / "a/1.png").write_text("no image")
    summary = verify(run)
    assert [(problem.kind, problem.key) for problem in summary.problems] == [("unfinished", "a/1")]
    assert summary.damaged == 0


def test_without_the_images_the_entries_alone_are_checked(settings: LabelSettings, run: Path) -> None:
    """A run that was copied to another machine is as good as before; that there are no images is said."""
    settings.images.rename(settings.images.parent / "elsewhere")
    with Verification(run) as verification:
        assert all(found.problem is None for found in verification)
    assert "no image folder" in verification.source.absence
    assert verification.summary.items == 3


def test_settings_that_are_gone_are_damage(run: Path) -> None:
    """The labels are checked all the same."""
    (run / "settings.toml").unlink()
    assert problems(run) == [("missing", "settings.toml")]
    (run / "settings.toml").write_text("no toml")
    assert problems(run) == [("undecodable", "settings.toml")]


def test_stray_files_are_found_wherever_they_lie(run: Path) -> None:
    """Beside the labels and beside the ledger; a folder is told once, and what belongs to a run is no stray."""
    (run / "labels/a/notes.txt").write_text("mine")
    (run / "labels/.hidden").write_text("mine")
    (run / "labels/.png").write_text("mine")
    Image.new("L", (56, 40)).save(run / "labels/a/9.png")
    (run / "old/labels").mkdir(parents=True)
    (run / "old/labels/1.png").write_text("mine")
    (run / "old/labels/2.png").write_text("mine")
    (run / "list.csv").write_text("mine")
    for name in ("failed.txt", ".lock", "ledger.sqlite-journal", "classes.json"):
        (run / name).touch()
    (run / ".partial").mkdir()
    (run / ".partial/.1.partial").touch()
    assert problems(run) == [
        ("stray", name)
        for name in ("labels/.hidden", "labels/.png", "labels/a/9.png", "labels/a/notes.txt", "list.csv", "old")
    ]


def test_images_that_lie_in_the_run_are_no_strays(settings: LabelSettings) -> None:
    """The images may lie in the run, the run in the folder of images, and both in one folder."""
    inside = settings.images.parent / "inside"
    shutil.copytree(settings.images, inside / "images")
    label(settings.model_copy(update={"images": inside / "images", "out": inside}))
    (inside / "elsewhere").touch()
    assert problems(inside) == [("stray", "elsewhere")]
    below = settings.images / "run"
    label(settings.model_copy(update={"out": below}))
    (below / "elsewhere").touch()
    assert problems(below) == [("stray", "elsewhere")]
    label(settings.model_copy(update={"out": settings.images}))
    (settings.images / "notes.txt").touch()
    assert problems(settings.images) == []


def test_second_labels_of_an_item_are_found(run: Path) -> None:
    """By their content whatever their name, and by a name that differs in case or suffix alone."""
    labels = run / "labels"
    (labels / "copy of 1.png").write_bytes((labels / "a/1.png").read_bytes())
    Image.new("L", (56, 40)).save(labels / "a/2.PNG")
    Image.new("L", (56, 40)).save(labels / "a/2.tif")
    (labels / "a/2.png.bak").write_text("older")
    Image.new("L", (56, 40)).save(labels / "B3.png")
    (labels / "B").mkdir()
    Image.new("L", (47, 33)).save(labels / "B/3.png")
    found = {problem.key: problem for problem in verify(run).problems}
    assert {key: problem.kind for key, problem in found.items()} == {
        "labels/copy of 1.png": "duplicate",
        "labels/a/2.PNG": "duplicate",
        "labels/a/2.tif": "duplicate",
        "labels/a/2.png.bak": "duplicate",
        "labels/B/3.png": "duplicate",
        "labels/B3.png": "stray",
    }
    assert found["labels/copy of 1.png"].reason.endswith("of a/1")
    assert found["labels/B/3.png"].reason.endswith("of b/3")


def test_what_a_killed_run_or_a_failed_item_left_behind_is_told_apart(settings: LabelSettings, run: Path) -> None:
    """A label made and not recorded, and the older label of an item that failed since, are strays and no damage."""
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.forget(["a/1"])
    (settings.images / "a/2.png").write_text("no image")
    label_of_1 = (run / "labels/a/1.png").read_bytes()
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.commit([Entry(key="a/2", status="failed", settings_digest="", reason="torn")])
    summary = verify(run)
    assert [(p.kind, p.key) for p in summary.problems] == [
        *(("failed", "a/2"), ("unfinished", "a/1")),
        *(("stray", "labels/a/1.png"), ("stray", "labels/a/2.png")),
    ]
    assert (summary.damaged, summary.left) == (0, 2)
    assert "not recorded" in summary.problems[2].reason
    assert "failed: torn" in summary.problems[3].reason
    repaired = verify(run, repair=True).repaired
    assert repaired is not None
    assert (repaired.removed, repaired.returned, repaired.kept) == (["labels/a/1.png"], [], [])
    assert (run / "labels/a/2.png").exists()
    label(settings)
    assert (run / "labels/a/1.png").read_bytes() == label_of_1


@pytest.fixture
def store(run: Path, schema: ClassSchema) -> SoftStore:
    """The run with confidence kept beside its labels: an ignored pixel is of a class it was not sure of."""
    form = StoreForm("confidence", 100, schema.names)
    workspace = Workspace(run)
    workspace.soft.mkdir()
    (workspace.soft / "zarr.json").write_bytes(form.group_metadata())
    store = SoftStore.find(workspace.soft)
    assert store is not None
    with Ledger(workspace.ledger) as ledger:
        ledger.give_slots(["a/1", "a/2", "b/3"])
        slots = ledger.slots()
    for key, slot in slots.items():
        values = read_label_values(workspace.label_path(key))
        ignored = values == IGNORE
        planes = np.stack([np.where(ignored, 1, values), np.where(ignored, 49, 50)]).astype(np.uint8)
        planes[1, ignored & (np.arange(values.shape[1]) % 2 == 0)] = NO_CONFIDENCE
        write_chunk(store, slot, planes)
    return store


def write_chunk(store: SoftStore, slot: int, planes: np.ndarray) -> None:
    """Write an item's chunk."""
    size = (planes.shape[1], planes.shape[2])
    store.array_path(size).mkdir(exist_ok=True)
    (store.array_path(size) / "zarr.json").write_bytes(store.form.array_metadata(size, 3))
    store.chunk_path(slot, size).write_bytes(store.form.encode(planes))


def test_a_sound_store_agrees_with_its_labels(run: Path, store: SoftStore) -> None:
    """Every label is what the kept confidence says at the run's threshold."""
    assert store.array_sizes() == ((33, 47), (40, 56))
    with Verification(run) as verification:
        assert [found.problem for found in verification] == [None] * 3
        assert verification.compares_store is True


def test_missing_and_damaged_chunks_are_found(run: Path, store: SoftStore) -> None:
    """A chunk that is gone, one cut off and one with a flipped byte."""
    first, second, third = store.chunk_path(0, (40, 56)), store.chunk_path(1, (40, 56)), store.chunk_path(2, (33, 47))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-9])
    flip(third, len(third.read_bytes()) // 2)
    assert problems(run) == [("chunk missing", "a/1"), ("chunk damaged", "a/2"), ("chunk damaged", "b/3")]


def test_illegal_planes_are_found(run: Path, store: SoftStore) -> None:
    """A class that is none, also where the pixel is ignored, and a code beyond the grid."""
    for slot, plane, value in ((0, 0, 3), (1, 1, 100)):
        planes = store.read(slot, (40, 56)).copy()
        planes[plane, 0, 0] = value
        write_chunk(store, slot, planes)
    assert problems(run) == [("illegal chunk", "a/1"), ("illegal chunk", "a/2")]


def test_a_store_that_disagrees_with_its_label_is_found(run: Path, store: SoftStore) -> None:
    """One pixel that the kept confidence decides otherwise."""
    planes = store.read(1, (40, 56)).copy()
    planes[1, 0, 0] = 0 if planes[1, 0, 0] == 50 else 99
    write_chunk(store, 1, planes)
    summary = verify(run)
    assert [(p.kind, p.key) for p in summary.problems] == [("store disagrees", "a/2")]
    assert summary.problems[0].reason.startswith("1 pixels")


def test_chunks_of_no_item_are_strays(run: Path, store: SoftStore) -> None:
    """Of a slot that nobody has, of an item of another size, and files that are no chunks."""
    chunk = store.chunk_path(0, (40, 56)).read_bytes()
    for path in (store.chunk_path(7, (40, 56)), store.chunk_path(2, (40, 56)), store.root / "notes"):
        path.write_bytes(chunk)
    assert problems(run) == [("stray", f"soft/{name}") for name in ("notes", "h40w56/c.2.0.0.0", "h40w56/c.7.0.0.0")]


def test_a_store_that_cannot_be_read_is_told_once(run: Path, store: SoftStore) -> None:
    """Not once an item; labels are checked all the same."""
    (store.root / "zarr.json").write_text("{}")
    assert problems(run) == [("chunk damaged", "soft/zarr.json")]
    (store.root / "zarr.json").unlink()
    assert problems(run) == [("chunk missing", "soft/zarr.json")]


def test_the_runs_own_thresholds_and_clean_up_are_applied(run: Path, store: SoftStore) -> None:
    """Classes have thresholds of their own, and small components become ignore, before labels are compared."""
    assert store.form.steps == 100
    for changes, disagreeing in (
        ({"threshold": 0.4}, 3),
        ({"threshold": 0.4, "class_thresholds": {"road": 0.5, "pole": 0.5, "sky": 0.5}}, 0),
        ({"threshold": 0.5, "class_thresholds": {"road": 0.9}}, 3),
        ({"class_thresholds": {}, "min_component": 1}, 0),
        ({"min_component": 100_000}, 3),
    ):
        change_settings(run, **changes)
        assert verify(run).kinds["store disagrees"] == verify(run).damaged == disagreeing, changes


def test_a_run_of_every_other_form_is_sound_and_repaired_as_it_was(settings: LabelSettings) -> None:
    """Source ids, a palette, kept runner-ups, thresholds of classes and a clean-up: made, damaged and made again."""
    other = settings.model_copy(
        update={
            "out": settings.out.parent / "other",
            "ids": "source",
            "palette": True,
            "keep": "top2",
            "class_thresholds": {"sky": 0.7},
            "min_component": 5,
        }
    )
    label(other)
    with Verification(other.out) as verification:
        assert [found.problem for found in verification] == [None] * 3
        assert verification.compares_store is True
    whole = {name: content for name, (content, _) in files(other.out).items() if name.startswith(("labels", "soft"))}
    assert len(whole) == 9
    for name in ("labels/a/1.png", "soft/h40w56/c.1.0.0.0"):
        flip(other.out / name, 150)
    assert verify(other.out, repair=True).kinds == {"undecodable": 1, "chunk damaged": 1}
    label(other)
    assert verify(other.out).kinds == {}
    after = {name: content for name, (content, _) in files(other.out).items() if name.startswith(("labels", "soft"))}
    assert after == whole


def test_thresholds_off_the_grid_are_not_compared(run: Path, store: SoftStore) -> None:
    """What the store cannot decide exactly says nothing of the label."""
    assert store.form.steps == 100
    change_settings(run, threshold=0.505)
    with Verification(run) as verification:
        assert verification.compares_store is False
        assert [found.problem for found in verification] == [None] * 3


def test_repair_then_label_gives_the_same_labels(settings: LabelSettings, run: Path) -> None:
    """What is damaged is made again, byte for byte; sound labels are not touched; then nothing is wrong."""
    whole = {name: content for name, (content, _) in files(run).items() if name.endswith(".png")}
    (run / "labels/a/1.png").unlink()
    flip(run / "labels/a/2.png", 100)
    record(run, "a/2")
    untouched = (run / "labels/b/3.png").stat()
    summary = verify(run, repair=True)
    assert summary.repaired is not None
    assert summary.repaired.returned == ["a/1", "a/2"]
    assert summary.beyond_repair == 0
    assert verify(run).kinds == {"unfinished": 2}
    label(settings)
    assert {name: content for name, (content, _) in files(run).items() if name.endswith(".png")} == whole
    assert (run / "labels/b/3.png").stat() == untouched
    assert verify(run).kinds == {}


def test_every_kind_of_damage_of_the_runs_own_is_returned_to_the_plan(settings: LabelSettings, run: Path) -> None:
    """Values, counts and hash that are wrong in a label that says it is the run's."""
    values = read_label_values(run / "labels/a/1.png").copy()
    values[0, 0] = 9
    rewrite(run, "a/1", values)
    rewrite(run, "a/2", read_label_values(run / "labels/a/2.png")[:-1])
    record(run, "b/3", settings_digest="another")
    assert verify(run, repair=True).beyond_repair == 0
    label(settings)
    assert verify(run).kinds == {}


def test_repair_deletes_the_chunk_with_its_label(run: Path, store: SoftStore) -> None:
    """Of the two that disagree neither is believed; the slot stays the item's."""
    planes = store.read(1, (40, 56)).copy()
    planes[1] = 99
    write_chunk(store, 1, planes)
    assert verify(run, repair=True).beyond_repair == 0
    assert not store.chunk_path(1, (40, 56)).exists()
    assert not (run / "labels/a/2.png").exists()
    assert store.chunk_path(0, (40, 56)).exists()
    assert verify(run).kinds == {"unfinished": 1}


def test_a_label_made_by_hand_is_never_deleted(run: Path) -> None:
    """It is damage that no repair ends; its entry stays, and so do files of other work."""
    path = run / "labels/a/1.png"
    Image.new("L", (56, 40)).save(path)
    by_hand = path.read_bytes()
    (run / "notes.txt").write_text("mine")
    (run / "labels/copy.png").write_bytes((run / "labels/a/2.png").read_bytes())
    summary = verify(run, repair=True)
    assert summary.repaired is not None
    assert [name for name, _ in summary.repaired.kept] == ["a/1", "labels/copy.png"]
    assert "move it away" in summary.repaired.kept[0][1]
    assert summary.beyond_repair == 2
    assert (run / "notes.txt").exists()
    assert path.read_bytes() == by_hand
    assert entry_of(run, "a/1").status == "done"
    assert (run / "labels/copy.png").exists()


def test_a_damaged_label_whose_image_is_gone_is_kept(settings: LabelSettings, run: Path) -> None:
    """Nothing could make it again, and a damaged label may be better than none; so too where no image is there."""
    (settings.images / "a/1.png").unlink()
    os.truncate(run / "labels/a/1.png", 100)
    summary = verify(run, repair=True)
    assert summary.repaired is not None
    assert [name for name, _ in summary.repaired.kept] == ["a/1"]
    settings.images.rename(settings.images.parent / "elsewhere")
    assert verify(run, repair=True).beyond_repair == 1
    assert (run / "labels/a/1.png").exists()
    assert entry_of(run, "a/1").status == "done"


def test_repair_refuses_a_run_at_work_and_verification_does_not(run: Path) -> None:
    """The lock is what a run has; without repair nothing is written, and nothing has to wait."""
    lock = Workspace(run).lock()
    try:
        with pytest.raises(WorkspaceError, match="in use"):
            Verification(run, repair=True)
        assert verify(run).kinds == {}
    finally:
        lock.release()
    assert verify(run, repair=True).kinds == {}


def test_a_run_at_work_can_record_while_it_is_verified(run: Path) -> None:
    """The ledger is not locked for as long as labels are checked."""
    with Verification(run, workers=1) as verification:
        stream = iter(verification)
        next(stream)
        connection = sqlite3.connect(run / "ledger.sqlite", timeout=0)
        with connection:
            connection.execute("DELETE FROM entries WHERE key = 'b/3'")
        connection.close()
        assert verification.summary.labels == 3


def test_a_damaged_ledger_is_an_error(run: Path) -> None:
    """Pages that SQLite finds broken, and an entry that cannot be read."""
    ledger = run / "ledger.sqlite"
    whole = ledger.read_bytes()
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE entries SET counts = 'torn' WHERE key = 'a/2'")
    connection.close()
    with pytest.raises(WorkspaceError, match="damaged"):
        Verification(run)
    ledger.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(WorkspaceError, match="ledger"):
        Verification(run)


def test_what_is_no_run_is_refused(tmp_path: Path, run: Path) -> None:
    """A folder without a ledger, and a number of threads that is none; the folder of labels stands for its run."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="no RUN"):
        Verification(tmp_path / "empty")
    with pytest.raises(SettingsError, match="at least 1"):
        Verification(run, workers=0)
    assert verify(run / "labels").items == 3
    assert not (tmp_path / "empty/ledger.sqlite").exists()


def test_stopping_early_leaves_no_threads_at_work(run: Path) -> None:
    """A consumer that goes away ends the verification."""
    with Verification(run, workers=2) as verification:
        for _ in verification:
            break
    assert verification.summary.checked == 1


@pytest.fixture
def merged(tmp_path: Path, run: Path, schema: ClassSchema) -> Path:
    """A merge of the run with a human's labels of two of its images and of one that it has not."""
    (tmp_path / "coarse/a").mkdir(parents=True)
    for name in ("a/1", "a/5"):
        Image.fromarray(np.full((40, 56), 2, np.uint8)).save(tmp_path / f"coarse/{name}.png")
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    settings = MergeSettings(
        coarse=tmp_path / "coarse", auto=run, classes=str(tmp_path / "classes.json"), out=tmp_path / "merged"
    )
    with MergeRun(settings) as merge_run:
        for _ in merge_run:
            pass
    return tmp_path / "merged"


def test_a_merged_run_is_verified_by_its_entries(merged: Path) -> None:
    """It has no images of its own; its labels answer for their parents."""
    with Verification(merged) as verification:
        assert [found.problem for found in verification] == [None] * 4
    assert verification.source.command == "merge"
    assert "no images of its own" in verification.source.absence


def test_merged_labels_of_other_settings_or_parents_are_foreign(merged: Path) -> None:
    """In the label's settings, in its parents, in the entry and in the note."""
    rewrite(merged, "a/1", settings="another")
    record(merged, "a/1")
    rewrite(merged, "a/2", auto_sha256="0" * 64)
    record(merged, "a/2")
    record(merged, "a/5", settings_digest="another")
    with sqlite3.connect(merged / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM notes WHERE key = 'b/3'")
    connection.close()
    assert problems(merged) == [("foreign settings", key) for key in ("a/1", "a/2", "a/5", "b/3")]


def test_many_problems_are_counted_and_the_first_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the damage."""
    monkeypatch.setattr("pipeline.verification.PROBLEMS_KEPT", 2)
    for path in (run / "labels").rglob("*.png"):
        os.truncate(path, 50)
    summary = verify(run)
    assert (summary.damaged, len(summary.problems), summary.kinds) == (3, 2, {"undecodable": 3})
