"""The training loss."""

import math

import pytest
import torch
from torch.nn import functional

from pipeline.losses import AUXILIARY_WEIGHT, SCALE_WEIGHT, masked_cross_entropy, training_loss
from teacher.fusion import TrainingPrediction


@pytest.fixture
def logits() -> torch.Tensor:
    """Logits of two 8x6 images and three classes."""
    return torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target() -> torch.Tensor:
    """Labels of the same images, a quarter of them ignored."""
    values = torch.randint(0, 3, (2, 8, 6), generator=torch.Generator().manual_seed(1))
    values[:, :2] = 255
    return values


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes(target: torch.Tensor) -> None:
    """Where all classes are as likely, the loss is ln(classes), whatever is ignored."""
    assert masked_cross_entropy(torch.zeros(2, 3, 8, 6), target).item() == pytest.approx(math.log(3))


def test_loss_is_the_mean_over_labelled_pixels(logits: torch.Tensor, target: torch.Tensor) -> None:
    """The loss equals torch's own mean over the pixels that have a label."""
    expected = functional.cross_entropy(logits, target, ignore_index=255)
    assert masked_cross_entropy(logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_ignored_pixels_change_nothing(logits: torch.Tensor, target: torch.Tensor) -> None:
    """What a network says about an ignored pixel does not change the loss, and gets no gradient."""
    changed = logits.clone()
    changed[:, :, :2] += 100
    changed.requires_grad_()
    loss = masked_cross_entropy(changed, target)
    loss.backward()
    assert loss.item() == pytest.approx(masked_cross_entropy(logits, target).item())
    assert changed.grad is not None
    assert torch.count_nonzero(changed.grad[:, :, :2]) == 0
    assert torch.count_nonzero(changed.grad[:, :, 2:]) > 0


def test_nothing_labelled_costs_nothing(logits: torch.Tensor) -> None:
    """A batch without a single label has loss 0 and gradients 0, not NaN."""
    logits.requires_grad_()
    loss = masked_cross_entropy(logits, torch.full((2, 8, 6), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_loss_is_computed_in_float32(logits: torch.Tensor, target: torch.Tensor) -> None:
    """Logits of half precision give a float32 loss."""
    loss = masked_cross_entropy(logits.half(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(masked_cross_entropy(logits.half().float(), target).item())


def test_total_weighs_its_parts(logits: torch.Tensor, target: torch.Tensor) -> None:
    """The total is the joint loss, plus 0.4 of the auxiliary one, plus 0.05 of each scale's."""
    joint, auxiliary, low, high = (masked_cross_entropy(logits * k, target).item() for k in (1, 2, 3, 4))
    with_auxiliary = TrainingPrediction(logits, logits * 2, logits * 3, logits * 4)
    without = with_auxiliary._replace(joint_auxiliary=None)
    assert AUXILIARY_WEIGHT == 0.4
    assert SCALE_WEIGHT == 0.05
    single = joint + 0.05 * (low + high)
    assert training_loss(without, target).item() == pytest.approx(single, rel=1e-6)
    assert training_loss(with_auxiliary, target).item() == pytest.approx(single + 0.4 * auxiliary, rel=1e-6)
