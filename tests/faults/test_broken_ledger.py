"""A ledger that is damaged or gone: it is said everywhere, and made anew from the labels without a label made twice."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline import rebuild_item
from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings
from pipeline.rebuild_ledger import LedgerRebuild, RebuildSummary
from pipeline.settings import LabelSettings
from pipeline.status import read_status
from pipeline.verification import Verification
from storage.errors import BrokenLedgerError, ForeignSettingsError, MissingFileError, SettingsError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_values, read_provenance
from storage.ledger import Entry, Ledger
from storage.shard import Shard
from storage.walk import walk_files
from storage.workspace import Workspace

IMAGES = {"a/1.png": (40, 56), "a/2.png": (40, 56), "b/3.jpg": (33, 47), "b/4.png": (40, 56)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images and the run lie that the first test makes and every test copies."""
    return tmp_path_factory.mktemp("labelled")


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], labelled: Path) -> LabelSettings:
    """A run with kept confidence, labelled to the end."""
    made = LabelSettings(
        images=tmp_path / "images",
        teacher=str(tiny_teacher),
        scales=(0.5, 1.0),
        device="cpu",
        keep="confidence",
        out=tmp_path / "run",
    )
    if not (labelled / "run").exists():
        for number, (name, size) in enumerate(IMAGES.items()):
            make_image(labelled / "images" / name, size, number)
        label(made.model_copy(update={"images": labelled / "images", "out": labelled / "run"}))
    for folder in ("images", "run"):
        shutil.copytree(labelled / folder, tmp_path / folder)
    made.write(made.out / "settings.toml", "label")
    return made


def label(settings: LabelSettings) -> tuple[int, int, int]:
    """Label to the end; how many were labelled, skipped, and failed."""
    with LabelRun(settings) as run:
        list(run)
        return run.summary.labelled, run.summary.skipped, run.summary.failed


def rebuild(run: Path) -> RebuildSummary:
    """Make a ledger anew."""
    with LedgerRebuild(run, workers=2) as work:
        assert len(list(work)) == work.summary.files
        return work.summary


def problems(run: Path) -> list[tuple[str, str]]:
    """What a verification finds: kind and key."""
    with Verification(run, workers=2) as verification:
        list(verification)
        return [(problem.kind, problem.key) for problem in verification.summary.problems]


def rows(run: Path) -> tuple[dict[str, Entry], dict[str, int], object]:
    """What a ledger holds, but for the time that the network took, which no label tells."""
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        return {entry.key: replace(entry, seconds=0) for entry in ledger}, ledger.slots(), ledger.settings


def _change(ledger: Path, change: Callable[[bytes], bytes]) -> None:
    ledger.write_bytes(change(ledger.read_bytes()))


BREAK: dict[str, Callable[[Path], None]] = {
    "cut off": lambda ledger: _change(ledger, lambda whole: whole[: len(whole) // 2]),
    "empty": lambda ledger: _change(ledger, lambda _: b""),
    "middle pages": lambda ledger: _change(
        ledger, lambda whole: whole[:4096] + b"\xa5" * (len(whole) - 8192) + whole[-4096:]
    ),
    "no database": lambda ledger: _change(ledger, lambda whole: b"not this " * (len(whole) // 9)),
    "gone": lambda ledger: ledger.unlink(),
}


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.parametrize("kind", BREAK)
def test_a_ledger_is_made_anew_and_no_label_is_made_twice(settings: LabelSettings, kind: str) -> None:
    """Its rows are those that it had, the same command finds nothing to do, and a verification finds nothing."""
    run = settings.out
    before, ledger = rows(run), run / "ledger.sqlite"
    files = {path: path.stat().st_mtime_ns for path in [*run.rglob("*.png"), *run.rglob("c.*")]}
    BREAK[kind](ledger)
    broken = ledger.read_bytes() if ledger.exists() else None
    summary = rebuild(run)
    assert (summary.recorded, summary.left_out, summary.left, summary.slots) == (4, 0, 0, 4)
    assert rows(run) == before
    assert (summary.aside is None) == (broken is None)
    assert summary.aside is None or summary.aside.read_bytes() == broken
    assert problems(run) == []
    status = read_status(Workspace(run))
    assert (status.done, status.left, status.total) == (4, 0, 4)
    if kind in ("middle pages", "gone"):
        assert label(settings) == (0, 4, 0)
    assert files == {path: path.stat().st_mtime_ns for path in [*run.rglob("*.png"), *run.rglob("c.*")]}


@pytest.mark.parametrize("kind", BREAK)
def test_every_command_says_how_the_ledger_is_made_anew(settings: LabelSettings, kind: str) -> None:
    """With the command to give, and without a traceback; the same `label` makes no label anew."""
    run, other = settings.out, settings.out.with_name("other")
    BREAK[kind](run / "ledger.sqlite")
    advice = f"`autocoarse verify {run} --rebuild`"
    for command in (
        ("verify", run),
        ("verify", run, "--repair"),
        ("status", run),
        ("report", run),
        ("audit", run, "--coarse", run / "labels"),
        ("rethreshold", run, "--threshold", "0.9", "--out", other),
        ("gather", run, "--out", other),
        ("export", run, "--images", settings.images, "--to", "coco", "--select", "all", "--out", other),
        ("merge", "--coarse", run, "--auto", run, "--classes", run / "classes.json", "--out", other),
    ):
        result = invoke(*command)
        assert (result.exit_code, advice in result.stderr) == (1, True), (command, result.output)
    result = invoke("budget", run)
    assert (result.exit_code, advice in result.output) == (0, True), result.output
    with pytest.raises(BrokenLedgerError, match="--rebuild"):
        label(settings)


def test_the_command_says_what_it_has_done_and_what_is_next(settings: LabelSettings) -> None:
    """Also where labels are left out, of which it is exit code 3, and where there is nothing to do."""
    run = settings.out
    assert "is sound, and stays" in invoke("verify", run, "--rebuild").stderr
    assert invoke("verify", run, "--rebuild", "--repair").exit_code == 2
    (run / "ledger.sqlite").write_bytes(b"x" * 5000)
    result = invoke("verify", run, "--rebuild")
    assert result.exit_code == 0, result.output
    assert "recorded 4 labels as this run's, left out 0" in result.stdout
    assert f"kept as {run / 'ledger-damaged.sqlite'}" in result.stdout
    assert f"next: autocoarse verify {run}" in result.stdout
    (run / "ledger.sqlite").write_bytes(b"y" * 5000)
    (run / "labels/a/2.png").write_bytes(b"")
    result = invoke("verify", run / "labels", "--rebuild")
    assert result.exit_code == 3, result.output
    assert "left out: a/2: the label is no PNG file" in result.stdout
    assert f"next: autocoarse label --settings {run / 'settings.toml'}" in result.stdout
    assert (run / "ledger-damaged.sqlite").read_bytes() == b"x" * 5000
    assert (run / "ledger-damaged-2.sqlite").read_bytes() == b"y" * 5000


def test_only_what_proves_to_be_the_runs_own_is_taken(settings: LabelSettings) -> None:
    """A label by hand and one of other settings stay and are nobody's; a torn one alone is made again."""
    run = settings.out
    whole, hand = (run / "labels/b/4.png").read_bytes(), run / "labels/a/1.png"
    Image.new("L", (56, 40)).save(hand)
    foreign, provenance = run / "labels/a/2.png", read_provenance(run / "labels/a/2.png")
    pixels = LabelMap(read_label_values(foreign), 3)
    foreign.write_bytes(encode_label_png(pixels, provenance | {"settings": "0123456789abcdef"}))
    (run / "labels/b/4.png").write_bytes(whole[:-20])
    content = hand.read_bytes(), foreign.read_bytes()
    (run / "ledger.sqlite").unlink()
    summary = rebuild(run)
    kinds = {problem.key: problem.kind for problem in summary.problems}
    assert kinds == {"a/1": "foreign settings", "a/2": "foreign settings", "b/4": "undecodable"}
    assert (summary.recorded, summary.left, summary.slots) == (1, 3, 1)
    assert label(settings) == (1, 1, 2)
    assert (hand.read_bytes(), foreign.read_bytes()) == content
    assert (run / "labels/b/4.png").read_bytes() == whole


def test_a_label_says_which_image_it_is_of(settings: LabelSettings) -> None:
    """Without a ledger, too, a copied image, which is newer, is the same; a replaced one is not, though it is older."""
    run, images = settings.out, settings.images
    later = (run / "labels/a/1.png").stat().st_mtime_ns + 10**9
    os.utime(images / "a/1.png", ns=(later, later))
    (images / "a/2.png").write_bytes((images / "b/4.png").read_bytes())
    os.utime(images / "a/2.png", ns=(10**9, 10**9))
    (run / "ledger.sqlite").unlink()
    (problem,) = rebuild(run).problems
    assert (problem.key, problem.kind) == ("a/2", "unfinished")
    assert "not the one that the label says" in problem.reason
    assert label(settings) == (1, 3, 0)


def test_a_label_of_another_size_or_older_than_its_image_is_not_taken(settings: LabelSettings) -> None:
    """What one was made from that does not say it is not known then, and the next run makes it again."""
    run, images = settings.out, settings.images
    older = run / "labels/a/1.png"
    provenance = {name: said for name, said in read_provenance(older).items() if name != "image_sha256"}
    older.write_bytes(encode_label_png(LabelMap(read_label_values(older), 3), provenance))
    shutil.copy(run / "labels/b/3.png", run / "labels/b/4.png")
    later = (run / "labels/a/1.png").stat().st_mtime_ns + 10**9
    os.utime(images / "a/1.png", ns=(later, later))
    (run / "ledger.sqlite").unlink()
    summary = rebuild(run)
    assert {p.key: p.kind for p in summary.problems} == {"a/1": "unfinished", "b/4": "wrong size"}
    assert label(settings) == (2, 2, 0)
    # what was kept of the labels that were not taken is nobody's now; a repair deletes it
    assert {(kind, name.partition("/")[0]) for kind, name in problems(run)} == {("stray", "soft")}


def test_what_is_left_of_a_damaged_ledger_tells_which_image_a_label_is_of(settings: LabelSettings) -> None:
    """A copied image, which is newer, is the same; a replaced one is not, though it is older."""
    run, images = settings.out, settings.images
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute("UPDATE entries SET counts = 'torn' WHERE key = 'b/4'")
    connection.close()
    now = (run / "labels/a/1.png").stat().st_mtime_ns + 10**9
    os.utime(images / "a/1.png", ns=(now, now))
    (images / "a/2.png").write_bytes((images / "b/4.png").read_bytes())
    os.utime(images / "a/2.png", ns=(10**9, 10**9))
    summary = rebuild(run)
    assert [problem.key for problem in summary.problems] == ["a/2"]
    assert label(settings) == (1, 3, 0)


def test_labels_without_an_image_are_kept_and_copies_are_not(settings: LabelSettings) -> None:
    """As in an undisturbed run; if the image comes back its label is made again."""
    run, images = settings.out, settings.images
    (images / "a/1.png").rename(images.with_name("away.png"))
    shutil.copy(run / "labels/a/2.png", run / "labels/a/copy.png")
    (run / "ledger.sqlite").unlink()
    summary = rebuild(run)
    assert (summary.recorded, summary.without_image, summary.left) == (4, 1, 0)
    assert [(problem.kind, problem.key) for problem in summary.problems] == [("duplicate", "a/copy")]
    assert problems(run) == [("duplicate", "labels/a/copy.png"), ("orphan", "a/1")]
    images.with_name("away.png").rename(images / "a/1.png")
    assert label(settings) == (1, 3, 0)


def test_a_rebuilding_that_is_stopped_goes_on(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old ledger stays until the new one is complete; what was looked at is not read again."""
    run = settings.out
    before = rows(run)
    (run / "ledger.sqlite").write_bytes(b"no ledger")
    read, looked = rebuild_item.read_label_file, []
    monkeypatch.setattr(rebuild_item, "read_label_file", lambda path: looked.append(path) or read(path))
    with LedgerRebuild(run, workers=1) as work:
        monkeypatch.setattr("pipeline.threads._GROUP_ITEMS", 1)
        entries = iter(work)
        next(entries)
        entries.close()  # type: ignore[attr-defined] # a generator
    assert (run / "ledger.sqlite").read_bytes() == b"no ledger"
    with Ledger(run / "ledger-rebuilt.sqlite") as made:
        done = len(made.done_keys())
    assert done
    looked.clear()
    assert rebuild(run).recorded == 4
    assert len(looked) == 4 - done
    assert rows(run) == before
    assert not (run / "ledger-rebuilt.sqlite").exists()
    assert problems(run) == []


def test_what_was_replaced_while_a_rebuilding_was_stopped_is_not_in_the_new_ledger(
    settings: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that the stopped call has taken, and that is a human's by now, has neither an entry nor confidence."""
    run = settings.out
    (run / "ledger.sqlite").unlink()
    with LedgerRebuild(run, workers=1) as work:
        monkeypatch.setattr(work, "_put_in_place", lambda: None)
        monkeypatch.setattr("pipeline.rebuild_ledger.record_plan", lambda *_, **__: None)
        monkeypatch.setattr(Ledger, "forget_notes", lambda _: None)
        list(work)
    monkeypatch.undo()
    Image.new("L", (56, 40)).save(run / "labels/a/1.png")
    summary = rebuild(run)
    assert (summary.recorded, summary.left_out, summary.slots) == (3, 1, 3)
    entries, slots, _ = rows(run)
    assert "a/1" not in entries.keys() | slots.keys()


def test_a_journal_without_its_ledger_does_not_spoil_the_new_one(settings: LabelSettings) -> None:
    """SQLite would play it back into whatever has the ledger's name."""
    run = settings.out
    before = rows(run)
    (run / "ledger.sqlite-journal").write_bytes(os.urandom(5000))
    (run / "ledger.sqlite").unlink()
    rebuild(run)
    assert rows(run) == before
    assert (run / "ledger-damaged.sqlite-journal").stat().st_size == 5000
    assert problems(run) == []


def test_confidence_is_given_back_only_where_its_label_tells_whose_it_is(settings: LabelSettings) -> None:
    """Labels of the same pixels are made again, unless what is kept of them is the same as well."""
    run = settings.out
    settings = settings.model_copy(update={"threshold": 0.99, "temperature": 10.0, "out": run.with_name("ignored")})
    label(settings)  # nothing is as sure as that, so that all labels of a size are the same
    settings.write(settings.out / "settings.toml", "label")
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        assert {entry.ignored for entry in ledger} == {40 * 56, 33 * 47}
    (settings.out / "ledger.sqlite").unlink()
    summary = rebuild(settings.out)
    assert (summary.recorded, summary.slots, summary.without_confidence) == (4, 1, 3)
    shutil.copytree(settings.out, run.with_name("alike"))
    assert label(settings) == (3, 1, 0)
    alike = settings.model_copy(update={"out": run.with_name("alike")})
    alike.write(alike.out / "settings.toml", "label")
    (alike.out / "ledger.sqlite").unlink()
    chunks = sorted(alike.out.glob("soft/h40w56/c.*"))
    for chunk in chunks[1:]:
        chunk.write_bytes(chunks[0].read_bytes())
    assert rebuild(alike.out).slots == 4
    assert label(alike) == (0, 4, 0)


def test_without_a_proof_of_the_settings_nothing_is_written(settings: LabelSettings, tiny_teacher: Path) -> None:
    """Another teacher, none, or no images: it is said what must be brought back, and the ledger stays."""
    run = settings.out
    (run / "ledger.sqlite").write_bytes(b"no ledger")
    replace_threshold = settings.model_copy(update={"threshold": 0.25})
    replace_threshold.write(run / "settings.toml", "label")
    with pytest.raises(ForeignSettingsError, match="Bring back the settings and the teacher"):
        LedgerRebuild(run)
    settings.write(run / "settings.toml", "label")
    tiny_teacher.rename(tiny_teacher.with_name("away.pt"))
    with pytest.raises(WorkspaceError, match="told by the teacher"):
        LedgerRebuild(run)
    settings.images.rename(settings.images.with_name("elsewhere"))
    with pytest.raises(MissingFileError, match="bring these back"):
        LedgerRebuild(run)
    assert (run / "ledger.sqlite").read_bytes() == b"no ledger"
    assert not (run / "ledger-rebuilt.sqlite").exists()
    (run / "settings.toml").unlink()
    with pytest.raises(MissingFileError, match=r"no labels and settings\.toml"):
        LedgerRebuild(run)


def test_labels_of_another_shard_are_not_taken(settings: LabelSettings) -> None:
    """A shard's ledger has the items of its shard alone."""
    run, shard = settings.out, Shard(1, 2)
    settings.model_copy(update={"shard": shard}).write(run / "settings.toml", "label")
    (run / "ledger.sqlite").unlink()
    summary = rebuild(run)
    keys = {key for key in (name.partition(".")[0] for name in IMAGES) if shard.holds(key)}
    assert rows(run)[0].keys() == keys
    assert {problem.key for problem in summary.problems if problem.kind == "stray"} == {
        name.partition(".")[0] for name in IMAGES
    } - keys
    assert summary.images == len(keys)


def test_a_merging_run_is_told_how_it_is_made_again(settings: LabelSettings) -> None:
    """What its ledger knows of the parents no label tells, and merging takes little time."""
    out = settings.out.with_name("merged")
    merge = MergeSettings(coarse=settings.out, auto=settings.out, classes=str(settings.out / "classes.json"), out=out)
    with MergeRun(merge) as run:
        list(run)
    (out / "ledger.sqlite").unlink()
    with pytest.raises(BrokenLedgerError, match="--rebuild"):
        MergeRun(merge)
    with pytest.raises(SettingsError, match="autocoarse merge --settings"):
        LedgerRebuild(out)
    (out / "labels").rename(out.with_name("away"))
    with MergeRun(merge) as run:
        list(run)
        assert run.summary.merged == 4


def test_labels_of_a_run_without_a_ledger_are_no_images(settings: LabelSettings) -> None:
    """A run among images is left out of their listing, whatever has become of its ledger."""
    shutil.copytree(settings.out, settings.images / "run")
    (settings.images / "run/ledger.sqlite").unlink()
    assert sorted(file.relative for file in walk_files(settings.images)) == sorted(IMAGES)
