"""Multi-scale fusion: predictions at several scales become one, by the lower scale's attention or as their mean.

A mean is the hierarchy with constant attention: the k-th scale, counted from 0, has 1 / (k + 1) of what it makes with
those before it. So all that holds of the one (`teacher.late_fusion`, `teacher.early_out`) holds of the other.

Knows nothing of devices, precision or files: it works where its tensors are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from storage.errors import ImageError, SettingsError, ShapeError
from teacher.networks.layers import resize
from teacher.networks.prediction import Fusion, Network, ScalePrediction

MIN_SIDE = 4
"""Below this many pixels a network's stride leaves nothing."""


class ScaledPrediction(NamedTuple):
    """What a network says of a batch of images at one scale, at its own stride: nothing is enlarged yet."""

    logits: Tensor
    """(batch, class, h, w) float32, contiguous."""
    attention: Tensor | None
    """Weight of this scale against the larger ones, (batch, 1, h, w) float32 in [0, 1]; None for the largest scale. Of
    a network that fuses its scales by itself, what each of them counts, as `ScalePrediction.attention`."""
    size: tuple[int, int]
    """(height, width) of the scaled images, to which the logits are to be enlarged."""

    def divided(self, temperature: float) -> "ScaledPrediction":
        """The prediction with its logits divided; as fusion is linear in them, so are the joint logits."""
        return self._replace(logits=self.logits / temperature)

    def mirrored(self) -> "ScaledPrediction":
        """The prediction with left and right exchanged, which turns that of a mirrored image back."""
        return ScaledPrediction(
            self.logits.flip(-1), None if self.attention is None else self.attention.flip(-1), self.size
        )


class TrainingPrediction(NamedTuple):
    """What a training forward gives, all at the size of the images."""

    joint: Tensor
    """Fused logits, (batch, class, height, width), float32."""
    joint_auxiliary: Tensor | None
    """Fused auxiliary logits, shaped as `joint`; None where the network has none."""
    low: Tensor | None
    """Logits of the low scale alone, shaped as `joint`; None where there is one scale, and they are the joint's."""
    high: Tensor | None
    """Logits of scale 1 alone, shaped as `joint`; None as before."""


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Check a list of scales and sort it from high to low.

    Args:
        scales: ratios to the image, in any order.

    Returns:
        The scales from high to low, the order in which they are fused.

    Raises:
        SettingsError: a scale is not a positive number or comes twice, or 1.0 is missing.
    """
    given = ", ".join(map(str, scales)) or "none"
    if not all(math.isfinite(s) and s > 0 for s in scales):
        raise SettingsError(f"scales are {given}: expected positive numbers")
    if len(set(scales)) != len(scales):
        raise SettingsError(f"scales are {given}: expected each only once")
    if 1.0 not in scales:
        raise SettingsError(f"scales are {given}: 1.0 must be among them, the fusion ends at the image's own size")
    return tuple(sorted(scales, reverse=True))


def scales_of(fusion: Fusion, scales: Sequence[float]) -> tuple[float, ...]:
    """The scales at which a network is run: checked, from high to low.

    For single only the image's own; for explicit too, as such a network goes through its scales by itself.

    Raises:
        SettingsError: as `check_scales`.
    """
    ordered = check_scales(scales)
    return (1.0,) if fusion in ("single", "explicit") else ordered


def size_at_scale(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Size of an image at a scale: rounded down.

    Args:
        size: (height, width) of the image.
        scale: positive.

    Returns:
        (height, width) at that scale.

    Raises:
        ImageError: a side would be shorter than 4 pixels.
    """
    height, width = math.floor(size[0] * scale), math.floor(size[1] * scale)
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"an image of {size[1]}x{size[0]} pixels is {width}x{height} at scale {scale}: expected sides of at least "
            f"{MIN_SIDE} pixels; leave out the scale or the image"
        )
    return height, width


def predict_at_scale(
    network: Network, images: Tensor, scale: float, *, attend: bool = True, auxiliary: bool = False
) -> ScalePrediction:
    """Run a network on the images at one scale.

    Args:
        network: what predicts.
        images: normalised RGB, (batch, 3, height, width), float.
        scale: ratio to the images' size, positive.
        attend: whether the attention is wanted.
        auxiliary: whether the auxiliary logits are wanted; they are needed in training only.

    Returns:
        The prediction in float32 at the scaled images' size, (batch, ..., floor(height * scale), floor(width * scale)).
        The attention is enlarged after its sigmoid.

    Raises:
        ImageError: the images are too small for the scale.
    """
    size = size_at_scale((images.shape[-2], images.shape[-1]), scale)
    logits, attention, extra = network(resize(images, size), attend=attend)
    wanted = extra if auxiliary else None
    return ScalePrediction(
        resize(logits.float(), size),
        None if attention is None else resize(attention.float(), size),
        None if wanted is None else resize(wanted.float(), size),
    )


def predict_scales(
    network: Network, images: Tensor, scales: Sequence[float], fusion: Fusion = "hierarchical"
) -> tuple[ScaledPrediction, ...]:
    """Run a network on the images at each scale, and enlarge nothing: what `teacher.late_fusion` fuses.

    Args:
        network: what predicts.
        images: normalised RGB, (batch, 3, height, width), float.
        scales: ratios to the images' size, 1.0 among them, in any order.
        fusion: what is to become of the predictions; single leaves out all scales but 1.0.

    Returns:
        A prediction for each scale, from the largest scale to the smallest.

    Raises:
        SettingsError: the scales are not positive, come twice, or lack 1.0; or the network has no attention for them.
        ImageError: the images are too small for the lowest scale.
    """
    ordered = scales_of(fusion, scales)
    sizes = [size_at_scale((images.shape[-2], images.shape[-1]), scale) for scale in ordered]
    predictions: list[ScaledPrediction] = []
    for number, size in enumerate(sizes):
        attend = fusion == "explicit" or (fusion == "hierarchical" and number > 0)  # the largest scale's is not used
        logits, attention, _ = network(resize(images, size), attend=attend)
        weight = _weight(logits, attention, number, fusion)
        predictions.append(ScaledPrediction(logits.float().contiguous(), weight, size))
    return tuple(predictions)


def _weight(logits: Tensor, attention: Tensor | None, number: int, fusion: Fusion) -> Tensor | None:
    """How much a scale counts against the larger ones, of which there are `number`; None for the largest of several."""
    if number == 0 and fusion != "explicit":
        return None
    if fusion == "average":
        return torch.full_like(logits[:, :1], 1 / (number + 1), dtype=torch.float32).contiguous()
    if attention is None:
        raise SettingsError(
            "this network has no scale attention, and cannot fuse several scales by it: choose the fusion average, or "
            "scale 1 alone"
        )
    return attention.float().contiguous()


def blend(finer: Tensor, coarser: Tensor, attention: Tensor) -> Tensor:
    """Blend a coarser scale's logits into a finer one's by the coarser scale's attention.

    Args:
        finer: logits, (batch, class, height, width), float.
        coarser: logits, (batch, class, h, w), h <= height, w <= width.
        attention: weight of the coarser scale, (batch, 1, h, w) in [0, 1].

    Returns:
        Logits (batch, class, height, width). No value lies outside the range of the two inputs.

    Raises:
        ShapeError: the batch or class axes differ, or the attention is not of the coarser scale.

    Source: arXiv:2005.10821, section 3.1, equation 1.
    """
    if finer.shape[:2] != coarser.shape[:2] or attention.shape != (coarser.shape[0], 1, *coarser.shape[2:]):
        raise ShapeError(
            f"cannot blend logits {tuple(coarser.shape)} with attention {tuple(attention.shape)} into logits "
            f"{tuple(finer.shape)}: batch and class must agree, and the attention must have the coarser logits' size"
        )
    size = (finer.shape[-2], finer.shape[-1])
    # Weighted at its own size and only then enlarged: the other order gives different logits.
    weighted = resize(attention * coarser, size)
    return weighted + (1 - resize(attention, size)) * finer


def hierarchical_logits(
    network: Network, images: Tensor, scales: Sequence[float], fusion: Fusion = "hierarchical"
) -> Tensor:
    """Fuse the predictions at all scales into one.

    From the largest scale down, each scale takes from the joint prediction of the larger ones where its own
    attention is low. So the lowest scale has the last word, and the largest scale's attention is not used. The average
    is that of the logits, as in the public code of the paper, and not of probabilities; a scale above 1 comes to the
    image's size by way of the scales between.

    Args:
        network: what predicts.
        images: normalised RGB, (batch, 3, height, width), float.
        scales: ratios to the images' size, 1.0 among them, in any order.
        fusion: how they are fused; single leaves out all scales but 1.0.

    Returns:
        Joint logits, (batch, class, height, width), float32.

    Raises:
        SettingsError: the scales are not positive, come twice, or lack 1.0; or the network has no attention for them.
        ImageError: the images are too small for the lowest scale.

    Source: arXiv:2005.10821, section 3.1.
    """
    ordered = scales_of(fusion, scales)
    image_size = (images.shape[-2], images.shape[-1])
    size_at_scale(image_size, ordered[-1])  # refuses before, not after, the expensive large scales
    joint = predict_at_scale(network, images, ordered[0], attend=False).logits
    for number, scale in enumerate(ordered[1:], start=1):
        logits, given, _ = predict_at_scale(network, images, scale, attend=fusion == "hierarchical")
        attention = _weight(logits, given, number, fusion)
        assert attention is not None, "only the largest scale is without"
        if scale >= 1:
            joint = resize(joint, size_at_scale(image_size, scale))
        joint = blend(joint, logits, attention)
    return joint


def training_forward(network: Network, images: Tensor, low_scale: float = 0.5) -> TrainingPrediction:
    """Predict at a low scale and at scale 1 and fuse the two, so that a loss on the joint also trains the attention.

    Args:
        network: what predicts.
        images: normalised RGB, (batch, 3, height, width), float.
        low_scale: ratio of the low scale, in (0, 1).

    Returns:
        Joint logits, joint auxiliary logits and the logits of both scales, all (batch, class, height, width).

    Raises:
        SettingsError: the low scale is not in (0, 1).
        ImageError: the images are too small for the low scale.

    Source: arXiv:2005.10821, section 3.1, "Training".
    """
    if not 0 < low_scale < 1:
        raise SettingsError(f"low_scale is {low_scale}, expected a number above 0 and below 1")
    low = predict_at_scale(network, images, low_scale, auxiliary=True)
    # its attention is not used, but the head's batch norm must learn the statistics of every scale it may serve
    high = predict_at_scale(network, images, 1.0, auxiliary=True)
    assert low.attention is not None, "asked for"
    joint_auxiliary: Tensor | None = None
    if low.auxiliary is not None and high.auxiliary is not None:
        joint_auxiliary = blend(high.auxiliary, low.auxiliary, low.attention)
    return TrainingPrediction(
        joint=blend(high.logits, low.logits, low.attention),
        joint_auxiliary=joint_auxiliary,
        low=resize(low.logits, (images.shape[-2], images.shape[-1])),
        high=high.logits,
    )


def single_scale_forward(network: Network, images: Tensor) -> TrainingPrediction:
    """Predict at scale 1 alone: the training of a network that has no attention.

    Args:
        network: what predicts.
        images: normalised RGB, (batch, 3, height, width), float.

    Returns:
        Its logits and auxiliary logits as the joint ones; no logits of single scales.
    """
    only = predict_at_scale(network, images, 1.0, attend=False, auxiliary=True)
    return TrainingPrediction(only.logits, only.auxiliary, None, None)
