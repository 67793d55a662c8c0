"""What is known of labels' quality, class by class: one form for all that measures it and all that asks for it.

Measured by `calibrating` (against held-out fine labels) and by `audit` (against the set's own coarse labels).
"""

from dataclasses import dataclass
from typing import Literal

Source = Literal["calibration", "audit"]
"""`calibration`: on other images than those that are labelled; `audit`: on these very ones, where humans drew."""


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """How good the labels of one class are."""

    name: str
    threshold: float | None
    """They were kept where the confidence was above it; None: not known."""
    precision: float | None
    """Right pixels of those that were given the class; None where there is none."""
    precision_low: float | None
    """Lower end of its interval (`pipeline.intervals.LEVEL`), whose units are images or blocks of neighbouring ones."""
    precision_high: float | None
    coverage: float | None
    """Pixels that were given the class, and rightly so, of those whose truth is the class; None where there is none."""
    images: int
    """In which the class was given to a pixel that could be judged."""
    pixels: int
    """Given the class, and judged."""
    enough: bool
    """Whether that is enough evidence to say anything of the precision."""
    enough_truth: bool = False
    """Whether the class is the truth in enough images to say anything of the coverage."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How good labels are, by class."""

    source: Source
    where: str
    """What was measured, for messages: the file, or the folder."""
    classes: tuple[ClassQuality, ...]
    """In the order of the class indices."""
    precision: float | None
    """Of all classes together: right pixels of those that were given a class."""
    coverage: float | None
    """Pixels that were given a class, of those whose truth is a class."""
