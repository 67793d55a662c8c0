"""Kept confidence and other thresholds: the labels that labelling at them makes, without the teacher."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.labelling import LabelRun, LabelSummary
from pipeline.rethresholding import RethresholdRun, RethresholdSettings
from pipeline.settings import LabelSettings
from storage.errors import ForeignSettingsError, MissingFileError, SettingsError
from storage.ledger import Ledger
from storage.soft_store import SoftStore, StoreForm, apply_thresholds
from teacher import load_teacher
from teacher.decision import DecisionRule, decide, find_top, quantise

CAMVID = Path(__file__).parents[3] / "shared/camvid/images/train"


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Three images of two sizes, whose confidence is kept."""
    for number, (name, size) in enumerate({"a/1.png": (40, 56), "a/2.png": (40, 56), "b/3.jpg": (33, 47)}.items()):
        make_image(tmp_path / "images" / name, size, number)
    return LabelSettings(
        images=tmp_path / "images",
        teacher=str(tiny_teacher),
        scales=(0.5, 1.0),
        device="cpu",
        keep="confidence",
        out=tmp_path / "run",
    )


def label(settings: LabelSettings, **changes: object) -> LabelSummary:
    """Label to the end and return the counts."""
    with LabelRun(settings.model_copy(update=changes)) as run:
        for _ in run:
            pass
        return run.summary


def rethreshold(settings: LabelSettings, out: Path, **changes: object) -> LabelSummary:
    """Make a run of other thresholds and return the counts."""
    with RethresholdRun(RethresholdSettings.checked(run=settings.out, out=out, **changes)) as run:
        for _ in run:
            pass
        return run.summary


def files(out: Path) -> dict[str, bytes]:
    """Content of all label files, by their path."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in (out / "labels").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.9},
        {"threshold": 0.29},
        {"threshold": 0.0},
        {"class_thresholds": {"pole": 0.8, "sky": 0.35}},
        {"threshold": 0.7, "class_thresholds": {"road": 0.99}},
    ],
)
def test_the_labels_are_those_of_labelling_at_these_thresholds(
    settings: LabelSettings, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Byte for byte, provenance included; and `label` takes the run for its own and has nothing left to do."""
    label(settings)
    label(settings, keep="none", out=tmp_path / "labelled", **changes)
    summary = rethreshold(settings, tmp_path / "again", **changes)
    assert (summary.total, summary.labelled, summary.failed) == (3, 3, 0)
    assert files(tmp_path / "again") == files(tmp_path / "labelled")
    assert files(tmp_path / "again") != files(settings.out)
    assert label(settings, keep="none", out=tmp_path / "again", **changes).skipped == 3


@pytest.mark.parametrize("changes", [{"min_component": 9}, {"ids": "source"}, {"keep": "top2"}, {"keep_steps": 20}])
def test_how_the_run_was_labelled_stays(settings: LabelSettings, tmp_path: Path, changes: dict[str, object]) -> None:
    """Clean-up and source ids are the run's; more or less kept gives the same labels."""
    settings = settings.model_copy(update=changes)
    label(settings)
    label(settings, keep="none", threshold=0.65, out=tmp_path / "labelled")
    rethreshold(settings, tmp_path / "again", threshold=0.65)
    assert files(tmp_path / "again") == files(tmp_path / "labelled")


def exact_at_every_threshold(logits: Tensor) -> None:
    """Labels from what is kept, after its way through the chunk, against labels from the logits."""
    top = find_top(logits)
    planes = torch.stack([top.classes, quantise(top.confidence, 100)], dim=1)[0].numpy()
    form = StoreForm("confidence", 100, tuple(map(str, range(logits.shape[1]))))
    assert form.encode(planes)
    for k in range(100):
        expected, _ = decide(logits, k / 100)
        made = apply_thresholds(planes, [k / 100] * logits.shape[1], 100)
        np.testing.assert_array_equal(made, expected[0].numpy())


def test_every_threshold_of_the_grid_is_exact(settings: LabelSettings) -> None:
    """For all 100 thresholds the label from the kept codes is the label from the network's scores."""
    image = np.array(Image.open(settings.images / "a/1.png"))
    exact_at_every_threshold(load_teacher(settings.teacher).logits(image, (0.5, 1.0))[None])


@pytest.mark.skipif(not CAMVID.is_dir(), reason="the photographs are not there")
def test_every_threshold_is_exact_on_photographs(settings: LabelSettings) -> None:
    """The same on real images, whose confidences are as smooth as they come."""
    teacher = load_teacher(settings.teacher)
    for path in sorted(CAMVID.rglob("*.jpg"))[::20]:
        exact_at_every_threshold(teacher.logits(np.array(Image.open(path)), (0.5, 1.0, 2.0))[None])


def test_pixels_without_confidence_are_ignored_at_every_threshold() -> None:
    """Scores that are no numbers have a code of their own."""
    logits = torch.tensor([[0.0, 1.0, torch.nan, torch.inf], [0.0, 0.0, 0.0, 0.0]]).view(1, 2, 1, 4)
    top = find_top(logits)
    assert quantise(top.confidence, 100).flatten().tolist() == [49, 73, 255, 255]
    exact_at_every_threshold(logits)


def test_the_runner_up_is_the_second_class(settings: LabelSettings) -> None:
    """With top2 the store holds the class with the second highest score; with one class only, that one."""
    label(settings, keep="top2")
    store = SoftStore.find(settings.out / "soft")
    assert store is not None
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        planes = store.read(ledger.slots()["b/3"], (33, 47))
    image = np.array(Image.open(settings.images / "b/3.jpg"))
    order = load_teacher(settings.teacher).logits(image, (0.5, 1.0)).argsort(dim=0, descending=True)
    np.testing.assert_array_equal(planes[0], order[0].numpy())
    np.testing.assert_array_equal(planes[2], order[1].numpy())
    alone = find_top(torch.zeros(1, 1, 2, 2), runner_up=True)
    assert alone.runner_up is not None
    assert alone.runner_up.eq(0).all()


def test_a_batch_keeps_what_single_images_keep(settings: LabelSettings, tmp_path: Path) -> None:
    """Each image of a batch has its own planes."""
    label(settings)
    label(settings, batch=2, out=tmp_path / "batched")
    for out in (settings.out, tmp_path / "batched"):
        assert len(list((out / "soft").rglob("c.*"))) == 3
    ours, theirs = (
        sorted(p.read_bytes() for p in (o / "soft").rglob("c.*")) for o in (settings.out, tmp_path / "batched")
    )
    assert ours == theirs


def test_labels_whose_confidence_was_not_kept_are_labelled_again(settings: LabelSettings) -> None:
    """Asking for the confidence later makes it, and the same labels; a lost chunk too."""
    label(settings, keep="none")
    before = files(settings.out)
    assert label(settings).labelled == 3
    assert files(settings.out) == before
    next((settings.out / "soft/h40w56").glob("c.*")).unlink()
    assert label(settings).labelled == 1
    assert label(settings).labelled == 0


def test_more_images_later_find_room_in_the_store(
    settings: LabelSettings, make_image: Callable[..., object], tmp_path: Path
) -> None:
    """Slots stay, arrays grow, and an image of another size leaves no chunk behind."""
    label(settings)
    make_image(settings.images / "a/0.png", (40, 56), 7)
    make_image(settings.images / "b/3.jpg", (40, 56), 8)
    assert label(settings).labelled == 2
    assert len(list((settings.out / "soft").rglob("c.*"))) == 4
    assert not list((settings.out / "soft/h33w47").glob("c.*"))
    assert rethreshold(settings, tmp_path / "again", threshold=0.8).labelled == 4


def test_what_is_damaged_costs_its_image_alone(settings: LabelSettings, tmp_path: Path) -> None:
    """A damaged chunk is a failed item with the reason; the same command goes on once it is mended."""
    label(settings)
    chunk = next((settings.out / "soft/h33w47").glob("c.*"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-5])
    summary = rethreshold(settings, tmp_path / "again", threshold=0.8)
    assert (summary.labelled, summary.failed) == (2, 1)
    assert "damaged" in (tmp_path / "again/failed.txt").read_text()
    chunk.write_bytes(whole)
    summary = rethreshold(settings, tmp_path / "again", threshold=0.8)
    assert (summary.labelled, summary.skipped, summary.failed) == (1, 2, 0)
    assert not (tmp_path / "again/failed.txt").exists()


def test_what_cannot_be_done_is_said_before_anything_is_written(settings: LabelSettings, tmp_path: Path) -> None:
    """Off the grid, unknown classes, no kept confidence, and folders in each other are errors."""
    label(settings)
    out = tmp_path / "again"
    with pytest.raises(SettingsError, match="not on the grid"):
        rethreshold(settings, out, threshold=0.855)
    with pytest.raises(SettingsError, match="tree is no class"):
        rethreshold(settings, out, class_thresholds={"tree": 0.5})
    with pytest.raises(SettingsError, match="lie in each other"):
        rethreshold(settings, settings.out / "again", threshold=0.8)
    assert not out.exists()
    label(settings, keep="none", out=tmp_path / "bare")
    with pytest.raises(MissingFileError, match="--keep confidence"):
        rethreshold(settings.model_copy(update={"out": tmp_path / "bare"}), out, threshold=0.8)
    with pytest.raises(ForeignSettingsError, match=r"threshold: 0\.5 -> 0\.8"):
        rethreshold(settings, tmp_path / "bare", threshold=0.8)


def test_another_form_of_the_store_is_refused(settings: LabelSettings) -> None:
    """What is kept, and in how many steps, stays as it is for a folder."""
    label(settings)
    with pytest.raises(ForeignSettingsError, match="keeps confidence in 100 steps"):
        label(settings, keep_steps=50)


def test_a_rule_of_the_wrong_length_is_refused(settings: LabelSettings) -> None:
    """One threshold, or one for each class."""
    with pytest.raises(SettingsError, match="got 2 thresholds, expected one, or 3"):
        load_teacher(settings.teacher).decide([], (1.0,), DecisionRule((0.5, 0.5)))


def test_what_is_kept_is_of_the_label_that_is_there(
    settings: LabelSettings, make_image: Callable[..., object], tmp_path: Path
) -> None:
    """Images replaced, labelled without keeping, then kept again and stopped at once: no old chunk counts as done."""
    label(settings)
    for name, size in {"a/1.png": (40, 56), "b/3.jpg": (33, 47)}.items():
        make_image(settings.images / name, size, 50)
    label(settings, keep="none")
    with LabelRun(settings):
        pass  # stopped before the first image
    assert label(settings).labelled == 2
    label(settings, keep="none", threshold=0.8, out=tmp_path / "labelled")
    assert rethreshold(settings, tmp_path / "again", threshold=0.8).failed == 0
    assert files(tmp_path / "again") == files(tmp_path / "labelled")


def test_a_chunk_of_another_label_costs_its_image_alone(settings: LabelSettings, tmp_path: Path) -> None:
    """What does not give the run's own label is refused, with what to do."""
    label(settings)
    first, second = sorted((settings.out / "soft/h40w56").glob("c.*"))
    first.write_bytes(second.read_bytes())
    summary = rethreshold(settings, tmp_path / "again", threshold=0.8)
    assert (summary.labelled, summary.failed) == (2, 1)
    assert "verify" in (tmp_path / "again/failed.txt").read_text()


def test_thresholds_that_are_not_given_are_the_runs(settings: LabelSettings, tmp_path: Path) -> None:
    """Also those by class; an empty table takes them away."""
    settings = settings.model_copy(update={"class_thresholds": {"pole": 0.9}})
    label(settings)
    rethreshold(settings, tmp_path / "small", png="small")
    label(settings, keep="none", png="small", out=tmp_path / "labelled")
    assert files(tmp_path / "small") == files(tmp_path / "labelled")
    rethreshold(settings, tmp_path / "without", class_thresholds={})
    label(settings, keep="none", class_thresholds={}, out=tmp_path / "plain")
    assert files(tmp_path / "without") == files(tmp_path / "plain")


def test_a_refused_run_leaves_the_folder_as_it_was(settings: LabelSettings) -> None:
    """Settings that cannot be are not written over those that are there."""
    label(settings)
    before = (settings.out / "settings.toml").read_bytes()
    with pytest.raises(ForeignSettingsError):
        label(settings, keep="top2", palette=True)
    assert (settings.out / "settings.toml").read_bytes() == before
