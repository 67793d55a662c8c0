"""Fusion and decision in parts, against the whole: `hierarchical_logits` in float32, and its formula in float64."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from storage.errors import ImageError, SettingsError, ShapeError
from storage.schema import IGNORE
from teacher import joint_decision
from teacher.decision import DecisionRule, apply_thresholds, decide, find_top, quantise
from teacher.early_out import certain_blocks, largest_logit, rounding
from teacher.fusion import (
    ScaledPrediction,
    blend,
    check_scales,
    hierarchical_logits,
    predict_scales,
    size_at_scale,
)
from teacher.joint_decision import decide_jointly
from teacher.late_fusion import View, fuse_views, image_of, joint_logits, without_detour
from teacher.networks.layers import resize
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec
from teacher.resampling import Stripe, is_one_step

SCALES = (
    (1.0,),
    (0.5, 1.0),
    (1.0, 2.0),
    (0.5, 1.0, 2.0),
    (1.0, 3.0),
    (0.75, 1.0, 2.0, 3.0),
    (0.25, 0.5, 1.0, 1.5, 2.0),
    (0.3, 1.0, 1.75),
)
SIZES = ((64, 96), (45, 61), (16, 70), (53, 33))


def make_view(
    seed: int,
    size: tuple[int, int],
    scales: Sequence[float],
    *,
    stride: int = 4,
    smooth: int = 4,
    classes: int = 4,
    batch: int = 2,
) -> tuple[ScaledPrediction, ...]:
    """Predictions as a network's, whose classes keep for about `smooth` nodes, alike at all scales but for noise."""
    generator = torch.Generator().manual_seed(seed)
    scene = 9 * torch.randn(
        batch, classes, -(-size[0] // (4 * smooth)), -(-size[1] // (4 * smooth)), generator=generator
    )
    view = []
    for scale in check_scales(scales):
        scaled = size_at_scale(size, scale)
        low = (-(-scaled[0] // stride), -(-scaled[1] // stride))
        logits = resize(scene, low) + torch.randn(batch, classes, *low, generator=generator)
        attention = torch.rand(batch, 1, *low, generator=generator) if view else None
        view.append(ScaledPrediction(logits, attention, scaled))
    return tuple(view)


def plain_logits(view: View, size: tuple[int, int], scales: Sequence[float]) -> Tensor:
    """What `hierarchical_logits` makes of the predictions."""
    replies = {prediction.size: prediction for prediction in view}

    def network(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        logits, attention, _ = replies[images.shape[-2], images.shape[-1]]
        return ScalePrediction(logits, attention if attend else None, None)

    return hierarchical_logits(network, torch.zeros(len(view[0].logits), 3, *size), scales)


def exact_logits(view: View, size: tuple[int, int]) -> Tensor:
    """The same formula in float64."""
    joint = resize(view[0].logits.double(), view[0].size)
    for logits, attention, scaled in view[1:]:
        assert attention is not None
        target = scaled if scaled[0] >= size[0] else size
        own = (resize(logits.double(), scaled), resize(attention.double(), scaled))
        joint = blend(resize(joint, target), *own)
    return joint


def assert_exact(labels: Tensor, exact: Tensor, thresholds: Sequence[float]) -> None:
    """The labels are those of the float64 logits, but for the last digits of float64."""
    top = find_top(exact)
    expected = apply_thresholds(top, thresholds)
    least = torch.tensor(thresholds, dtype=torch.float32).double()
    near = (top.confidence[..., None] - least).abs().amin(-1) < 1e-11
    best = exact.topk(2, dim=1).values
    near |= best[:, 0] - best[:, 1] < 1e-11
    assert near.float().mean() < 0.01
    assert torch.equal(labels[~near], expected[~near])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("stride", [4, 7])
def test_stripes_are_rows_of_the_whole(scales: tuple[float, ...], size: tuple[int, int], stride: int) -> None:
    """For any scales, odd sizes and strides, a stripe's logits are up to rounding the whole image's at those rows."""
    view = make_view(1, size, scales, stride=stride, smooth=1)
    whole = plain_logits(view, size, scales)
    tolerance = 1e-5 * float(whole.abs().max())
    for start, stop in ((0, 1), (0, size[0]), (7, 12), (size[0] - 3, size[0])):
        for index in range(2):
            stripe = fuse_views([image_of(without_detour(view, size), index)], Stripe(size, start, stop))
            assert stripe.shape == (4, stop - start, size[1])
            assert (stripe - whole[index, :, start:stop]).abs().max() <= tolerance


def test_predicted_scales_are_fused_as_ever(
    fill_network: Callable[[NetworkSpec], nn.Module], narrow_spec: NetworkSpec, images: Tensor
) -> None:
    """A real network's predictions at its own stride, fused late, are the hierarchical logits."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        view = predict_scales(network, images, [0.5, 2, 1])
        late = joint_logits([view], (45, 61))
        whole = hierarchical_logits(network, images, [0.5, 1, 2])
    assert [(p.size, tuple(p.logits.shape[2:]), p.attention is None) for p in view] == [
        ((90, 122), (23, 31), True),
        ((45, 61), (12, 16), False),
        ((22, 30), (6, 8), False),
    ]
    assert (late - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_scales_are_checked_before_anything_is_predicted(images: Tensor) -> None:
    """Scales without 1.0 and images too small for the lowest scale are refused without asking the network."""

    def network(_images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        raise AssertionError(attend)

    with pytest.raises(SettingsError, match=r"1\.0 must be among them"):
        predict_scales(network, images, [0.5])
    with pytest.raises(ImageError, match=r"at scale 0\.05"):
        predict_scales(network, images, [2, 1, 0.05])


@given(low=st.integers(1, 40), stride=st.integers(1, 6), factor=st.integers(1, 5), cut=st.integers(0, 3))
def test_one_step_is_two_where_it_says_so(low: int, stride: int, factor: int, cut: int) -> None:
    """Where enlarging and then shrinking counts as one step, both ways give the same."""
    middle = max(1, low * stride - cut)
    target = max(1, middle // factor)
    maps = torch.randn(1, 1, low, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(low))
    twice = resize(resize(maps, (middle, 1)), (target, 1))
    if is_one_step(low, middle, target):
        assert (resize(maps, (target, 1)) - twice).abs().max() < 1e-8


def test_doubled_and_trebled_scales_take_one_step() -> None:
    """From stride 4, scales 2 and 3 are brought to the image's size directly, and 1.5 and 1.75 are not."""
    steps = {scale: is_one_step(int(1080 * scale) // 4, int(1080 * scale), 1080) for scale in (1.5, 1.75, 2, 3)}
    assert steps == {1.5: False, 1.75: False, 2: True, 3: True}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from(SIZES),
    scales=st.sampled_from(SCALES),
    smooth=st.integers(1, 5),
    thresholds=st.sampled_from([(0.5,), (0.0,), (0.3,), (0.9,), (0.2, 0.5, 0.5001, 0.8), (0.5, 0.9, 0.0, 0.6)]),
)
def test_labels_are_those_of_exact_arithmetic(
    seed: int, size: tuple[int, int], scales: tuple[float, ...], smooth: int, thresholds: tuple[float, ...]
) -> None:
    """Each label is what float64 makes of the same predictions, and float32's but where that rounded."""
    view = make_view(seed, size, scales, smooth=smooth)
    labels = decide_jointly([view], size, DecisionRule(thresholds)).labels
    assert labels.shape == (2, *size)
    assert_exact(labels, exact_logits(view, size), thresholds)
    plain, confidence = decide(plain_logits(view, size, scales), thresholds)
    least = torch.tensor(thresholds)
    far = (confidence[..., None] - least).abs().amin(-1) > 1e-4
    if min(thresholds) >= 0.5:  # below, of two classes that are alike either may be kept
        assert torch.equal(labels[far], plain[far])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scales", SCALES)
def test_the_least_weight_of_a_node_counts(scales: tuple[float, ...], size: tuple[int, int]) -> None:
    """One class is certain everywhere but at a few nodes, so strongly other that a thousandth of one turns a pixel."""
    generator = torch.Generator().manual_seed(2)
    view = make_view(2, size, scales, batch=4)
    for prediction in view:
        prediction.logits.zero_()[:, 0] = 9
        nodes = prediction.logits[:, 1].flatten(1)
        nodes.scatter_(1, torch.randint(nodes.shape[1], (4, 1), generator=generator), 9e3)
    exact = exact_logits(view, size)
    labels = decide_jointly([view], size, DecisionRule((0.5,))).labels
    assert (labels == 1).any()
    assert_exact(labels, exact, (0.5,))


def test_a_confidence_at_the_threshold_is_settled_exactly() -> None:
    """Where a threshold is so near to a pixel's confidence that float32 rounds it away, the label is still right."""
    size, scales = (45, 61), (0.5, 1.0, 2.0)
    view = make_view(11, size, scales, smooth=2, batch=1)
    exact = exact_logits(view, size)
    confidence = find_top(exact).confidence
    plain = plain_logits(view, size, scales)
    wrong = 0
    for value in confidence[confidence > 0.5][::40].tolist():
        threshold = float(np.float32(value))
        labels = decide_jointly([view], size, DecisionRule((threshold,))).labels
        assert_exact(labels, exact, (threshold,))
        wrong += int((decide(plain, threshold)[0] != labels).sum())
    assert wrong > 3  # or float32 was never in doubt


@pytest.mark.parametrize("thresholds", [(0.0,), (0.9, 0.5)])
def test_two_classes_that_are_alike_are_told_apart_exactly(thresholds: tuple[float, ...]) -> None:
    """Where two classes are so near that float32 rounds both to one, the label is still right.

    Each time, one class is shifted so that at some pixel it is as likely as another.
    """
    size = (45, 61)
    view = make_view(12, size, (0.5, 1.0), smooth=2, classes=2, batch=1)
    gaps = exact_logits(view, size).diff(dim=1).flatten()
    shifts = gaps[:: len(gaps) // 50].float()
    wrong = 0
    for shift in shifts:
        shifted = [p._replace(logits=p.logits + torch.tensor([0, -shift]).view(2, 1, 1)) for p in view]
        exact = exact_logits(shifted, size)
        labels = decide_jointly([shifted], size, DecisionRule(thresholds)).labels
        assert_exact(labels, exact, thresholds)
        wrong += int((decide(plain_logits(shifted, size, (0.5, 1.0)), thresholds)[0] != labels).sum())
    assert wrong > 3  # or float32 was never in doubt


@pytest.mark.parametrize("scales", SCALES)
def test_flip_is_one_more_view(scales: tuple[float, ...]) -> None:
    """With the mirrored images' predictions, mirrored back, logits and labels are the mean's of both."""
    size = (45, 61)
    view, mirror = make_view(1, size, scales), make_view(2, size, scales)
    views = [view, [prediction.mirrored() for prediction in mirror]]
    mean = (plain_logits(view, size, scales) + plain_logits(mirror, size, scales).flip(-1)) / 2
    assert (joint_logits(views, size) - mean).abs().max() <= 1e-5 * mean.abs().max()
    exact = (exact_logits(view, size) + exact_logits(mirror, size).flip(-1)) / 2
    assert_exact(decide_jointly(views, size, DecisionRule((0.5,))).labels, exact, (0.5,))


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
def test_smooth_maps_are_certain_in_the_main(scales: tuple[float, ...], threshold: float) -> None:
    """Without fusion more than a third of a smooth map's blocks are certain, and each has its label all over."""
    size = (64, 96)
    view = make_view(3, size, scales, smooth=8, batch=1)
    image = [image_of(without_detour(view, size), 0)]
    largest = largest_logit(image)
    assert largest is not None
    grid = joint_decision._block_grid(size, torch.device("cpu"))
    found = certain_blocks(image, grid, torch.tensor([threshold]), rounding(largest), 1 << 20)
    assert found.shape == (17, 25)
    assert (found != IGNORE).float().mean() > 1 / 3
    spread = found.repeat_interleave(4, 0).repeat_interleave(4, 1)[2:66, 2:98]
    expected = decide(exact_logits(view, size), threshold)[0][0]
    certain = spread != IGNORE
    assert torch.equal(spread[certain], expected[certain])


@pytest.mark.parametrize("keep", ["confidence", "top2"])
@pytest.mark.parametrize("memory", [1, 20_000, 16 << 20])
def test_what_is_kept_is_of_every_pixel(monkeypatch: pytest.MonkeyPatch, keep: Any, memory: int) -> None:
    """Kept planes and label are, byte for byte, the plain decision's on the fused logits, in stripes of any height."""
    monkeypatch.setitem(joint_decision.WORKING_BYTES, "cpu", memory)
    size = (45, 61)
    view = make_view(5, size, (0.5, 1.0, 2.0))
    rule = DecisionRule((0.4, 0.5, 0.6, 0.7), keep, 100)
    decided = decide_jointly([view], size, rule)
    top = find_top(joint_logits([view], size), runner_up=keep == "top2")
    planes = [top.classes, quantise(top.confidence, 100), *([] if top.runner_up is None else [top.runner_up])]
    assert decided.soft is not None
    assert torch.equal(decided.soft, torch.stack(planes, dim=1))
    assert torch.equal(decided.labels, apply_thresholds(top, rule.thresholds))


@pytest.mark.parametrize("memory", [1, 20_000])
def test_labels_do_not_depend_on_the_batches_of_blocks(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """However little may be worked on at once, and however many images come, the labels are the same."""
    size = (45, 61)
    view = make_view(6, size, (0.5, 1.0, 2.0), smooth=2, batch=3)
    rule = DecisionRule((0.5,))
    at_once = decide_jointly([view], size, rule).labels
    monkeypatch.setitem(joint_decision.WORKING_BYTES, "cpu", memory)
    alone = [ScaledPrediction(p.logits[2:], None if p.attention is None else p.attention[2:], p.size) for p in view]
    assert torch.equal(decide_jointly([view], size, rule).labels, at_once)
    assert torch.equal(decide_jointly([alone], size, rule).labels[0], at_once[2])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["logits", "attention"])
def test_what_is_no_number_is_never_certain(value: float, where: str) -> None:
    """A logit or an attention that is not finite has the effect that it has on the plain decision, and no other."""
    size, scales = (45, 61), (0.5, 1.0)
    view = make_view(7, size, scales, smooth=8)
    getattr(view[1], where)[0, 0, 3, 4] = value
    labels = decide_jointly([view], size, DecisionRule((0.0,))).labels
    expected, confidence = decide(plain_logits(view, size, scales), 0.0)
    assert (confidence == 0).any() or value == -math.inf  # whose probability is 0, where it does not meet a weight of 0
    assert torch.equal(labels == IGNORE, confidence == 0)
    assert (labels == expected).float().mean() > 0.999


def test_a_class_that_is_ruled_out_leaves_the_others() -> None:
    """A class at minus infinity everywhere has no pixel, and the others are decided as plainly as ever."""
    size, scales = (64, 96), (0.5, 1.0)
    view = make_view(8, size, scales)
    for prediction in view:
        prediction.logits[:, 0] = -math.inf
    labels = decide_jointly([view], size, DecisionRule((0.5,))).labels
    expected, _ = decide(plain_logits(view, size, scales), 0.5)
    assert (labels == expected).float().mean() > 0.999
    assert set(labels[:, 8:-8, 8:-8].unique().tolist()) == {1, 2, 3, IGNORE}


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return made


@pytest.mark.parametrize("keep", ["none", "confidence"])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0), (1.0, 1.5)])
def test_no_tensor_is_larger_than_needed(keep: Any, scales: tuple[float, ...]) -> None:
    """Nothing that deciding makes is larger than half its working memory, or than the label where that is more."""
    size = (256, 1024)
    view = make_view(9, size, scales, smooth=2, classes=19, batch=1)
    with LargestTensor() as noted:
        decide_jointly([view], size, DecisionRule((0.5,), keep))
    full_size = 4 * 19 * size[0] * size[1]
    assert noted.largest <= joint_decision.WORKING_BYTES["cpu"] // 2 < full_size // 2


def test_predictions_that_do_not_belong_together_are_refused() -> None:
    """A missing attention, another batch, no scale of the image's size, or scales in another order are refused."""
    size = (45, 61)
    view = make_view(1, size, (0.5, 1.0))
    rule = DecisionRule((0.5,))
    bad: list[tuple[View, str]] = [
        ((view[0], view[1]._replace(attention=None)), "attention None"),
        ((view[0], view[1]._replace(logits=view[1].logits[:1])), r"expected \(2, 4, h, w\)"),
        (view[1:], r"expected in each view the image's, \(45, 61\)"),
        (view[::-1], "the largest first"),
    ]
    for wrong, message in bad:
        with pytest.raises(ShapeError, match=message):
            decide_jointly([wrong], size, rule)
    with pytest.raises(SettingsError, match="threshold is 1"):
        decide_jointly([view], size, DecisionRule((0.5, 1.0, 0.5, 0.5)))


def test_positions_far_out_are_exact() -> None:
    """At a long axis of odd length, where float32 positions are off, labels are still those of exact arithmetic."""
    size = (9, 4099)
    view = make_view(4, size, (0.5, 1.0), smooth=1, batch=1)
    assert_exact(decide_jointly([view], size, DecisionRule((0.5,))).labels, exact_logits(view, size), (0.5,))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_labels_are_the_same_on_a_gpu() -> None:
    """As labels are those of exact arithmetic, a GPU gives the CPU's, and leaves them where it made them."""
    size = (45, 61)
    view = make_view(6, size, (0.5, 1.0, 2.0), smooth=2)
    there = [
        ScaledPrediction(p.logits.cuda(), None if p.attention is None else p.attention.cuda(), p.size) for p in view
    ]
    rule = DecisionRule((0.5,))
    labels = decide_jointly([there], size, rule).labels
    assert labels.is_cuda
    assert torch.equal(labels.cpu(), decide_jointly([view], size, rule).labels)
