"""Which pixels' labels are certain before anything is fused: the exact early-out.

**What holds.** Call the pixels of a network's own maps nodes. At each pixel of the image the joint logits are
`sum_n w_n L_n` over nodes n of all scales, with the same weights for every class, none negative, their sum 1:

- enlarging and shrinking take, at each pixel, a bilinear mean: weights that are not negative and sum to 1;
- at scales from 1 up, `a X + (1 - a) J` with a in [0, 1] is such a mean of two such means;
- at scales below 1, the enlarged `a X` has the weights `r_j a_j` (r: bilinear) on the X_j, which sum to the enlarged a;
  J has the rest, 1 - enlarged a. Again none is negative and the sum is 1;
- the mean over views is such a mean, a mirrored view's maps being mirrored back.

Let `S_k(l) = sum over c != k of exp(l_c - l_k)`. It is a sum of exponentials of linear functions of the logits l, so it
is convex, and at the pixel `S_k(sum_n w_n L_n) <= sum_n w_n S_k(L_n) <= max_n S_k(L_n)`. Softmax has
`p_k = 1 / (1 + S_k)`. So where one class k has p_k > u at every node that may have a weight, it has p_k > u at the
pixel; and with u >= 1/2 it is the top class there. With u = max(threshold of k, 1/2), the pixel's label is k. Neither
the attention nor any enlarged map is needed for it, and it does not matter that the weights are not known.

Nodes that may have a weight are found for blocks of pixels, axis by axis, through the same steps of resizing that
fusion takes. The bound asks for a bit more than u, so that rounding in S cannot matter. Logits that are not finite and
attention outside [0, 1] are not covered: ask `largest_logit` first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from storage.schema import IGNORE
from teacher.decision import find_top, of_class
from teacher.late_fusion import View, parts_of
from teacher.resampling import Blocks

_SAFETY = 1e-4
"""Relative. Rounding in a node's probability is about a hundred times less."""


def largest_logit(views: Sequence[View]) -> float | None:
    """The largest absolute logit of one image's predictions; None where the early-out does not hold.

    The host waits for the device once, for 8 bytes a map.
    """
    extremes = [torch.stack(p.logits.aminmax()) for view in views for p in view]
    weights = [torch.stack(p.attention.aminmax()) for view in views for p in view if p.attention is not None]
    values = torch.cat([*extremes, *weights]).tolist()
    logits, attention = values[: 2 * len(extremes)], values[2 * len(extremes) :]
    # a NaN among the values is the minimum and the maximum, and fails both comparisons
    if all(map(math.isfinite, logits)) and all(0 <= weight <= 1 for weight in attention):
        return max(map(abs, logits))
    return None


def certain_nodes(logits: Tensor, least: Tensor, memory: int) -> Tensor:
    """Each node's class where its probability is above max(threshold, 1/2), by a safe margin.

    Args:
        logits: of one image at one scale, (class, h, w) float32.
        least: thresholds, one for all classes or one a class, float32.
        memory: bytes to work in, roughly.

    Returns:
        (h, w) uint8, a class index or 255.
    """
    bound = least.clamp(min=0.5) * (1 + _SAFETY)
    found = []
    for rows in logits.split(max(1, memory // (8 * logits[:, 0].numel())), dim=1):
        top = find_top(rows[None])
        uncertain = top.confidence <= of_class(bound, top.classes)
        found.append(_or_ignore(top.classes, uncertain)[0])
    return torch.cat(found)


def certain_blocks(views: Sequence[View], blocks: Blocks, least: Tensor, memory: int) -> Tensor:
    """Each block's class where one class is certain at every node that any of its pixels is made of.

    Args:
        views: predictions of one image, without the batch axis.
        blocks: of the image's grid; which of its rows and columns are paired does not matter.
        least: thresholds, as in `certain_nodes`.
        memory: bytes to work in, roughly.

    Returns:
        (run of rows, run of columns) uint8, a class index or 255.
    """
    agreed: Tensor | None = None
    for view in views:
        for prediction, part in zip(view, parts_of(view, blocks), strict=True):
            logits = prediction.logits
            nodes = part.on((logits.shape[-2], logits.shape[-1]))
            certain = certain_nodes(logits, least, memory)
            for axis, pixels in enumerate((nodes.rows.pixels, nodes.columns.pixels)):
                first, *others = (certain.index_select(axis, each) for each in pixels)
                certain = _agreeing(first, others)
            agreed = certain if agreed is None else _agreeing(agreed, [certain])
    assert agreed is not None, "there is a view"
    return agreed


def _agreeing(classes: Tensor, others: Sequence[Tensor]) -> Tensor:
    for other in others:
        classes = _or_ignore(classes, classes != other)
    return classes


def _or_ignore(classes: Tensor, ignored: Tensor) -> Tensor:
    """The classes, or 255 where `ignored`: all bits set. Several times as fast as filling by a mask on a CPU."""
    assert IGNORE == (-1) % 256, "all bits of it are set"
    return ignored.view(torch.uint8).neg_().bitwise_or_(classes)
