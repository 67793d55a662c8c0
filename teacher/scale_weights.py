"""How much each scale counts in the joint prediction, pixel by pixel: the attention as it is saved and shown.

Nothing of it is needed for a label.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from storage.attention_maps import FULL
from teacher.joint_decision import WORKING_BYTES
from teacher.late_fusion import View, check_views, fuse, image_of, stripe_height, without_detour
from teacher.resampling import Stripe


def scale_weights(views: Sequence[View], size: tuple[int, int]) -> Tensor:
    """The weight of each scale in the joint logits: what fusion makes of a map that is 1 at that scale and 0 elsewhere.

    A network that fuses its scales by itself says what each counts, at its own stride: that is enlarged.

    Args:
        views: predictions of a batch of images, as for `teacher.joint_decision.decide_jointly`.
        size: (height, width) of the images.

    Returns:
        (batch, scale, height, width) uint8, the smallest scale first; over the scales they sum to 255 at each pixel.

    Raises:
        ShapeError: the predictions do not belong together.
    """
    check_views(views, size)
    direct = [without_detour(view, size) for view in views]
    memory = WORKING_BYTES[views[0][0].logits.device.type]
    images = []
    for index in range(len(views[0][0].logits)):
        image = [image_of(view, index) for view in direct]
        height = stripe_height(image, size, memory)
        stripes = [Stripe(size, row, min(row + height, size[0])) for row in range(0, size[0], height)]
        images.append(torch.cat([_weights(image, stripe) for stripe in stripes], dim=1))
    return torch.stack(images)


def _weights(views: Sequence[View], stripe: Stripe) -> Tensor:
    means = torch.stack([_shares(view, stripe) for view in views]).mean(dim=0)
    # each scale's share ends where those of the smaller ones and its own, rounded together, end: so none is lost
    ends = means.cumsum(dim=0).mul_(FULL).round_().clamp_(0, FULL)
    ends[-1] = FULL
    return ends.diff(dim=0, prepend=torch.zeros_like(ends[:1])).to(torch.uint8)


def _shares(view: View, stripe: Stripe) -> Tensor:
    """(scale, row, column) float32, the smallest scale first."""
    explicit = view[0].attention  # of one scale, none but a network that fuses by itself has any
    return fuse(view, stripe, partial(_only, view)).flip(0) if explicit is None else stripe.sample(explicit)


def _only(view: View, number: int, own: Stripe) -> Tensor:
    """1 at one scale and 0 at the others, on a part of its own grid: (scale, row, column)."""
    sampled = own.sample(view[number].logits[:1])
    maps = torch.zeros((len(view), *sampled.shape[1:]), device=sampled.device)
    maps[number] = 1
    return maps
