"""Labelling: each image accounted for once, resumed by proof, and never over other work."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.labelling import LabelRun, LabelSummary
from pipeline.settings import LabelSettings
from storage.budget import measure_bytes
from storage.errors import BudgetError, ForeignSettingsError, SettingsError, WorkspaceError
from storage.label_png import read_label_png, read_provenance
from storage.layouts import list_labels
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.schema import ClassSchema
from teacher import Teacher, load_teacher


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Three images in two folders, two of one size."""
    for number, (name, size) in enumerate({"a/1.png": (40, 56), "a/2.png": (40, 56), "b/3.jpg": (33, 47)}.items()):
        make_image(tmp_path / "images" / name, size, number)
    return LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(0.5, 1.0), device="cpu", out=tmp_path / "run"
    )


def run(settings: LabelSettings, **changes: object) -> LabelSummary:
    """Label to the end and return the counts."""
    with LabelRun(settings.model_copy(update=changes)) as label_run:
        for _ in label_run:
            pass
        return label_run.summary


def labels(out: Path) -> dict[str, bytes]:
    """Content of all label files, by their path."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in (out / "labels").rglob("*") if p.is_file()}


def test_labels_mirror_the_images_and_hold_what_the_teacher_decides(
    settings: LabelSettings, schema: ClassSchema
) -> None:
    """Each image's label has its path, its size and the teacher's decision at the threshold."""
    summary = run(settings)
    assert (summary.total, summary.labelled, summary.skipped, summary.failed) == (3, 3, 0, 0)
    assert sorted(labels(settings.out)) == ["labels/a/1.png", "labels/a/2.png", "labels/b/3.png"]
    image = np.array(Image.open(settings.images / "b/3.jpg"))
    expected = load_teacher(settings.teacher).label([image], (0.5, 1.0), 0.5)[0]
    got = read_label_png(settings.out / "labels/b/3.png", schema)
    np.testing.assert_array_equal(got.values, expected)
    assert len(np.unique(expected)) == 4, "the fixture must give every class and ignore"
    assert summary.bytes == sum(map(len, labels(settings.out).values()))
    assert 0 < summary.ignore_fraction < 1


def test_a_label_says_what_it_was_made_with(settings: LabelSettings) -> None:
    """Provenance sits in the file: settings, teacher, classes, threshold, version, and its image's hash."""
    run(settings, threshold=0.75)
    provenance = read_provenance(settings.out / "labels/a/1.png")
    assert provenance["threshold"] == 0.75
    assert provenance["teacher"] == load_teacher(settings.teacher).digest
    assert provenance["image_sha256"] == file_digest(settings.images / "a/1.png")
    assert set(provenance) == {"settings", "teacher", "classes", "threshold", "version", "image_sha256"}


def test_a_second_run_does_nothing(settings: LabelSettings) -> None:
    """What is done stays as it is, files and times."""
    run(settings)
    before = {p: p.stat().st_mtime_ns for p in (settings.out / "labels").rglob("*.png")}
    summary = run(settings)
    assert (summary.labelled, summary.skipped) == (0, 3)
    assert {p: p.stat().st_mtime_ns for p in (settings.out / "labels").rglob("*.png")} == before


def test_missing_damaged_and_outdated_labels_are_made_again(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """An entry counts only if its file agrees and its image is the same."""
    run(settings)
    whole = labels(settings.out)
    (settings.out / "labels/a/1.png").unlink()
    (settings.out / "labels/a/2.png").write_bytes(whole["labels/a/2.png"][:-20])
    summary = run(settings)
    assert (summary.labelled, summary.skipped) == (2, 1)
    assert labels(settings.out) == whole
    make_image(settings.images / "b/3.jpg", (33, 48), 9)
    assert run(settings).labelled == 1


def test_an_image_replaced_by_one_of_its_size_is_labelled_again(settings: LabelSettings) -> None:
    """Bitmaps are of one size whatever they show; an image that was only copied anew is not labelled again."""
    path = settings.images / "a/4.bmp"
    for shade, labelled in ((0, 4), (99, 1)):
        Image.new("RGB", (56, 40), (shade, 0, 0)).save(path)
        os.utime(path, ns=(shade, shade))
        assert run(settings).labelled == labelled
    path.touch()
    assert run(settings).labelled == 0


def test_a_label_made_by_hand_is_never_replaced(settings: LabelSettings) -> None:
    """A PNG of anybody's in a label's place stays as it is; its image is a failed item with the reason."""
    run(settings)
    path = settings.out / "labels/a/1.png"
    for mode in ("L", "RGB"):
        Image.new(mode, (56, 40)).save(path)
        by_hand = path.read_bytes()
        with LabelRun(settings) as label_run:
            (failed,) = label_run
        assert (label_run.summary.total, label_run.summary.skipped, label_run.summary.failed) == (3, 2, 1)
        assert path.read_bytes() == by_hand
        assert failed.key == "a/1"
        assert f"{path} was not made by this run; move it away" in failed.reason
    path.unlink()
    assert run(settings).labelled == 1


def test_a_label_of_our_own_that_no_entry_speaks_of_is_made_again(settings: LabelSettings) -> None:
    """A kill between label and ledger leaves a label whose provenance says that it is this run's."""
    run(settings)
    whole = labels(settings.out)
    with Ledger(settings.out / "ledger.sqlite") as ledger:
        ledger.commit([Entry(key="a/1", status="failed", settings_digest="", reason="as if it had not been committed")])
    summary = run(settings)
    assert (summary.labelled, summary.skipped, summary.failed) == (1, 2, 0)
    assert labels(settings.out) == whole


def test_what_cannot_be_written_to_costs_its_image_alone(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """A link that leads out of the labels and a folder in a label's place are failed items; the rest is labelled."""
    elsewhere = settings.out.parent / "elsewhere"
    elsewhere.mkdir()
    make_image(settings.images / "c/5.png", (40, 56), 5)
    (settings.out / "labels/c/5.png").mkdir(parents=True)
    (settings.out / "labels/b").symlink_to(elsewhere)
    Ledger(settings.out / "ledger.sqlite").__exit__(None, None, None)
    with LabelRun(settings) as label_run:
        failed = {e.key: e.reason for e in label_run if e.status == "failed"}
    assert failed.keys() == {"b/3", "c/5"}
    assert "leads out" in failed["b/3"]
    assert "cannot be read" in failed["c/5"]
    assert (label_run.summary.labelled, list(elsewhere.iterdir())) == (2, [])


def test_an_image_that_goes_away_is_one_failed_item(settings: LabelSettings) -> None:
    """A link that leads nowhere, also in the place of an image that was labelled, fails alone."""
    run(settings)
    (settings.images / "a/1.png").unlink()
    (settings.images / "a/1.png").symlink_to("gone.png")
    summary = run(settings)
    assert (summary.total, summary.skipped, summary.failed) == (3, 2, 1)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has UTF-8 names only")
def test_a_name_that_is_not_utf8_is_one_failed_item(settings: LabelSettings) -> None:
    """It cannot be a key of the ledger; the image fails with an escaped name, the others are labelled."""
    (settings.images / os.fsdecode(b"caf\xe9.png")).write_bytes((settings.images / "a/1.png").read_bytes())
    summary = run(settings)
    assert (summary.labelled, summary.failed) == (3, 1)
    assert "rename it" in (settings.out / "failed.txt").read_text("utf-8")


def test_the_label_of_an_item_that_failed_later_is_not_used(settings: LabelSettings) -> None:
    """Once an image was replaced by one that cannot be read, its old label is none of the run's labels."""
    run(settings)
    (settings.images / "a/1.png").write_text("no image")
    run(settings)
    assert (settings.out / "labels/a/1.png").exists()
    assert sorted(list_labels(settings.out)) == ["a/2", "b/3"]


def test_failures_are_listed_in_a_file_as_long_as_there_are_any(settings: LabelSettings) -> None:
    """One reason a line, also of images refused; a failure whose image is gone is forgotten; none, no file."""
    failed = settings.out / "failed.txt"
    run(settings)
    assert not failed.exists()
    (settings.images / "text.png").write_text("no image")
    (settings.images / "a/1.jpg").write_text("a second image of this name")
    run(settings)
    lines = failed.read_text("utf-8").splitlines()
    assert len(lines) == 3
    assert sum("rename all but one" in line for line in lines) == 2
    (settings.images / "a/1.jpg").unlink()
    run(settings)
    assert len(failed.read_text("utf-8").splitlines()) == 1
    (settings.images / "text.png").unlink()
    run(settings)
    assert not failed.exists()
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        assert [e.status for e in ledger] == ["done"] * 3


def test_of_a_schema_the_class_names_alone_decide(settings: LabelSettings) -> None:
    """A teacher whose classes go by another schema's name goes on where the run was; other class names are refused."""
    run(settings)
    other = settings.out.parent / "other.pt"
    content = torch.load(settings.teacher, weights_only=True)
    content["schema"]["name"] = "other"
    torch.save(content, other)
    assert run(settings, teacher=str(other)).skipped == 3
    content["schema"]["classes"][0]["name"] = "my road"
    torch.save(content, other)
    with pytest.raises(ForeignSettingsError, match=r"classes: .*'road'.* -> .*'my road'"):
        run(settings, teacher=str(other))


def test_other_settings_are_refused_with_what_differs(settings: LabelSettings) -> None:
    """A folder of labels at 0.5 is not continued at 0.9; the message shows both."""
    run(settings)
    with pytest.raises(ForeignSettingsError, match=r"threshold: 0\.5 -> 0\.9"):
        LabelRun(settings.model_copy(update={"threshold": 0.9}))


@pytest.mark.parametrize("notes", [None, "notes.txt"])
@pytest.mark.parametrize("change", [{"gate": ("precision[car]>=0.9",)}, {"class_thresholds": {"car": 0.9}}], ids=str)
def test_what_is_refused_before_any_work_leaves_nothing_behind(
    settings: LabelSettings, change: dict[str, object], notes: str | None
) -> None:
    """No empty ledger passes for a run: a new folder is gone, and one that was there has what it had."""
    if notes is not None:
        settings.out.mkdir()
        (settings.out / notes).write_text("mine")
    change = {"coarse": settings.images, **change}
    with pytest.raises(SettingsError, match="car"):
        LabelRun(settings.model_copy(update=change))
    left = {path.name for path in settings.out.iterdir() if path.name != ".lock"} if settings.out.exists() else None
    assert left == (None if notes is None else {notes})
    assert run(settings).labelled == 3


def test_what_is_refused_leaves_a_run_as_it_was(settings: LabelSettings) -> None:
    """The ledger of a run that is there stays, whatever is refused in its folder."""
    run(settings)
    before = (settings.out / "ledger.sqlite").read_bytes()
    with pytest.raises(SettingsError, match="car"):
        LabelRun(settings.model_copy(update={"class_thresholds": {"car": 0.9}}))
    assert (settings.out / "ledger.sqlite").read_bytes() == before
    assert run(settings).skipped == 3


def test_settings_that_change_no_pixel_are_not_compared(settings: LabelSettings) -> None:
    """Batch size and the order of scales may change between runs."""
    run(settings)
    other = LabelSettings.checked(**{**settings.model_dump(), "batch": 2, "scales": (1.0, 0.5)})
    assert run(other).skipped == 3


def test_batches_give_the_same_labels(settings: LabelSettings) -> None:
    """Images labelled together get the labels they get alone."""
    run(settings)
    run(settings, batch=2, out=settings.out.parent / "batched")
    assert labels(settings.out) == labels(settings.out.parent / "batched")


def test_one_bad_image_is_one_failed_item_and_is_tried_again(settings: LabelSettings) -> None:
    """A truncated image fails alone; once it is whole, the next run labels it."""
    bad = settings.images / "b/3.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    summary = run(settings, batch=2)
    assert (summary.labelled, summary.failed) == (2, 1)
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        entry = ledger.get("b/3")
    assert entry is not None
    assert entry.status == "failed"
    assert str(bad) in entry.reason
    bad.write_bytes(whole)
    summary = run(settings)
    assert (summary.labelled, summary.skipped, summary.failed) == (1, 2, 0)


def test_images_that_share_a_label_fail_and_none_is_guessed(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """Two images of one stem are two failed items; the others are labelled."""
    make_image(settings.images / "a/1.jpg", (40, 56), 5)
    summary = run(settings)
    assert (summary.total, summary.labelled, summary.failed) == (4, 2, 2)
    assert not (settings.out / "labels/a/1.png").exists()


def test_an_image_that_the_network_fails_on_costs_itself_alone(
    settings: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the device inside a batch is narrowed down to its image."""
    poison = np.array(Image.open(settings.images / "a/2.png"))
    real = Teacher.decide

    def decide(self: Teacher, images: list[object], *args: object, **kwargs: object) -> object:
        if any(np.array_equal(i, poison) for i in images):
            raise RuntimeError("out of memory")
        return real(self, images, *args, **kwargs)  # type: ignore[arg-type] # passed through as they came

    monkeypatch.setattr(Teacher, "decide", decide)
    summary = run(settings, batch=2)
    assert (summary.labelled, summary.failed) == (2, 1)


def test_labels_that_no_ledger_speaks_of_are_never_written_over(settings: LabelSettings) -> None:
    """A folder of somebody's labels is refused as output folder, and left as it is."""
    human = settings.out / "labels/a/1.png"
    human.parent.mkdir(parents=True)
    human.write_bytes(b"hours of work")
    with pytest.raises(ForeignSettingsError, match="choose another --out"):
        LabelRun(settings)
    assert human.read_bytes() == b"hours of work"


def test_an_output_folder_among_the_images_is_not_labelled(settings: LabelSettings) -> None:
    """Labels that lie below the image folder are no images of the next run."""
    inside = settings.images / "run"
    run(settings, out=inside)
    assert run(settings, out=inside).total == 3
    run(settings, out=settings.images)
    assert run(settings, out=settings.images, images=settings.images / "a").total == 2


def test_what_was_made_before_a_full_disk_is_kept(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails ends the run; labels made before it are recorded, and the next run does the rest."""
    real_replace = os.replace
    room = [True, True]  # of two threads that ask at once each takes its own

    def replace(self: Path, target: Path) -> None:
        if target.suffix == ".png":
            try:
                room.pop()
            except IndexError as error:
                raise OSError(28, "No space left on device") from error
        real_replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(WorkspaceError, match="No space left"):
            run(settings)
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        assert sum(e.status == "done" for e in ledger) == 2
    assert not (settings.out / ".partial").exists()
    summary = run(settings)
    assert (summary.labelled, summary.skipped) == (1, 2)


def test_leaving_in_the_middle_records_what_was_made(settings: LabelSettings) -> None:
    """A consumer that stops early, as Ctrl-C does, loses no finished label."""
    with LabelRun(settings) as label_run:
        for _ in label_run:
            break
    on_disk = len(labels(settings.out))
    assert run(settings).skipped == on_disk


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": 1.0}, "threshold"),
        ({"scales": (0.5, 2.0)}, r"1\.0 must be among"),
        ({"scales": (1.0, 1.0)}, "only once"),
        ({"batch": 0}, "batch"),
        ({"colour": 1}, "colour"),
    ],
)
def test_settings_out_of_range_are_named(settings: LabelSettings, changes: dict[str, object], says: str) -> None:
    """Each bad setting is named in the error."""
    with pytest.raises(SettingsError, match=says):
        LabelSettings.checked(**{**settings.model_dump(), **changes})


def test_a_finished_run_is_done_whatever_the_budget(settings: LabelSettings) -> None:
    """Nothing is to be written, so nothing is refused; with an image more it is."""
    run(settings)
    assert run(settings, budget=1000).skipped == 3
    Image.new("RGB", (56, 40)).save(settings.images / "a/4.png")
    with pytest.raises(BudgetError, match="larger --budget"):
        run(settings, budget=1000)


def test_chunks_that_are_made_again_are_credited(settings: LabelSettings, make_image: Callable[..., object]) -> None:
    """What is thrown away gives its room back: the account is what lies on the disk."""
    settings = settings.model_copy(update={"keep": "confidence"})
    run(settings)
    for name, size in {"a/1.png": (40, 56), "a/2.png": (40, 56), "b/3.jpg": (33, 47)}.items():
        make_image(settings.images / name, size, 70)
    with LabelRun(settings) as label_run:
        assert len(list(label_run)) == 3
        assert label_run.used_bytes == measure_bytes(settings.out).total_bytes
