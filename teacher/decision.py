"""From logits to labels: the class with the highest probability, where that probability is high enough.

Decides once, on float32, where the logits are; what it gives is what leaves the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.errors import SettingsError, ShapeError
from storage.schema import IGNORE, MAX_CLASSES
from storage.soft_store import DEFAULT_STEPS, NO_CONFIDENCE, Keep, threshold_grid


def check_threshold(threshold: float) -> float:
    """Refuse what is no threshold.

    Raises:
        SettingsError: it is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise SettingsError(f"threshold is {threshold}, expected a probability of at least 0 and below 1")
    return threshold


def check_temperature(temperature: float) -> float:
    """Refuse what is no temperature.

    Raises:
        SettingsError: it is not a positive number.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise SettingsError(f"temperature is {temperature}, expected a positive number")
    return temperature


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """What is decided of each pixel, and what is kept of it."""

    thresholds: tuple[float, ...]
    """One for all classes, or one a class."""
    keep: Keep = "none"
    """What is kept beside the label."""
    steps: int = DEFAULT_STEPS
    """Of the grid on which confidence is kept."""
    temperature: float = 1.0
    """That the logits are divided by first; 1 leaves them as they are."""


@dataclass(frozen=True, slots=True)
class TopClasses:
    """The most likely classes of each pixel, on the logits' device."""

    classes: Tensor
    """(batch, height, width) uint8."""
    confidence: Tensor
    """(batch, height, width) float32 in [0, 1], the top softmax probability; float64 of float64 logits. It is 0, and
    the pixel is always ignored, where a logit is NaN or +inf, or all are -inf; a class at -inf beside finite ones
    merely has probability 0."""
    runner_up: Tensor | None
    """(batch, height, width) uint8, the class of the second highest logit; the class itself where there is but one."""


def find_top(logits: Tensor, *, runner_up: bool = False) -> TopClasses:
    """Find each pixel's most likely class and its probability.

    Args:
        logits: (batch, class, height, width), float, at most 255 classes.
        runner_up: find the second class too.

    Raises:
        ShapeError: the logits do not have four axes or have more classes than a label can name.
    """
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= MAX_CLASSES:
        raise ShapeError(
            f"logits have the shape {tuple(logits.shape)}, expected (batch, class, height, width) with 1 to "
            f"{MAX_CLASSES} classes"
        )
    scores = logits if logits.dtype == torch.float64 else logits.float()
    top = scores.amax(dim=1)
    label = _first_with(scores, top)
    # The top class's softmax needs no division over all classes: exp(top - top) is 1.
    confidence = 1 / (scores - top.unsqueeze(1)).exp_().sum(dim=1)
    second = None
    if runner_up:
        # one more maximum is several times as fast as sorting two out of all classes
        others = scores.scatter(1, label.long().unsqueeze(1), -torch.inf)
        second = _first_with(others, others.amax(dim=1))
    return TopClasses(label, confidence.nan_to_num_(nan=0.0), second)


def _first_with(scores: Tensor, top: Tensor) -> Tensor:
    """The first class whose score is the top one, (batch, height, width) uint8; class 0 where the top is NaN.

    Three passes that use vector instructions, where a maximum with its index is one that does not: on a CPU this is
    four times as fast.
    """
    classes = scores.shape[1]
    rank = torch.arange(classes - 1, -1, -1, dtype=torch.uint8, device=scores.device).view(-1, 1, 1)
    # "not below" is also true of all classes where the top is NaN, so that the first is taken
    best = (scores < top.unsqueeze(1)).logical_not_().view(torch.uint8).mul_(rank).amax(dim=1)
    return best.neg_().add_(classes - 1)


def apply_thresholds(top: TopClasses, thresholds: Sequence[float]) -> Tensor:
    """Keep each pixel's class where the confidence is above the threshold, strictly, both as float32.

    Args:
        top: what `find_top` found.
        thresholds: one for all classes, or one a class; 0 keeps every pixel that has a confidence.

    Returns:
        Labels (batch, height, width) uint8, a class index or 255.

    Raises:
        SettingsError: a threshold is not in [0, 1).
    """
    least = torch.tensor([check_threshold(t) for t in thresholds], dtype=torch.float32, device=top.classes.device)
    return top.classes.masked_fill(~(top.confidence > of_class(least, top.classes)), IGNORE)


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """Each pixel's value: the one of its class, or the only one.

    Args:
        values: one for all classes, or one a class, (1,) or (class,).
        classes: uint8, any shape.

    Returns:
        (1,), or the shape of the classes.
    """
    return values if len(values) == 1 else values[classes.int()]


def quantise(confidence: Tensor, steps: int) -> Tensor:
    """Code each confidence by the thresholds of a grid that it is above.

    Args:
        confidence: float32 or float64 in [0, 1], any shape; 0 where there is none.
        steps: of the grid.

    Returns:
        uint8 of the same shape: the largest k with confidence > k / steps, or 255 where the confidence is 0.

    Raises:
        SettingsError: steps is not in 1..255.
    """
    grid = torch.from_numpy(threshold_grid(steps)).to(confidence)
    above = torch.bucketize(confidence, grid, out_int32=True)  # how many thresholds the confidence is above
    # from none above the modulus of 256 makes the code that says so
    assert NO_CONFIDENCE == (-1) % 256, "the code of no confidence is what one below the first is in 8 bits"
    return above.sub_(1).to(torch.uint8)


def decide(logits: Tensor, thresholds: float | Sequence[float]) -> tuple[Tensor, Tensor]:
    """Choose each pixel's class, or ignore where the confidence is not above the threshold.

    Args:
        logits: (batch, class, height, width), float, at most 255 classes.
        thresholds: one for all classes, or one a class, as in `apply_thresholds`.

    Returns:
        Labels (batch, height, width) uint8, a class index or 255, and confidence (batch, height, width) float32 in
        [0, 1], the top softmax probability. Both on the logits' device.

    Raises:
        SettingsError: a threshold is not in [0, 1).
        ShapeError: the logits do not have four axes or have more classes than a label can name.
    """
    several = (thresholds,) if isinstance(thresholds, int | float) else tuple(thresholds)
    top = find_top(logits)
    return apply_thresholds(top, several), top.confidence
