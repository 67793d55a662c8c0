"""The choice of one threshold a class from what was counted on held-out labels.

It looks at the lower ends of intervals, never at the measured share itself: what is promised should hold on new images.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.calibration_counts import CalibrationCounts
from pipeline.intervals import Shares
from pipeline.settings import Settings, Threshold
from storage.errors import SettingsError

Status = Literal["met", "unreached", "little evidence"]
"""`met`: the lower end of the interval meets the target; `unreached`: it does nowhere, and the threshold is the one
that comes nearest; `little evidence`: the class keeps the default threshold."""

Target = Annotated[float, Field(gt=0, lt=1)]


class ChoiceRule(Settings):
    """What is asked of each class: a precision or a coverage, and how much evidence it takes."""

    target_precision: Target | None = None
    target_coverage: Target | None = None
    min_images: int = Field(10, ge=2)
    """In which a class must have been given, or for a coverage be the truth; with fewer nothing is said of it."""
    min_pixels: int = Field(1000, ge=1)
    """That must have been given the class."""
    default_threshold: Threshold = 0.5
    """Of classes with too little evidence."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.target_precision is None) == (self.target_coverage is None):
            raise SettingsError("give either target_precision or target_coverage, such as --target-precision 0.95")
        return self

    def enough(self, images: "np.int64 | int", pixels: "np.int64 | int") -> bool:
        """Whether so much evidence says anything."""
        return bool(images >= self.min_images and pixels >= self.min_pixels)


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The threshold of a class, and how it came about."""

    name: str
    threshold: float
    status: Status


def choose_thresholds(counts: CalibrationCounts, names: tuple[str, ...], rule: ChoiceRule) -> tuple[ClassChoice, ...]:
    """Choose each class's threshold from the grid.

    For a precision: from the threshold with the best lower end downwards, the lowest up to which all meet the target.
    So a class keeps as much as it can afford, also below 0.5, and one threshold that meets it by chance, with others
    above it that do not, is not taken. For a coverage: the highest threshold up to which all meet it.

    Args:
        counts: on held-out labels.
        names: of the classes, in the order of their indices.
        rule: what is asked.

    Returns:
        In the order of the class indices. A higher target never gives a class a lower threshold (of precision), or a
        higher one (of coverage).

    Source: the way down until the first threshold that fails is fixed sequence testing, as in Angelopoulos et al.,
    Learn then Test, arXiv:2110.01052, section 2.3.
    """
    of_precision = rule.target_precision is not None
    evidence = counts.precision if of_precision else counts.coverage
    images = counts.given_images if of_precision else counts.truth_images[:, None]
    low, _ = evidence.interval()
    enough = (images >= rule.min_images) & (evidence.whole >= rule.min_pixels)
    choices = []
    for index, name in enumerate(names):
        usable = np.where(enough[index], low[index], -1.0)
        if not enough[index].any():
            choices.append(ClassChoice(name, rule.default_threshold, "little evidence"))
            continue
        if of_precision:
            level, met = _lowest(usable, rule.target_precision or 0)
        else:
            level, met = _highest(usable, rule.target_coverage or 0)
        choices.append(ClassChoice(name, level / counts.steps, "met" if met else "unreached"))
    return tuple(choices)


def _lowest(low: Shares, target: float) -> tuple[int, bool]:
    best = int(np.argmax(low))
    if low[best] < target:
        return best, False
    missed = np.flatnonzero(low[:best] < target)
    return (int(missed[-1]) + 1 if missed.size else 0), True


def _highest(low: Shares, target: float) -> tuple[int, bool]:
    missed = np.flatnonzero(low < target)
    if missed.size and missed[0] == 0:
        return 0, False
    return (int(missed[0]) if missed.size else len(low)) - 1, True
