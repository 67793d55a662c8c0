"""Hierarchical fusion of predictions that were not enlarged: the joint logits of any part of the image.

`teacher.fusion.hierarchical_logits` is the reference: it enlarges everything, then fuses. Here each part is enlarged
when its turn comes, and no tensor is larger than the part.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from storage.errors import ShapeError
from teacher.fusion import ScaledPrediction
from teacher.resampling import Part, Stripe, is_one_step

View = Sequence[ScaledPrediction]
"""Predictions of one view of the images, from the largest scale to the smallest, as `fusion.predict_scales` gives."""

AnyPart = TypeVar("AnyPart", bound=Part)


def without_detour(view: View, size: tuple[int, int]) -> tuple[ScaledPrediction, ...]:
    """Enlarge the largest scale's logits to the size of the next where that is the same as going by its own.

    At scale 2.0, a quarter of the scaled size is enlarged fourfold and halved: as directly twofold. Attention comes
    into play only at the next scale, so this holds for the largest scale and no other.

    Args:
        view: the predictions.
        size: (height, width) of the images: scales below 1 are not what a larger one is shrunk to.
    """
    if len(view) < 2 or _is_smaller(view[1].size, size):
        return tuple(view)
    first, second = view[:2]
    lengths = zip(first.logits.shape[-2:], first.size, second.size, strict=True)
    if all(is_one_step(*axis) for axis in lengths):
        first = first._replace(size=second.size)
    return (first, *view[1:])


def parts_of(view: View, part: AnyPart) -> list[AnyPart]:
    """The part of each prediction's own grid, the scaled image's pixels, that a part of the image is fused from.

    Args:
        view: the predictions.
        part: of the image's grid.

    Returns:
        A part for each prediction. Scales from 1 up are fused on the smaller one's grid and passed down, scales below
        1 are each enlarged to the image's.
    """
    parts: list[AnyPart] = []
    passed_down = part
    for prediction in reversed(view):
        if _is_smaller(prediction.size, part.size):
            parts.append(part.on(prediction.size))
        else:
            passed_down = passed_down.on(prediction.size)
            parts.append(passed_down)
    return parts[::-1]


def fuse(view: View, part: AnyPart, values_on: Callable[[int, AnyPart], Tensor] | None = None) -> Tensor:
    """Joint logits of a part of the image: the formula of `hierarchical_logits`, there only.

    Args:
        view: predictions of one image, without the batch axis.
        part: of the image's grid.
        values_on: what is fused in the logits' stead: from a prediction's place in the view and a part of its own grid.

    Returns:
        Joint logits on the part, float.

    Source: arXiv:2005.10821, section 3.1.
    """
    values_on = values_on or (lambda number, own: own.sample(view[number].logits))
    at, *places = parts_of(view, part)
    joint = values_on(0, at)
    for number, own in enumerate(places, start=1):
        attention = view[number].attention
        assert attention is not None, "only the largest scale is without"
        attention = own.sample(attention)
        values = attention * values_on(number, own)
        if _is_smaller(own.size, part.size):
            # weighted at its own size and only then enlarged, as in `fusion.blend`
            values, attention = part.interpolate(values, own), part.interpolate(attention, own)
        else:
            joint, at = own.interpolate(joint, at), own
        joint = values.addcmul_(1 - attention, joint)
    return joint


def fuse_views(views: Sequence[View], part: Part) -> Tensor:
    """Mean of the joint logits of several views of one image, on a part of it."""
    joints = [fuse(view, part) for view in views]
    return joints[0] if len(joints) == 1 else torch.stack(joints).mean(dim=0)


def image_of(view: View, index: int) -> tuple[ScaledPrediction, ...]:
    """The predictions of one image of the batch, without the batch axis."""
    return tuple(
        ScaledPrediction(p.logits[index], None if p.attention is None else p.attention[index], p.size) for p in view
    )


def check_views(views: Sequence[View], size: tuple[int, int]) -> None:
    """Refuse predictions that are not of one batch of images of that size.

    Args:
        views: of the batch.
        size: (height, width) of the images.

    Raises:
        ShapeError: a scale's batch, classes or attention do not agree with the others', an attention is missing, or
            the scales are not from large to small with the image's own among them.
    """
    sizes = [[prediction.size for prediction in view] for view in views]
    if not views or any(size not in s or s != sorted(s, reverse=True) for s in sizes):
        raise ShapeError(
            f"predictions are of the sizes {sizes}, expected in each view the image's, {size}, among them, and the "
            f"largest first: take them from predict_scales"
        )
    batch, classes = views[0][0].logits.shape[:2]
    for view in views:
        for number, (logits, attention, _) in enumerate(view):
            weights = None if attention is None else tuple(attention.shape)
            if logits.shape[:2] != (batch, classes) or (number and weights != (batch, 1, *logits.shape[2:])):
                raise ShapeError(
                    f"a prediction has logits {tuple(logits.shape)} and attention {weights}, expected "
                    f"({batch}, {classes}, h, w) and, but for the largest scale, ({batch}, 1, h, w)"
                )


def joint_logits(views: Sequence[View], size: tuple[int, int]) -> Tensor:
    """Joint logits of whole images, up to rounding those of `hierarchical_logits`.

    Args:
        views: the predictions; with flip also those of the mirrored images, mirrored back.
        size: (height, width) of the images.

    Returns:
        (batch, class, height, width) float32, the mean over the views.

    Raises:
        ShapeError: the predictions do not belong together.
    """
    check_views(views, size)
    part = Stripe(size, 0, size[0])
    direct = [without_detour(view, size) for view in views]
    return torch.stack([fuse_views([image_of(v, i) for v in direct], part) for i in range(len(views[0][0].logits))])


def stripe_height(views: Sequence[View], size: tuple[int, int], memory: int) -> int:
    """Rows of a stripe for which fusion and decision stay within so many bytes, at least one.

    Counted are, for each scale, the logits of the stripe's rows at its own width, thrice: two tensors are mixed into a
    third. Rows that a stripe shares with its neighbours come on top, two or three at each scale.
    """
    classes = views[0][0].logits.shape[-3]
    largest = max(prediction.size[0] * prediction.size[1] for prediction in views[0])
    bytes_per_row = 3 * 4 * classes * max(largest, 2 * size[0] * size[1]) // size[0]
    return max(1, memory // bytes_per_row)


def _is_smaller(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return size[0] < other[0] or size[1] < other[1]
