"""The fit of a temperature, and labels at it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.temperature import GRID, PIXELS, TemperatureSums, sample_pixels
from storage.errors import ForeignSettingsError, SettingsError, WorkspaceError
from storage.label_map import LabelMap
from teacher import load_teacher
from teacher.decision import DecisionRule, find_top, quantise


@pytest.mark.parametrize("true", [0.5, 1.0, 1.7])
def test_the_temperature_that_the_truth_was_drawn_at_is_found(true: float) -> None:
    """Classes are drawn from the softmax of logits at a temperature; the fit over several images finds it again."""
    rng = np.random.default_rng(1)
    sums = TemperatureSums.nothing()
    for _ in range(5):
        logits = rng.normal(0, 3, (4000, 4)).astype(np.float32)
        noise = rng.gumbel(size=logits.shape)
        logits[0, 0] = np.nan
        sums = sums.plus(logits, np.argmax(logits / true + noise, axis=1))
    assert sums.temperature == pytest.approx(true, rel=0.05)
    assert sums.pixels == 5 * 3999
    told = sums.to_plain()
    assert told["nll_after"] <= told["nll_before"]


def test_nothing_to_look_at_leaves_the_logits_as_they_are() -> None:
    """Without a pixel the temperature is 1; beyond the grid its end is taken."""
    none = TemperatureSums.nothing().plus(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert (none.temperature, none.done) == (1.0, 1)
    sure = TemperatureSums.nothing().plus(np.eye(3, dtype=np.float32).repeat(5, 0), np.arange(3).repeat(5))
    assert sure.temperature == GRID[0]


def test_sampled_pixels_are_judged_ones_and_the_same_again() -> None:
    """Only pixels with a truth are drawn, none twice, at most so many, and by the image's number alone."""
    values = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (90, 100))
    places = sample_pixels(LabelMap(values, 2), 3)
    assert len(set(places.tolist())) == PIXELS
    assert not np.any(values.reshape(-1)[places] == 255)
    assert np.array_equal(places, sample_pixels(LabelMap(values, 2), 3))
    assert not np.array_equal(places, sample_pixels(LabelMap(values, 2), 4))
    assert len(sample_pixels(LabelMap(values[:5], 2), 3)) == np.sum(values[:5] != 255)


def test_what_was_looked_at_is_read_again_bit_by_bit(tmp_path: Path) -> None:
    """A sum goes on from a file as if it had not stopped; another question and damage are refused."""
    path = tmp_path / "temperature.json"
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    sums = TemperatureSums.nothing().plus(logits, np.arange(9) % 3)
    sums.save(path, {"teacher": "a"})
    assert TemperatureSums.read(path, {"teacher": "a"}) == sums
    with pytest.raises(ForeignSettingsError, match="teacher: a -> b"):
        TemperatureSums.read(path, {"teacher": "b"})
    path.write_text(path.read_text().replace("under way", "done"))
    with pytest.raises(WorkspaceError, match="is no fit of a temperature"):
        TemperatureSums.read(path, {"teacher": "a"})
    path.write_text("{")
    with pytest.raises(WorkspaceError, match="remove it to fit"):
        TemperatureSums.read(path, {"teacher": "a"})


def test_a_teacher_decides_at_a_temperature(tiny_teacher: Path, rng: np.random.Generator) -> None:
    """Dividing the scales' logits divides the joint ones: classes stay, confidence is that of the divided logits."""
    teacher = load_teacher(tiny_teacher)
    image = rng.integers(0, 256, (40, 56, 3), np.uint8)
    (plain,) = teacher.decide([image], (0.5, 1), DecisionRule((0.5,), "confidence"), flip=True)
    (divided,) = teacher.decide([image], (0.5, 1), DecisionRule((0.5,), "confidence", temperature=2.0), flip=True)
    wanted = find_top(teacher.logits(image, (0.5, 1), flip=True)[None] / 2)
    assert plain.soft is not None
    assert divided.soft is not None
    assert np.array_equal(divided.soft[0], plain.soft[0])
    assert np.mean(divided.soft[1] != quantise(wanted.confidence, 100)[0].numpy()) < 0.001
    assert np.mean(divided.soft[1] < plain.soft[1]) > 0.9
    with pytest.raises(SettingsError, match="temperature is 0"):
        teacher.decide([image], (1,), DecisionRule((0.5,), temperature=0))
