"""What a calibration counts: how often a teacher was right, by class and confidence.

Whole numbers that are added up in the order of the images, so that a stop between them changes nothing and memory does
not grow with the set. Neighbouring images are often of one street or one video, and right or wrong together: a block of
them counts as one independent unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.intervals import Counts, RatioSums
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.schema import IGNORE
from storage.soft_store import NO_CONFIDENCE

_SUMS = ("images", "part", "whole", "part_squared", "whole_squared", "product")


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels of images whose truth is a class."""

    images: int
    joint: Counts
    """(class, class, step): by truth, most likely class, and confidence code as the soft store has it."""
    truth: Counts
    """(class,): all of them by truth, also those without a confidence, which get no class at any threshold."""

    @classmethod
    def nothing(cls, classes: int, steps: int) -> Self:
        """Of no image."""
        return cls(0, np.zeros((classes, classes, steps), np.int64), np.zeros(classes, np.int64))

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
        sure = codes != NO_CONFIDENCE
        place = (true[sure] * classes + given[sure]) * steps + codes[sure]
        joint = np.bincount(place, minlength=classes * classes * steps).reshape(classes, classes, steps)
        return cls(1, joint, np.bincount(true, minlength=classes))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.images + other.images, self.joint + other.joint, self.truth + other.truth)

    @property
    def right(self) -> Counts:
        """(class, step): those that are rightly given the class at a threshold k / steps."""
        return from_each_threshold(self.joint.diagonal().T)

    @property
    def given(self) -> Counts:
        """(class, step): those that are given the class at a threshold k / steps."""
        return from_each_threshold(self.joint.sum(axis=0))

    def sums(self) -> tuple[RatioSums, RatioSums]:
        """Of precision and of coverage, (class, step) each, all of these images taken as one unit."""
        right = self.right
        whole = np.broadcast_to(self.truth[:, None], right.shape)
        return RatioSums.of_image(right, self.given), RatioSums.of_image(right, whole)


@dataclass(frozen=True, slots=True)
class CalibrationCounts:
    """Counts over images. A threshold is k / steps, the k-th of the last axis."""

    block: int
    """Neighbouring images that are one independent unit of the sums below."""
    pixels: PixelCounts
    """Of all images."""
    given_images: Counts
    """(class, step): images in which the class is given to a judged pixel at a threshold."""
    truth_images: Counts
    """(class,): images in which it is the truth of a pixel."""
    precision: RatioSums
    """(class, step): of the pixels that are given the class at a threshold, those that are right."""
    coverage: RatioSums
    """(class, step): of the pixels whose truth is the class, those that are given it at a threshold."""
    open: PixelCounts
    """Of the images since the last whole block, which are not in the two sums yet."""

    @classmethod
    def nothing(cls, classes: int, steps: int, block: int = 1) -> Self:
        """Before the first image."""
        none = PixelCounts.nothing(classes, steps)
        return cls(block, none, np.zeros((classes, steps), np.int64), none.truth, *none.sums(), none)

    @classmethod
    def of(cls, images: Iterable[PixelCounts], classes: int, steps: int, block: int = 1) -> Self:
        """Of images in their order; the last block may be smaller than the others."""
        counts = cls.nothing(classes, steps, block)
        for image in images:
            counts = counts.plus(image)
        return counts.closed()

    def plus(self, image: PixelCounts) -> Self:
        """With one image more."""
        more = replace(
            self,
            pixels=self.pixels + image,
            given_images=self.given_images + (image.given > 0),
            truth_images=self.truth_images + (image.truth > 0),
            open=self.open + image,
        )
        return more.closed() if more.open.images >= self.block else more

    def closed(self) -> Self:
        """With the block that is open taken for a whole one; nothing is open then."""
        if not self.open.images:
            return self
        precision, coverage = self.open.sums()
        return replace(
            self,
            precision=self.precision + precision,
            coverage=self.coverage + coverage,
            open=PixelCounts.nothing(self.classes, self.steps),
        )

    @property
    def images(self) -> int:
        """Images that were counted."""
        return self.pixels.images

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.pixels.joint)

    @property
    def steps(self) -> int:
        """Number of thresholds."""
        return int(self.pixels.joint.shape[2])

    def confusion(self, levels: npt.NDArray[np.int64]) -> Counts:
        """Pixels by truth and what they are given at thresholds.

        Args:
            levels: (class,) the k of each class's threshold.

        Returns:
            (class, class + 1) int64 as `pipeline.scores.count_pixels`: the last column is abstentions.
        """
        kept = from_each_threshold(self.pixels.joint)
        given = np.take_along_axis(kept, levels[None, :, None], axis=2)[:, :, 0]
        return np.concatenate([given, (self.pixels.truth - given.sum(axis=1))[:, None]], axis=1)

    def reliability(self) -> tuple[Counts, Counts]:
        """Right pixels, and all, by confidence code: (step,) each."""
        right: Counts = self.pixels.joint.diagonal().sum(axis=1)
        return right, self.pixels.joint.sum(axis=(0, 1))

    def to_plain(self) -> dict[str, Any]:
        """Plain lists, for a JSON file."""
        return {
            "steps": self.steps,
            "block": self.block,
            "given_images": self.given_images.tolist(),
            "truth_images": self.truth_images.tolist(),
            "precision": {name: getattr(self.precision, name).tolist() for name in _SUMS},
            "coverage": {name: getattr(self.coverage, name).tolist() for name in _SUMS},
            "pixels": _pixels_to_plain(self.pixels),
            "open": _pixels_to_plain(self.open),
        }

    @classmethod
    def from_plain(cls, plain: Any) -> Self:  # noqa: ANN401 - whatever a file held
        """Read what `to_plain` made.

        Raises:
            ValueError, TypeError, KeyError, IndexError, OverflowError: it is nothing of that kind, or contradicts
                itself.
        """
        classes, steps = len(plain["truth_images"]), int(plain["steps"])
        both = (classes, steps)
        precision, coverage = (
            RatioSums(**{name: _counts(plain[what][name], both) for name in _SUMS})
            for what in ("precision", "coverage")
        )
        pixels, unit = (_pixels_from_plain(plain[name], classes, steps) for name in ("pixels", "open"))
        given_images, truth_images = _counts(plain["given_images"], both), _counts(plain["truth_images"], (classes,))
        found = cls(int(plain["block"]), pixels, given_images, truth_images, precision, coverage, unit)
        whole = np.broadcast_to((pixels.truth - unit.truth)[:, None], both)
        pairs = (
            (found.precision.part, pixels.right - unit.right),
            (found.coverage.part, found.precision.part),
            (found.precision.whole, pixels.given - unit.given),
            (found.coverage.whole, whole),
        )
        if not all(np.array_equal(*pair) for pair in pairs) or found.block < 1:
            raise ValueError("its counts contradict each other")
        return found


def from_each_threshold(by_code: Counts) -> Counts:
    """Pixels that are kept at each threshold: those of its code and of higher ones, over the last axis."""
    return np.flip(np.cumsum(np.flip(by_code, -1), -1), -1)


def _pixels_to_plain(pixels: PixelCounts) -> dict[str, Any]:
    pairs = np.argwhere(pixels.joint.any(axis=2)).tolist()  # only those of truth and class that occur
    return {
        "images": pixels.images,
        "joint": [[true, given, pixels.joint[true, given].tolist()] for true, given in pairs],
        "truth": pixels.truth.tolist(),
    }


def _pixels_from_plain(plain: Any, classes: int, steps: int) -> PixelCounts:  # noqa: ANN401 - as above
    joint = np.zeros((classes, classes, steps), np.int64)
    for true, given, codes in plain["joint"]:
        if not (0 <= true < classes and 0 <= given < classes):
            raise ValueError(f"it counts a class {max(true, given)}, expected 0..{classes - 1}")
        joint[true, given] = _counts(codes, (steps,))
    return PixelCounts(int(plain["images"]), joint, _counts(plain["truth"], (classes,)))


def _counts(plain: object, shape: tuple[int, ...]) -> Counts:
    found = np.array(plain)
    if found.shape != shape:
        raise ValueError(f"it holds counts of shape {found.shape}, expected {shape}")
    if found.dtype != np.int64 or (found.size and found.min() < 0):
        raise ValueError("a count is no whole number, or below 0")
    return found
