"""Labelling: each image accounted for once, resumed by proof, and never over other work."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.labelling import LabelRun, LabelSummary
from pipeline.settings import LabelSettings
from storage.errors import ForeignSettingsError, SettingsError, WorkspaceError
from storage.label_png import read_label_png, read_provenance
from storage.ledger import Ledger
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
    """Provenance sits in the file: settings, teacher, classes, threshold, version."""
    run(settings, threshold=0.75)
    provenance = read_provenance(settings.out / "labels/a/1.png")
    assert provenance["threshold"] == 0.75
    assert provenance["teacher"] == load_teacher(settings.teacher).digest
    assert set(provenance) == {"settings", "teacher", "classes", "threshold", "version"}


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


def test_other_settings_are_refused_with_what_differs(settings: LabelSettings) -> None:
    """A folder of labels at 0.5 is not continued at 0.9; the message shows both."""
    run(settings)
    with pytest.raises(ForeignSettingsError, match=r"threshold: 0\.5 -> 0\.9"):
        LabelRun(settings.model_copy(update={"threshold": 0.9}))


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
    real = Teacher.label

    def label(self: Teacher, images: list[object], *args: object, **kwargs: object) -> object:
        if any(np.array_equal(i, poison) for i in images):
            raise RuntimeError("out of memory")
        return real(self, images, *args, **kwargs)  # type: ignore[arg-type] # passed through as they came

    monkeypatch.setattr(Teacher, "label", label)
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
    published: list[str] = []

    def replace(self: Path, target: Path) -> None:
        if target.suffix == ".png":
            if len(published) == 2:
                raise OSError(28, "No space left on device")
            published.append(target.name)
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
        ({"scales": (0.5, 2.0)}, r"must contain 1\.0"),
        ({"scales": (1.0, 1.0)}, "each once"),
        ({"batch": 0}, "batch"),
        ({"colour": 1}, "colour"),
    ],
)
def test_settings_out_of_range_are_named(settings: LabelSettings, changes: dict[str, object], says: str) -> None:
    """Each bad setting is named in the error."""
    with pytest.raises(SettingsError, match=says):
        LabelSettings.checked(**{**settings.model_dump(), **changes})
