"""Whole runs on a CUDA device, where the next batch is sent, and labels are fetched, beside the device's work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.teacher_decider import TeacherDecider
from storage.image_reader import read_image
from storage.label_png import read_label_values
from storage.layouts import list_images
from teacher import Teacher, load_teacher

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SIZES = [(48, 64), (48, 64), (48, 64), (40, 56)]
IMAGES = 23


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Of a run over images of two sizes, in groups of three and one."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number:02}.png", SIZES[number % len(SIZES)], number)
    return LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), out=tmp_path / "run", scales=(0.5, 1.0), device="cuda"
    )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("keep", ["none", "top2"])
def test_a_run_has_the_labels_that_the_teacher_gives(settings: LabelSettings, batch: int, keep: str) -> None:
    """Each image's label is that of the image alone, but for pixels that another order of summation decides."""
    with LabelRun(settings.model_copy(update={"batch": batch, "keep": keep})) as run:
        assert {(entry.status, entry.reason) for entry in run} == {("done", "")}
        assert run.teacher.problems == ()
    teacher = load_teacher(settings.teacher, device="cuda")
    for item in list_images(settings.images, "folder").items:
        (expected,) = teacher.label([read_image(item.image)], settings.scales, settings.threshold)
        made = read_label_values(run.workspace.label_path(item.key))
        assert (made == expected).mean() >= (1 if batch == 1 else 0.999)


def test_the_next_batch_is_sent_before_it_is_asked_for(
    settings: LabelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run every image but the first is expected before the decision on the one before it begins."""
    expected: list[np.ndarray] = []
    decided: list[bool] = []
    real_expect, real_decide = Teacher.expect, TeacherDecider.decide

    def expect(self: Teacher, images: list[np.ndarray]) -> None:
        expected.extend(images)
        real_expect(self, images)

    def decide(self: TeacherDecider, images: list[np.ndarray]) -> object:
        decided.extend(any(image is one for one in expected) for image in images)
        return real_decide(self, images)

    monkeypatch.setattr(Teacher, "expect", expect)
    monkeypatch.setattr(TeacherDecider, "decide", decide)
    with LabelRun(settings) as run:
        assert {entry.status for entry in run} == {"done"}
    assert decided == [False] + [True] * (IMAGES - 1)


def test_a_batch_that_does_not_fit_costs_no_image(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory runs out in the middle of a run, with a batch on its way, all images are labelled as ever."""
    with LabelRun(settings) as run:
        usual = {entry.key: entry.sha256 for entry in run}
    real, given = Teacher.decide, []

    def decide(self: Teacher, images: list[np.ndarray], *args: object, **kwargs: object) -> object:
        given.append(len(images))
        if len(given) > 3 and len(images) > 1:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return real(self, images, *args, **kwargs)  # type: ignore[arg-type] # passed through as they came

    monkeypatch.setattr(Teacher, "decide", decide)
    with LabelRun(settings.model_copy(update={"batch": 2, "out": settings.out.parent / "small"})) as run:
        entries = list(run)
    assert {entry.status for entry in entries} == {"done"}
    alone = [entry for entry in entries if entry.reason]
    assert alone
    assert all(entry.sha256 == usual[entry.key] for entry in alone)
