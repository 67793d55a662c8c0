"""Labels straight from predictions that were not enlarged: fusion and decision in one go, in bounded memory.

Most pixels are certain before they are fused (`teacher.early_out`). What is left is fused densely, in batches of
blocks, in float32; and pixels so near to their threshold that float32 may put them on the wrong side are fused again in
float64. So a label is what exact arithmetic gives. Where confidence is kept, every pixel is needed: then the image is
fused in stripes, in float32, and pixels of which float32 may have label, code or runner-up wrong again in float64.

**What crosses to the host** is up to the caller, who gets 1 byte a pixel, and 2 or 3 more where confidence is kept.
Here only the range of values does (8 bytes a map), the numbers of blocks left and of pixels that go to float64, and the
places of these (16 bytes each; some hundreds in two million pixels). The host waits for the device five times an
image; in stripes once, and at most twice for each stripe when all of them are on their way.

**Memory** on the device, beside the predictions: what is returned and two label maps more, 12 bytes for each node, 40
for each block left (of 4x4 pixels), and `WORKING_BYTES` to work in.

**Stripes or blocks**: with nothing certain, 1920x1080 in blocks take 1.2 times as long on a CPU as in stripes, and 1.4
times with scales 0.5/1/2; with two thirds certain, half as long. So what is not kept always goes in blocks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.schema import IGNORE
from teacher.decision import DecisionRule, TopClasses, apply_thresholds, check_threshold, find_top, of_class, quantise
from teacher.early_out import are_numbers, block_pixels, certain_blocks, largest_logit, rounding
from teacher.late_fusion import View, check_views, fuse_views, image_of, stripe_height, without_detour
from teacher.resampling import Blocks, Runs, Stripe
from teacher.tables import constant

BLOCK = 4
"""Pixels a side. At a network's usual stride, 4, the pixels of a block lie between the same four nodes of scale 1."""

WORKING_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
"""What may be worked on at once, roughly: on a CPU what its caches hold, on a GPU enough to fill it."""

_POINTS = 4096
"""Pixels that are settled at once."""


class JointDecision(NamedTuple):
    """What is decided of a batch, on the predictions' device."""

    labels: Tensor
    """(batch, height, width) uint8: a class index, or 255 where the confidence is too low."""
    soft: Tensor | None
    """(batch, plane, height, width) uint8: class, confidence code and, with top2, runner-up; None where nothing is
    kept."""
    finite: tuple[bool, ...]
    """For each image, whether its predictions are numbers; a pixel is ignored where they are not."""


def decide_jointly(views: Sequence[View], size: tuple[int, int], rule: DecisionRule) -> JointDecision:
    """Fuse and decide.

    Args:
        views: predictions of a batch of images, as `fusion.predict_scales` gives them; with flip also those of the
            mirrored images, mirrored back.
        size: (height, width) of the images.
        rule: the thresholds, one or one a class, and what is kept.

    Raises:
        SettingsError: a threshold or the steps are out of range.
        ShapeError: the predictions do not belong together.
    """
    check_views(views, size)
    for threshold in rule.thresholds:
        check_threshold(threshold)
    direct = [without_detour(view, size) for view in views]
    memory = WORKING_BYTES[views[0][0].logits.device.type]
    labels, soft, finite = [], [], []
    for index in range(len(views[0][0].logits)):
        image = [image_of(view, index) for view in direct]
        largest = largest_logit(image)
        finite.append(largest is not None or are_numbers(image))
        if largest is None or rule.keep != "none":
            label, *planes = decide_stripes(image, size, rule, largest, memory)
            soft += planes
        else:
            label = decide_blocks(image, size, rule.thresholds, largest, memory)
        labels.append(label)
    return JointDecision(torch.stack(labels), torch.stack(soft) if soft else None, tuple(finite))


def decide_stripes(
    views: Sequence[View], size: tuple[int, int], rule: DecisionRule, largest: float | None, memory: int
) -> list[Tensor]:
    """Fuse and decide every pixel of one image, stripe by stripe.

    Args:
        views: predictions of one image, without the batch axis.
        size: (height, width) of the image.
        rule: the thresholds, and what is kept.
        largest: absolute logit; None: they are not finite, and float32 decides.
        memory: bytes to work in, roughly.

    Returns:
        The label (height, width) uint8 and, where something is kept, the planes (plane, height, width) uint8.
    """
    height, top2 = stripe_height(views, size, memory), rule.keep == "top2"
    stripes, doubts = [], []
    for start in range(0, size[0], height):
        joint = fuse_views(views, Stripe(size, start, min(start + height, size[0])))[None]
        top = find_top(joint, runner_up=top2)
        stripes.append(_decided(top, rule))
        if largest is not None:
            doubts.append(_kept_in_doubt(joint, top, rule, rounding(largest))[0])
    made = torch.cat(stripes, dim=1)
    for start, doubt in zip(range(0, size[0], height), doubts, strict=False):
        rows, columns = doubt.nonzero(as_tuple=True)  # not before all stripes are on their way: here the host waits
        for y, x in torch.split(torch.stack([rows + start, columns]), _POINTS, dim=1):
            if len(y):
                made[:, y, x] = _decided(_exact_top(views, size, y, x, runner_up=top2), rule)[:, 0]
    label, planes = made[0], made[1:]
    return [label] if rule.keep == "none" else [label, planes]


def _decided(top: TopClasses, rule: DecisionRule) -> Tensor:
    """The label and what is kept of it, (1 + plane, height, width) uint8, of one image."""
    made = [apply_thresholds(top, rule.thresholds)]
    if rule.keep != "none":
        made += [top.classes, quantise(top.confidence, rule.steps)]
        made += [] if top.runner_up is None else [top.runner_up]
    return torch.cat(made)


def _kept_in_doubt(logits: Tensor, top: TopClasses, rule: DecisionRule, error: float) -> Tensor:
    """Where float32 may have put label, class, code or runner-up on the wrong side, (batch, height, width) bool."""
    least = constant(rule.thresholds, logits.device)
    doubt = _in_doubt(logits, top, least, error, ties=True)
    if rule.keep == "none":
        return doubt
    steps = top.confidence * rule.steps
    edge = steps.round()
    # there is no threshold of 1, to which most confidences are near
    doubt |= ((steps - edge).abs_() < error * rule.steps) & (edge < rule.steps)
    if top.runner_up is not None:
        second = logits.gather(1, top.runner_up.long().unsqueeze(1))
        doubt |= (logits > second - 2 * error).sum(dim=1) > 2
    return doubt


def _exact_top(views: Sequence[View], size: tuple[int, int], y: Tensor, x: Tensor, *, runner_up: bool) -> TopClasses:
    """The most likely classes of single pixels (n,) in float64; its tensors are (1, 1, n)."""
    rows, columns = (
        Runs(length, starts, 1, y.device, torch.float64)
        for length, starts in zip(size, torch.stack([y, x]).cpu().numpy(), strict=True)
    )
    each = torch.arange(len(y), device=y.device)
    logits = fuse_views(views, Blocks(rows, columns, each, each)).flatten(1, 2)
    return find_top(logits[None, :, None, :] if logits.ndim == 2 else logits[None], runner_up=runner_up)


def decide_blocks(
    views: Sequence[View], size: tuple[int, int], thresholds: Sequence[float], largest: float, memory: int
) -> Tensor:
    """Decide one image, block by block where it is not certain.

    Returns:
        The label (height, width) uint8.
    """
    device = views[0][0].logits.device
    least = constant(tuple(thresholds), device)
    grid = _block_grid(size, device)
    error = rounding(largest)
    certain = certain_blocks(views, grid, least, error, memory)
    down, across = certain.shape
    # blocks hang over the borders by half, so that they lie between nodes
    labels = certain.view(down, 1, across, 1).expand(-1, BLOCK, -1, BLOCK).contiguous()
    left = certain.view(-1).eq(IGNORE).nonzero()[:, 0]
    classes = len(views[0][0].logits)
    # only where the second class might be kept in the first one's stead does it matter which is which
    ties = min(thresholds) < 0.5 or len(set(thresholds)) > 1
    doubts = []
    for some in torch.split(left, max(1, memory // (4 * 4 * classes * block_pixels(views, grid)))):
        part = Blocks(grid.rows, grid.columns, some // across, some % across)
        logits = fuse_views(views, part).flatten(1, 2)[None]
        top = find_top(logits)
        label = apply_thresholds(top, thresholds)
        labels[part.row, :, part.column] = label.view(BLOCK, BLOCK, -1).permute(2, 0, 1)
        doubts.append(_in_doubt(logits, top, least, error, ties=ties)[0])
    _settle(labels, views, size, left, torch.cat(doubts, dim=1), thresholds)
    height, width = size
    return labels.view(down * BLOCK, -1)[BLOCK // 2 :, BLOCK // 2 :][:height, :width].contiguous()


@lru_cache(maxsize=16)
def _block_grid(size: tuple[int, int], device: torch.device) -> Blocks:
    """The runs of rows and of columns that an image's blocks are made of; kept for the next image of that size."""
    rows, columns = (
        Runs(length, np.arange(-(BLOCK // 2), length, BLOCK), BLOCK, device, torch.float32) for length in size
    )
    none = torch.empty(0, dtype=torch.int64, device=device)
    return Blocks(rows, columns, none, none)


def _in_doubt(logits: Tensor, top: TopClasses, least: Tensor, error: float, *, ties: bool) -> Tensor:
    """Where float32 may have put a pixel on the wrong side, (batch, height, width) bool."""
    doubt = (top.confidence - of_class(least, top.classes)).abs_() < error
    if ties:
        doubt |= (logits > logits.amax(dim=1, keepdim=True) - 2 * error).sum(dim=1) > 1
    return doubt


def _settle(
    labels: Tensor,
    views: Sequence[View],
    size: tuple[int, int],
    left: Tensor,
    doubts: Tensor,
    thresholds: Sequence[float],
) -> None:
    """Decide the pixels in doubt again, in float64.

    Args:
        labels: (run of rows, row, run of columns, column) uint8, changed in place.
        views: predictions of one image.
        size: (height, width) of the image.
        left: the blocks that were not certain, (block,).
        doubts: (pixel of a block, block) bool.
        thresholds: one for all classes, or one a class.
    """
    pixel, which = doubts.nonzero(as_tuple=True)
    if not len(pixel):
        return
    row, column = left[which] // labels.shape[2], left[which] % labels.shape[2]
    places = torch.stack([row, pixel // BLOCK, column, pixel % BLOCK])
    for some in torch.split(places, _POINTS, dim=1):
        row, down, column, across = some
        y, x = row * BLOCK + down - BLOCK // 2, column * BLOCK + across - BLOCK // 2
        top = _exact_top(views, size, y, x, runner_up=False)
        labels[row, down, column, across] = apply_thresholds(top, thresholds)[0, 0]
