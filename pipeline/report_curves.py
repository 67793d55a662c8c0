"""Curves of a report: precision against coverage, and confidence against what is right, from what was counted.

The counts, of `calibration_counts`, are a calibration's, or of a run with a truth and kept confidence.
"""

import numpy as np

from pipeline.calibration_counts import CalibrationCounts
from pipeline.intervals import RatioSums
from pipeline.report_form import Curve, CurvePoint, ReliabilityBin

_RELIABILITY_BINS = 20

_DIGITS = 5
"""Of a share: a hundredth of what a page shows, in a third of the bytes."""


def bounded(sums: RatioSums) -> list[tuple[float | None, float | None, float | None]]:
    """Share, lower and upper bound of each, in the order of memory; None where there is nothing."""
    columns = [
        [None if np.isnan(v) else v for v in values.ravel().round(_DIGITS).tolist()]
        for values in (sums.share(), *sums.interval())
    ]
    return list(zip(*columns, strict=True))


def precision_curves(counts: CalibrationCounts) -> tuple[Curve, ...]:
    """Precision and coverage over the thresholds, of each class that the truth has."""
    steps, every = counts.steps, bounded(counts.precision)
    curves = []
    for index in np.flatnonzero(counts.pixels.truth).tolist():
        coverage = (counts.coverage.part[index] / counts.pixels.truth[index]).round(_DIGITS).tolist()
        bounds = every[index * steps : (index + 1) * steps]
        points = (CurvePoint(k / steps, *bounds[k], coverage[k]) for k in range(steps))
        curves.append(Curve(index, tuple(points)))
    return tuple(curves)


def reliability(counts: CalibrationCounts) -> tuple[tuple[ReliabilityBin, ...], float | None]:
    """Confidence against the share that is right, in bins; and the expected calibration error, in steps of confidence.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    """
    right, judged = counts.reliability()
    total = int(judged.sum())
    if not total:
        return (), None
    middles = (np.arange(counts.steps) + 0.5) / counts.steps
    bins = []
    for members in np.array_split(np.arange(counts.steps), min(_RELIABILITY_BINS, counts.steps)):
        if pixels := int(judged[members].sum()):
            confidence = float((middles[members] * judged[members]).sum() / pixels)
            bins.append(ReliabilityBin(confidence, int(right[members].sum()) / pixels, pixels))
    return tuple(bins), float(np.abs(right - middles * judged).sum() / total)
