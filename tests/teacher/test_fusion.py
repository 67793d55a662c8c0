import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from storage.errors import ImageError, SettingsError, ShapeError
from teacher.fusion import (
    blend,
    check_scales,
    hierarchical_logits,
    predict_at_scale,
    size_at_scale,
    training_forward,
)
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec

FillNetwork = Callable[[NetworkSpec], nn.Module]


def _enlarging(length: int, target: int) -> np.ndarray:
    """The matrix that resizes an axis bilinearly with half-pixel centres: (target, length)."""
    matrix = np.zeros((target, length))
    for row in range(target):
        position = max((row + 0.5) * length / target - 0.5, 0)
        below = math.floor(position)
        matrix[row, below] += 1 - (position - below)
        matrix[row, min(below + 1, length - 1)] += position - below
    return matrix


def _resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = _enlarging(maps.shape[-2], size[0]), _enlarging(maps.shape[-1], size[1])
    return rows @ maps @ columns.T


def _recomputed(network: nn.Module, images: Tensor, scales: tuple[float, ...]) -> np.ndarray:
    """The fusion written out in numpy and float64, independently of the code under test."""
    height, width = images.shape[-2:]
    joint = None
    for scale in sorted(scales)[::-1]:
        size = (int(height * scale), int(width * scale))
        scaled = torch.from_numpy(_resized(images.double().numpy(), size)).float()
        prediction = network(scaled)
        logits = _resized(prediction.logits.double().numpy(), size)
        attention = _resized(prediction.attention.double().numpy(), size)
        if joint is None:
            joint = logits
        elif scale >= 1:
            joint = attention * logits + (1 - attention) * _resized(joint, size)
        else:
            full = joint.shape[-2:]
            joint = _resized(attention * logits, full) + (1 - _resized(attention, full)) * joint
    assert joint is not None
    return joint


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0), (1.0, 2.0), (0.5, 1.0, 2.0), (0.3, 0.5, 1.0, 1.5, 2.0)])
def test_fusion_is_the_papers(
    fill_network: FillNetwork,
    narrow_spec: NetworkSpec,
    images: Tensor,
    scales: tuple[float, ...],
) -> None:
    """At an odd size and for any scales, the joint logits are those of the formula written out in float64."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        joint = hierarchical_logits(network, images, scales)
        expected = _recomputed(network, images, scales)
    assert joint.shape == (2, 3, 45, 61)
    assert joint.dtype == torch.float32
    np.testing.assert_allclose(joint.numpy(), expected, atol=2e-4 * np.abs(expected).max())


def test_fusion_of_one_scale_is_identity(fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor) -> None:
    """With scale 1 alone the joint logits are the network's own, enlarged."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        assert torch.equal(hierarchical_logits(network, images, [1.0]), predict_at_scale(network, images, 1).logits)


def test_order_of_scales_does_not_matter(fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor) -> None:
    """Any order of the list of scales gives the same logits."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        first, *others = (hierarchical_logits(network, images, s) for s in itertools.permutations([0.5, 1, 2]))
    assert all(torch.equal(first, other) for other in others)


def test_a_batch_is_its_images(fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor) -> None:
    """Two images in a batch are predicted as each is alone."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        together = hierarchical_logits(network, images, [0.5, 1])
        alone = torch.cat([hierarchical_logits(network, image[None], [0.5, 1]) for image in images])
    assert (together - alone).abs().max() < 1e-5 * together.abs().max().clamp(min=1)


def _constant(attention: dict[int, float]):  # noqa: ANN202 - a network
    """A network whose logits are the image's height and whose attention is given by that height."""

    def network(scaled: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        height = scaled.shape[-2]
        small = (1, 1, max(height // 4, 1), max(scaled.shape[-1] // 4, 1))
        trust = torch.full(small, attention[height]) if attend else None
        return ScalePrediction(torch.full(small, float(height)), trust, None)

    return network


def test_lowest_scale_has_the_last_word() -> None:
    """Where the lowest scale's attention is 1, nothing else shows; where it is 0, it does not show itself."""
    image = torch.zeros(1, 3, 16, 24)
    sure = hierarchical_logits(_constant({32: 1, 16: 1, 8: 1}), image, [0.5, 1, 2])
    unsure = hierarchical_logits(_constant({32: 1, 16: 1, 8: 0}), image, [0.5, 1, 2])
    assert torch.equal(sure, torch.full_like(sure, 8))
    assert torch.equal(unsure, torch.full_like(unsure, 16))


def test_attention_of_the_largest_scale_is_not_computed() -> None:
    """The largest scale shows only as far as the scale below leaves room; its own attention is not asked for."""
    image = torch.zeros(1, 3, 16, 24)
    joint = hierarchical_logits(_constant({16: 0.25}), image, [1, 2])
    assert torch.allclose(joint, torch.full_like(joint, 0.25 * 16 + 0.75 * 32))


@given(seed=st.integers(0, 10_000), low=st.integers(1, 6), wide=st.integers(1, 6), more=st.integers(0, 7))
def test_blend_is_convex(seed: int, low: int, wide: int, more: int) -> None:
    """No blended value lies outside the range of the values it was blended from."""
    generator = torch.Generator().manual_seed(seed)
    coarser = torch.randn(1, 2, low, wide, generator=generator)
    attention = torch.rand(1, 1, low, wide, generator=generator)
    finer = torch.randn(1, 2, low + more, wide + more, generator=generator)
    joint = blend(finer, coarser, attention)
    values = torch.cat([finer.flatten(2), coarser.flatten(2)], dim=2)
    assert joint.shape == finer.shape
    assert (joint.amax((2, 3)) <= values.amax(2) + 1e-5).all()
    assert (joint.amin((2, 3)) >= values.amin(2) - 1e-5).all()


def test_blend_refuses_other_shapes() -> None:
    """Logits of another number of classes cannot be blended."""
    with pytest.raises(ShapeError, match="batch and class must agree"):
        blend(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((0.5, 2.0), "1.0 must be among them"),
        ((), "none: 1.0 must be"),
        ((1.0, 1.0), "only once"),
        ((1.0, 0.0), "positive"),
        ((1.0, -2.0), "positive"),
        ((1.0, math.nan), "positive"),
        ((1.0, math.inf), "positive"),
    ],
)
def test_bad_scales_are_refused(scales: tuple[float, ...], message: str) -> None:
    """Scales must be positive, come once, and contain 1.0."""
    with pytest.raises(SettingsError, match=message):
        check_scales(scales)


def test_scaled_size_is_rounded_down() -> None:
    """A scaled image has the whole pixels that fit."""
    assert size_at_scale((333, 251), 0.5) == (166, 125)
    assert size_at_scale((333, 251), 1.0) == (333, 251)
    assert size_at_scale((333, 251), 1.5) == (499, 376)


def test_too_small_an_image_is_refused(fill_network: FillNetwork, narrow_spec: NetworkSpec) -> None:
    """An image that keeps fewer than four pixels at the lowest scale is refused, and the message says so."""
    with pytest.raises(ImageError, match=r"40x7 pixels is 20x3 at scale 0\.5"):
        hierarchical_logits(fill_network(narrow_spec), torch.zeros(1, 3, 7, 40), [0.5, 1.0])


def test_smallest_image_is_predicted(fill_network: FillNetwork, narrow_spec: NetworkSpec) -> None:
    """An image that keeps four pixels at the lowest scale is predicted at its own size."""
    with torch.inference_mode():
        joint = hierarchical_logits(fill_network(narrow_spec), torch.zeros(1, 3, 8, 9), [0.5, 1.0])
    assert joint.shape == (1, 3, 8, 9)


def test_training_forward_is_the_two_scale_fusion(
    fill_network: FillNetwork,
    narrow_spec: NetworkSpec,
    images: Tensor,
) -> None:
    """In evaluation mode, training's joint is inference's for the same scales, all at the image's size."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        prediction = training_forward(network, images)
        joint = hierarchical_logits(network, images, [0.5, 1.0])
    assert torch.equal(prediction.joint, joint)
    assert prediction.joint_auxiliary is not None
    assert {tuple(p.shape) for p in prediction if p is not None} == {(2, 3, 45, 61)}


@pytest.mark.parametrize("output", ["joint", "joint_auxiliary"])
def test_joint_trains_the_attention(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor, output: str
) -> None:
    """A loss on either joint gives a gradient to the attention head; the low scale alone gives it none."""
    network = fill_network(narrow_spec).train()
    prediction = training_forward(network, images)
    prediction.low.square().mean().backward(retain_graph=True)
    assert all(p.grad is None for p in network.scale_attn.parameters())
    getattr(prediction, output).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.scale_attn.parameters())


@pytest.mark.parametrize("low_scale", [0.0, 1.0, 2.0, math.nan])
def test_low_scale_must_be_low(low_scale: float, images: Tensor) -> None:
    """Training's low scale lies between 0 and 1."""
    with pytest.raises(SettingsError, match="low_scale"):
        training_forward(_constant({}), images, low_scale)
