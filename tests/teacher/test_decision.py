import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import SettingsError, ShapeError
from storage.schema import IGNORE
from teacher.decision import decide


def _logits(seed: int, classes: int = 4) -> torch.Tensor:
    return 3 * torch.randn(2, classes, 8, 6, generator=torch.Generator().manual_seed(seed))


def test_confidence_is_the_top_probability() -> None:
    """Confidence and label are softmax's maximum and its place."""
    logits = _logits(0)
    label, confidence = decide(logits, 0)
    probability, place = logits.softmax(1).max(1)
    assert label.dtype == torch.uint8
    assert confidence.dtype == torch.float32
    assert torch.equal(label.long(), place)
    assert torch.allclose(confidence, probability, atol=1e-6)


def test_threshold_is_strict() -> None:
    """A pixel whose confidence equals the threshold is ignored; just below the threshold's value it is kept."""
    logits = torch.zeros(1, 2, 1, 1)
    assert decide(logits, 0.5)[0].item() == IGNORE
    assert decide(logits, float(np.nextafter(np.float32(0.5), np.float32(0))))[0].item() == 0


def test_threshold_is_compared_as_float32() -> None:
    """A threshold that is a confidence of the image, written as a decimal, ignores that very pixel."""
    logits = _logits(1)
    confidence = decide(logits, 0)[1]
    for value in confidence.flatten()[:20].tolist():
        label, _ = decide(logits, float(np.format_float_positional(np.float32(value), unique=True)))
        assert (label[confidence == value] == IGNORE).all()


@given(seed=st.integers(0, 1000), low=st.floats(0, 0.999), high=st.floats(0, 0.999))
def test_raising_the_threshold_never_adds_pixels(seed: int, low: float, high: float) -> None:
    """What a higher threshold keeps, a lower one keeps with the same class."""
    low, high = sorted((low, high))
    logits = _logits(seed)
    lenient, strict = decide(logits, low)[0], decide(logits, high)[0]
    kept = strict != IGNORE
    assert torch.equal(strict[kept], lenient[kept])


def test_threshold_zero_keeps_all() -> None:
    """Threshold 0 is the plain argmax, also with 255 classes that are equally likely."""
    label, confidence = decide(torch.zeros(1, 255, 2, 2), 0)
    assert (label == 0).all()
    assert torch.allclose(confidence, torch.full_like(confidence, 1 / 255))


def test_extreme_logits_keep_their_class() -> None:
    """Logits that would overflow an exponential still give a confidence of 1."""
    label, confidence = decide(torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1), 0.9)
    assert label.item() == 0
    assert confidence.item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_become_ignore(value: float) -> None:
    """A pixel with a score that is no number is ignored at any threshold, with confidence 0."""
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1, 0, 0] = value
    label, confidence = decide(logits, 0)
    assert label.flatten().tolist() == [IGNORE, 0]
    assert confidence.flatten().tolist() == [0, 0.5]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 1.5, float("nan")])
def test_threshold_out_of_range_is_refused(threshold: float) -> None:
    """A threshold is a probability below 1."""
    with pytest.raises(SettingsError, match="threshold"):
        decide(torch.zeros(1, 2, 1, 1), threshold)


def test_too_many_classes_are_refused() -> None:
    """Class 255 would be ignore, so 256 classes have no labels."""
    with pytest.raises(ShapeError, match="1 to 255 classes"):
        decide(torch.zeros(1, 256, 1, 1), 0)
