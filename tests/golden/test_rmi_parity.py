"""RMI against values and gradients that the public reference computed, where those are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.losses import count_for_normaliser, training_loss
from pipeline.rmi import regional_loss
from teacher.fusion import TrainingPrediction

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "rmi.npz"
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference's data is not at hand")


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    """Arrays of three cases: a few ignored pixels; an absent class; an image that is wholly ignored."""
    with np.load(REFERENCE) as file:
        return dict(file)


def _case(reference: dict[str, np.ndarray], case: str) -> tuple[Tensor, Tensor]:
    logits = torch.tensor(reference[f"{case}_logits"], requires_grad=True)
    return logits, torch.tensor(reference[f"{case}_labels"]).long()


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_loss_and_its_parts_are_the_references(reference: dict[str, np.ndarray], case: str) -> None:
    """The loss, its pixel part and its regional part have the reference's values."""
    logits, target = _case(reference, case)
    weight = torch.ones(2)
    norm = count_for_normaliser(target, weight)
    prediction = TrainingPrediction(logits, None, logits, logits)
    loss = training_loss(prediction, target, weight, norm, loss="rmi", auxiliary_weight=0.4, scale_weight=0)
    bce, total = reference[f"{case}_bce"], reference[f"{case}_loss"]
    regional = reference.get(f"{case}_rmi", 2 * total - bce)
    assert loss.value.item() == pytest.approx(float(total), rel=TOLERANCE)
    assert (loss.by_image.sum() / (norm.pixels + 1)).item() == pytest.approx(float(bce), rel=TOLERANCE)
    assert regional_loss(logits, target).mean().item() == pytest.approx(float(regional), rel=TOLERANCE)


@pytest.mark.parametrize("case", ["a", "b"])
def test_gradient_is_the_references(reference: dict[str, np.ndarray], case: str) -> None:
    """The gradient differs from the reference's by less than 1e-5 of its length, and of its largest value anywhere."""
    logits, target = _case(reference, case)
    weight = torch.ones(2)
    norm = count_for_normaliser(target, weight)
    prediction = TrainingPrediction(logits, None, logits, logits)
    training_loss(prediction, target, weight, norm, loss="rmi", auxiliary_weight=0.4, scale_weight=0).value.backward()
    assert logits.grad is not None
    expected = torch.tensor(reference[f"{case}_grad"])
    difference = logits.grad - expected
    assert (difference.norm() / expected.norm()).item() < TOLERANCE
    assert (difference.abs().max() / expected.abs().max()).item() < TOLERANCE
