"""What the items of a report add up to: pixels by class, coverage by place, confidence, and quality against the truth.

Memory does not grow with the number of items.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.calibration_counts import CalibrationCounts
from pipeline.intervals import RatioSums
from pipeline.report_curves import bounded
from pipeline.report_form import CONFIDENCE_BINS, Layer
from pipeline.report_measure import Counts, Measured
from storage.soft_store import NO_CONFIDENCE


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good the labels of one class are against the truth, or those of all together."""

    precision: float | None
    low: float | None
    high: float | None
    coverage: float | None
    """Rightly labelled pixels of those whose truth is the class; of all classes together: labelled ones."""


class ReportSums:
    """Sums over the items of a report.

    Args:
        classes: number of classes.
        cells: rows and columns of the map of coverage.
        steps: of the kept confidence; None where none is kept.
    """

    def __init__(self, classes: int, cells: tuple[int, int], steps: int | None) -> None:
        self._classes, self._steps = classes, steps
        self._labelled = np.zeros(cells)
        self._maps = 0
        self._pixels: dict[Layer, Counts] = {}
        self._codes = np.zeros(NO_CONFIDENCE, np.int64)
        zeros = np.zeros(classes + 1, np.int64)
        self._precision = RatioSums.of_image(zeros, zeros)
        self._truth = np.zeros(classes, np.int64)
        self._decided = 0
        self._right = np.zeros(classes, np.int64)
        self.kept: CalibrationCounts | None = None
        """Kept confidence against the truth, of all items that have both."""
        self.judged = 0
        """Items with a truth."""

    def add(self, one: Measured) -> None:
        """Add an item."""
        if one.labelled is not None:
            self._labelled += one.labelled
            self._maps += 1
        for layer, counts in (one.pixels or {}).items():
            self._pixels[layer] = self._pixels.get(layer, np.zeros(self._classes, np.int64)) + counts
        if one.codes is not None:
            self._codes += one.codes
        if one.against_truth is not None:
            self._add_judged(one.against_truth)
        if one.kept is not None:
            before = self.kept or CalibrationCounts.nothing(self._classes, self._steps or 0)
            self.kept = before.plus(one.kept)

    def _add_judged(self, against: Counts) -> None:
        self.judged += 1
        right, given = against.diagonal(), against[:, :-1].sum(axis=0)
        part, whole = (np.append(counts, counts.sum()) for counts in (right, given))
        self._precision += RatioSums.of_image(part, whole)
        self._truth += against.sum(axis=1)
        self._right += right
        self._decided += int(given.sum())

    def pixels(self, layer: Layer) -> tuple[int, ...] | None:
        """Pixels by class of a layer that was counted; None where none was."""
        counts = self._pixels.get(layer)
        return None if counts is None else tuple(counts.tolist())

    def coverage_map(self) -> tuple[tuple[float | None, ...], ...]:
        """Mean share of labelled pixels at each place; empty where there is no label."""
        if not self._maps:
            return ()
        return tuple(tuple(round(share, 3) for share in row) for row in (self._labelled / self._maps).tolist())

    def confidence_histogram(self) -> tuple[float, ...]:
        """Share of the pixels in each bin of confidence; empty where none is kept."""
        total = self._codes.sum()
        if not total or self._steps is None:
            return ()
        middles = (np.arange(self._steps) + 0.5) / self._steps
        counts, _ = np.histogram(middles, CONFIDENCE_BINS, (0, 1), weights=self._codes[: self._steps] / total)
        return tuple(counts.tolist())

    def judgements(self) -> tuple[Judgement, ...]:
        """By class index, and of all classes together; empty where there is no truth."""
        if not self.judged:
            return ()
        right = [int(r) / int(t) if t else None for r, t in zip(self._right, self._truth, strict=True)]
        total = int(self._truth.sum())
        coverages = [*right, self._decided / total if total else None]
        bounds = bounded(self._precision)
        return tuple(Judgement(*bound, coverage) for bound, coverage in zip(bounds, coverages, strict=True))
