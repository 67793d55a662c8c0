"""What a calibration counts: how often a teacher was right, by class and confidence, image by image.

Whole numbers that are added up, so that neither the order of the images nor a stop between them changes anything, and
memory does not grow with the set.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.intervals import Counts, RatioSums
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.schema import IGNORE
from storage.soft_store import NO_CONFIDENCE

_SUMS = ("images", "part", "whole", "part_squared", "whole_squared", "product")


@dataclass(frozen=True, slots=True)
class CalibrationCounts:
    """Counts over images, of the pixels whose truth is a class. A threshold is k / steps, the k-th of the last axis."""

    images: int
    precision: RatioSums
    """(class, step): of the pixels that are given the class at a threshold, those that are right."""
    coverage: RatioSums
    """(class, step): of the pixels whose truth is the class, those that are given it at a threshold."""
    joint: Counts
    """(class, class, step): pixels by truth, most likely class, and confidence code as the soft store has it."""

    @classmethod
    def nothing(cls, classes: int, steps: int) -> Self:
        """Before the first image."""
        zeros = np.zeros((classes, steps), np.int64)
        sums = RatioSums.of_image(zeros, zeros)
        return cls(0, sums, sums, np.zeros((classes, classes, steps), np.int64))

    @classmethod
    def of_image(cls, truth: LabelMap, planes: npt.NDArray[np.uint8], steps: int) -> Self:
        """Count one image.

        Args:
            truth: ignored pixels are not counted.
            planes: (plane, height, width) uint8, class and confidence code, as `Decision.soft` has them.
            steps: of the confidence codes.

        Raises:
            LabelError: the truth is of another size.
        """
        if planes.shape[1:] != (truth.height, truth.width):
            raise LabelError(
                f"the truth is {truth.width}x{truth.height}, what was predicted {planes.shape[2]}x{planes.shape[1]}"
            )
        classes = truth.num_classes
        judged = truth.values != IGNORE
        true, given, codes = truth.values[judged].astype(np.int64), planes[0][judged], planes[1][judged]
        of_truth = np.bincount(true, minlength=classes)
        sure = codes != NO_CONFIDENCE  # the others are given no class at any threshold
        place = (true[sure] * classes + given[sure]) * steps + codes[sure]
        joint = np.bincount(place, minlength=classes * classes * steps).reshape(classes, classes, steps)
        right, of_class = _from_each_threshold(joint.diagonal().T), _from_each_threshold(joint.sum(axis=0))
        whole = np.broadcast_to(of_truth[:, None], right.shape)
        return cls(1, RatioSums.of_image(right, of_class), RatioSums.of_image(right, whole), joint)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.images + other.images,
            self.precision + other.precision,
            self.coverage + other.coverage,
            self.joint + other.joint,
        )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.joint)

    @property
    def steps(self) -> int:
        """Number of thresholds."""
        return int(self.joint.shape[2])

    @property
    def truth(self) -> Counts:
        """(class,) pixels whose truth is the class."""
        return self.coverage.whole[:, 0]

    def confusion(self, levels: npt.NDArray[np.int64]) -> Counts:
        """Pixels by truth and what they are given at thresholds.

        Args:
            levels: (class,) the k of each class's threshold.

        Returns:
            (class, class + 1) int64 as `pipeline.scores.count_pixels`: the last column is abstentions.
        """
        kept = _from_each_threshold(self.joint)
        given = np.take_along_axis(kept, levels[None, :, None], axis=2)[:, :, 0]
        return np.concatenate([given, (self.truth - given.sum(axis=1))[:, None]], axis=1)

    def reliability(self) -> tuple[Counts, Counts]:
        """Right pixels, and all, by confidence code: (step,) each."""
        right: Counts = self.joint.diagonal().sum(axis=1)
        return right, self.joint.sum(axis=(0, 1))

    def to_plain(self) -> dict[str, object]:
        """Plain lists, for a JSON file; of `joint` only the pairs of truth and class that occur."""
        pairs = np.argwhere(self.joint.any(axis=2)).tolist()
        return {
            "images": self.images,
            "precision": {name: getattr(self.precision, name).tolist() for name in _SUMS},
            "coverage": {name: getattr(self.coverage, name).tolist() for name in _SUMS},
            "joint": [[true, given, self.joint[true, given].tolist()] for true, given in pairs],
        }

    @classmethod
    def from_plain(cls, images: int, precision: object, coverage: object, joint: object, steps: int) -> Self:
        """Read what `to_plain` made.

        Raises:
            ValueError, TypeError, KeyError, IndexError, OverflowError: it is nothing of that kind, or contradicts
                itself.
        """
        sums = [RatioSums(**{name: _counts(plain[name]) for name in _SUMS}) for plain in (precision, coverage)]  # type: ignore[index]
        classes = len(sums[0].images)
        if any(getattr(one, name).shape != (classes, steps) for one in sums for name in _SUMS):
            raise ValueError(f"its sums are not of one shape, {classes} classes by {steps} thresholds")
        table = np.zeros((classes, classes, steps), np.int64)
        for true, given, codes in joint:  # type: ignore[attr-defined]
            if not (0 <= true < classes and 0 <= given < classes):
                raise ValueError(f"it counts a class {max(true, given)}, expected 0..{classes - 1}")
            table[true, given] = _counts(codes)
        found = cls(images, sums[0], sums[1], table)
        right, of_class = _from_each_threshold(table.diagonal().T), _from_each_threshold(table.sum(axis=0))
        fits = (found.precision.part, found.coverage.part, found.precision.whole)
        if not all(np.array_equal(*pair) for pair in zip(fits, (right, right, of_class), strict=True)):
            raise ValueError("its counts contradict each other")
        return found


def _from_each_threshold(by_code: Counts) -> Counts:
    """Pixels that are kept at each threshold: those of its code and of higher ones, over the last axis."""
    return np.flip(np.cumsum(np.flip(by_code, -1), -1), -1)


def _counts(plain: object) -> Counts:
    found = np.array(plain)
    if found.dtype != np.int64 or (found.size and found.min() < 0):
        raise ValueError("a count is no whole number, or below 0")
    return found
