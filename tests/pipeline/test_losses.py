"""The training loss."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pipeline.losses import Loss, Normaliser, count_for_normaliser, training_loss
from pipeline.training_settings import Loss as LossName
from teacher.fusion import TrainingPrediction

LOSSES: tuple[LossName, ...] = ("ce", "rmi")
CLASSES = 3
SIZE = (12, 10)


def _logits(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, CLASSES, *SIZE, generator=torch.Generator().manual_seed(seed))


def _target(batch: int = 2, seed: int = 1) -> Tensor:
    """Labels of which the upper rows are ignored, more of them in each image."""
    values = torch.randint(0, CLASSES, (batch, *SIZE), generator=torch.Generator().manual_seed(seed))
    for index in range(batch):
        values[index, : index + 2] = 255
    return values


def _loss(prediction: TrainingPrediction | Tensor, target: Tensor, weight: Tensor | None = None, **given: Any) -> Loss:
    """The loss of one global batch; of a joint prediction alone where only its logits are given."""
    if isinstance(prediction, Tensor):
        prediction, given = TrainingPrediction(prediction, None, prediction, prediction), {"scale_weight": 0, **given}
    weight = torch.ones(len(target)) if weight is None else weight
    arguments = {"loss": "ce", "auxiliary_weight": 0.4, "scale_weight": 0.05, **given}
    norm = arguments.pop("norm", None) or count_for_normaliser(target, weight)
    return training_loss(prediction, target, weight, norm, **arguments)


def _gradient(logits: Tensor, target: Tensor, weight: Tensor | None = None, **given: Any) -> Tensor:
    leaf = logits.clone().requires_grad_()
    _loss(leaf, target, weight, **given).value.backward()
    assert leaf.grad is not None
    return leaf.grad


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    """Torch's own, on one-hot labels, summed over classes and labelled pixels of each image."""
    one_hot = functional.one_hot(target.masked_fill(target == 255, 0), CLASSES).permute(0, 3, 1, 2).float()
    each = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(dim=1)
    return (each * (target != 255)).sum(dim=(1, 2))


def test_counts_are_of_weighted_labelled_pixels() -> None:
    """The normaliser counts each image's labelled pixels times its weight, and the weights."""
    norm = count_for_normaliser(_target(), torch.tensor([1.0, 0.5]))
    assert norm.pixels.item() == 10 * 10 + 0.5 * 9 * 10
    assert norm.images.item() == 1.5


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes() -> None:
    """Where all classes are as likely, cross entropy is ln(classes), whatever is ignored."""
    assert _loss(torch.zeros(2, CLASSES, *SIZE), _target()).value.item() == pytest.approx(math.log(CLASSES))


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    """With weights of 1, cross entropy is torch's own mean over the pixels that have a label."""
    expected = functional.cross_entropy(_logits(), _target(), ignore_index=255)
    assert _loss(_logits(), _target()).value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_pixel_loss_of_each_image_is_reported() -> None:
    """Beside the value stand the joint prediction's sums over each image's labelled pixels, without their weights."""
    logits, target = _logits().requires_grad_(), _target()
    weight = torch.tensor([1.0, 0.25])
    cross_entropy = functional.cross_entropy(logits, target, ignore_index=255, reduction="none").sum(dim=(1, 2))
    for loss, expected in (("ce", cross_entropy), ("rmi", _bce(logits, target))):
        by_image = _loss(logits, target, weight, loss=loss).by_image
        assert not by_image.requires_grad
        assert by_image.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_change_nothing(loss: LossName) -> None:
    """What a network says about an ignored pixel does not change the loss, and gets no gradient."""
    ignored = (_target() == 255)[:, None].expand(2, CLASSES, *SIZE)
    changed = _logits().masked_fill(ignored, 100)
    assert _loss(changed, _target(), loss=loss).value.item() == _loss(_logits(), _target(), loss=loss).value.item()
    gradient = _gradient(changed, _target(), loss=loss)
    assert torch.count_nonzero(gradient[ignored]) == 0
    assert torch.count_nonzero(gradient[~ignored]) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_labelled_has_no_gradient(loss: LossName) -> None:
    """A batch without a single label has gradients 0 and a finite loss, which is 0 for cross entropy."""
    nothing = torch.full((2, *SIZE), 255)
    value = _loss(_logits(), nothing, loss=loss).value
    assert torch.isfinite(value)
    assert loss == "rmi" or value.item() == 0
    assert torch.equal(_gradient(_logits(), nothing, loss=loss), torch.zeros(2, CLASSES, *SIZE))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_is_computed_in_float32(loss: LossName, dtype: torch.dtype) -> None:
    """Logits of half precision, in a region of mixed precision, give the float32 loss of the same numbers."""
    logits = _logits().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = _loss(logits, _target(), loss=loss).value
    assert value.dtype == torch.float32
    assert value.item() == _loss(logits.float(), _target(), loss=loss).value.item()


@pytest.mark.parametrize("loss", LOSSES)
def test_large_logits_have_a_finite_loss(loss: LossName) -> None:
    """Logits as large as half precision holds, right or wrong, give a finite loss and finite gradients."""
    logits = (_logits().sign() * 6e4).half()
    assert torch.isfinite(_loss(logits, _target(), loss=loss).value)
    assert torch.isfinite(_gradient(logits, _target(), loss=loss)).all()


def test_total_weighs_its_parts() -> None:
    """The total is the joint loss, plus the auxiliary one and each scale's by their weights."""
    logits, target = _logits(), _target()
    joint, auxiliary, low, high = (_loss(logits * k, target).value.item() for k in (1, 2, 3, 4))
    with_auxiliary = TrainingPrediction(logits, logits * 2, logits * 3, logits * 4)
    without = with_auxiliary._replace(joint_auxiliary=None)
    single = joint + 0.05 * (low + high)
    assert _loss(without, target).value.item() == pytest.approx(single, rel=1e-6)
    assert _loss(with_auxiliary, target).value.item() == pytest.approx(single + 0.4 * auxiliary, rel=1e-6)


def test_only_the_joint_has_a_regional_part() -> None:
    """With RMI, auxiliary and single-scale terms are binary cross entropy alone, over one more than the pixels."""
    logits, target = _logits(), _target()
    pixels = int((target != 255).sum()) + 1
    plain = [(_bce(logits * k, target).sum() / pixels).item() for k in (2, 3, 4)]
    joint = _loss(logits, target, loss="rmi").value.item()
    total = _loss(TrainingPrediction(logits, logits * 2, logits * 3, logits * 4), target, loss="rmi").value.item()
    assert total == pytest.approx(joint + 0.4 * plain[0] + 0.05 * (plain[1] + plain[2]), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_term_of_weight_zero_is_not_computed(loss: LossName) -> None:
    """Where a term's weight is 0, nothing of it reaches the loss, be it no number."""
    broken = torch.full_like(_logits(), math.nan)
    prediction = TrainingPrediction(_logits(), broken, broken, broken)
    value = _loss(prediction, _target(), loss=loss, auxiliary_weight=0, scale_weight=0).value
    assert value.item() == _loss(_logits(), _target(), loss=loss).value.item()


@pytest.mark.parametrize("loss", LOSSES)
def test_weight_counts_like_so_many_images(loss: LossName) -> None:
    """An image of weight 2 is worth the image twice, and only the weights' relation counts, RMI's added pixel apart."""
    logits, target = _logits(), _target()
    weighted = _loss(logits, target, torch.tensor([1.0, 2.0]), loss=loss).value.item()
    repeated = _loss(logits[[0, 1, 1]], target[[0, 1, 1]], loss=loss).value.item()
    assert weighted == pytest.approx(repeated, rel=1e-6)
    halved = _loss(logits, target, torch.tensor([0.5, 1.0]), loss=loss).value.item()
    assert halved == pytest.approx(weighted, rel=1e-6 if loss == "ce" else 1e-2)


def test_small_weights_are_divided_by_what_they_are() -> None:
    """One labelled pixel of weight 0.1 has the loss of that pixel, though the normaliser is below 1."""
    target = torch.full((1, *SIZE), 255)
    target[0, 3, 4] = 1
    expected = functional.cross_entropy(_logits(1), target, ignore_index=255).item()
    assert _loss(_logits(1), target, torch.tensor([0.1])).value.item() == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    loss=st.sampled_from(LOSSES),
    cut=st.integers(1, 3),
    weights=st.lists(st.floats(0.125, 4, width=32), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_parts_add_up(loss: LossName, cut: int, weights: list[float], seed: int) -> None:
    """Parts of a batch under the whole batch's normaliser have its loss as their sum, and its gradients."""
    logits, target, weight = _logits(4, seed), _target(4, seed), torch.tensor(weights)
    halves = (slice(None, cut), slice(cut, None))
    counts = [count_for_normaliser(target[half], weight[half]) for half in halves]
    norm = Normaliser(*(sum(parts, torch.zeros(())) for parts in zip(*counts, strict=True)))
    whole = _loss(logits, target, weight, loss=loss).value.item()
    parts = [_loss(logits[half], target[half], weight[half], loss=loss, norm=norm).value.item() for half in halves]
    assert sum(parts) == pytest.approx(whole, rel=1e-5, abs=1e-6)
    gradients = [_gradient(logits[half], target[half], weight[half], loss=loss, norm=norm) for half in halves]
    torch.testing.assert_close(torch.cat(gradients), _gradient(logits, target, weight, loss=loss), rtol=1e-5, atol=1e-7)
