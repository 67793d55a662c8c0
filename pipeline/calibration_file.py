"""calibration.json: what a teacher's confidence was worth on held-out labels, and the thresholds chosen by it.

The counts are in the file, so that every figure can be had from it at every threshold. Making it is in `calibrating`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.calibration_counts import CalibrationCounts
from pipeline.quality import ClassQuality, Quality
from pipeline.scores import Counts
from pipeline.threshold_choice import ChoiceRule, ClassChoice, choose_thresholds
from storage.errors import MissingFileError, SettingsError
from storage.object_io import find_file, read_file
from storage.soft_store import level_of

KIND, VERSION = "calibration", 1

MAX_BYTES = 256_000_000
"""Of a file that is read; one of 65 classes takes a few MB."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A class at one threshold. Shares are in [0, 1], None where there is nothing to divide by."""

    threshold: float
    precision: float | None
    low: float | None
    """Lower end of the precision's interval, blocks of neighbouring images being the independent units."""
    high: float | None
    coverage: float | None
    coverage_low: float | None
    coverage_high: float | None
    images: int
    """In which the class is given to a pixel that could be judged."""
    pixels: int
    """Given the class, and judged."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pixels of nearly one confidence."""

    confidence: float
    """The middle of the bin, whose width is one step."""
    right: float
    """Share of them whose most likely class is the true one."""
    pixels: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was counted on held-out labels, and what was chosen by it."""

    where: str
    """The file, for messages."""
    measured: Mapping[str, Any]
    """What was measured and how, as plain values: the teacher's digest, classes, scales, ..., and the files."""
    counts: CalibrationCounts
    rule: ChoiceRule
    choices: tuple[ClassChoice, ...]
    """In the order of the class indices."""
    failed: Mapping[str, str]
    """Images that could not be counted, by key, and why."""
    unknown: int
    """Pixels of the truth whose source id the classes do not know; they are not judged."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the class indices."""
        return tuple(choice.name for choice in self.choices)

    @property
    def images(self) -> int:
        """Images that were judged."""
        return self.counts.images

    @property
    def temperature(self) -> float:
        """That the logits were divided by."""
        return float(self.measured["temperature"])

    @property
    def thresholds(self) -> dict[str, float]:
        """The chosen threshold of each class."""
        return {choice.name: choice.threshold for choice in self.choices}

    def quality(self, thresholds: Mapping[str, float] | None = None) -> Quality:
        """The labels' quality at thresholds.

        Args:
            thresholds: of every class, by name; the chosen ones by default.

        Raises:
            SettingsError: a threshold is not on the calibration's grid, or a class has none.
        """
        chosen = self.thresholds if thresholds is None else thresholds
        classes = tuple(
            replace(self._of_class(curve[level], name), enough_truth=self.rule.enough(images, pixels))
            for name, level, curve, images, pixels in zip(
                self.classes,
                self._levels(chosen),
                self._curves(),
                self.counts.truth_images,
                self.counts.pixels.truth,
                strict=True,
            )
        )
        confusion = self.confusion(chosen)
        given, right, total = confusion[:, :-1].sum(), confusion.diagonal().sum(), confusion.sum()
        return Quality(
            "calibration",
            self.where,
            classes,
            float(right / given) if given else None,
            float(given / total) if total else None,
        )

    def _of_class(self, point: CurvePoint, name: str) -> ClassQuality:
        enough = self.rule.enough(point.images, point.pixels)
        return ClassQuality(
            name,
            point.threshold,
            point.precision,
            point.low,
            point.high,
            point.coverage,
            point.images,
            point.pixels,
            enough,
        )

    def curve(self, name: str) -> tuple[CurvePoint, ...]:
        """A class over the whole grid of thresholds, ascending.

        Raises:
            SettingsError: there is no such class.
        """
        if name not in self.classes:
            raise SettingsError(f"{name!r} is no class of {self.where}; known are {', '.join(self.classes)}")
        return self.curves()[name]

    def curves(self) -> dict[str, tuple[CurvePoint, ...]]:
        """As `curve`, of each class by name; all of them cost hardly more than one."""
        return dict(zip(self.classes, self._curves(), strict=True))

    def _curves(self) -> list[tuple[CurvePoint, ...]]:
        precision, coverage = self.counts.precision, self.counts.coverage
        shares = [precision.share(), *precision.interval(), coverage.share(), *coverage.interval()]
        columns = [[list(map(_or_none, row)) for row in share.tolist()] for share in shares]
        columns += [self.counts.given_images.tolist(), precision.whole.tolist()]
        thresholds = [level / self.counts.steps for level in range(self.counts.steps)]
        return [
            tuple(starmap(CurvePoint, zip(thresholds, *of_class, strict=True)))
            for of_class in zip(*columns, strict=True)
        ]

    def _levels(self, thresholds: Mapping[str, float]) -> list[int]:
        if missing := [name for name in self.classes if name not in thresholds]:
            raise SettingsError(f"{', '.join(missing)} of {self.where} got no threshold")
        return [level_of(thresholds[name], self.counts.steps) for name in self.classes]

    def confusion(self, thresholds: Mapping[str, float] | None = None) -> Counts:
        """Pixels by truth and what they are given at thresholds, (class, class + 1); the last column is abstentions.

        Raises:
            SettingsError: as `quality`.
        """
        levels = self._levels(self.thresholds if thresholds is None else thresholds)
        return self.counts.confusion(np.array(levels))

    @property
    def reliability(self) -> tuple[ReliabilityBin, ...]:
        """How often the most likely class is right, by confidence ascending; bins without a pixel are left out."""
        right, every = self.counts.reliability()
        steps = self.counts.steps
        return tuple(
            ReliabilityBin((code + 0.5) / steps, float(right[code] / every[code]), int(every[code]))
            for code in np.flatnonzero(every).tolist()
        )

    @property
    def ece(self) -> float | None:
        """The expected calibration error over `reliability`, exact to half a step; None without a pixel.

        Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
        """
        bins = self.reliability
        pixels = sum(one.pixels for one in bins)
        return sum(one.pixels * abs(one.right - one.confidence) for one in bins) / pixels if pixels else None

    def chosen_by(self, rule: ChoiceRule) -> "Calibration":
        """The same counts with thresholds chosen by another rule.

        Raises:
            SettingsError: its default threshold is not on the grid.
        """
        level_of(rule.default_threshold, self.counts.steps)
        choices = choose_thresholds(self.counts, self.classes, rule)
        return replace(self, rule=rule, choices=choices)

    def to_json(self) -> bytes:
        """The file's content: the same for the same counts and rule, one line a field."""
        quality = self.quality()
        summary = [
            {
                "name": choice.name,
                "threshold": choice.threshold,
                "status": choice.status,
                "precision": one.precision,
                "precision_low": one.precision_low,
                "precision_high": one.precision_high,
                "coverage": one.coverage,
                "images": one.images,
                "pixels": one.pixels,
            }
            for choice, one in zip(self.choices, quality.classes, strict=True)
        ]
        fields = {
            "kind": KIND,
            "version": VERSION,
            "measured": dict(self.measured),
            "rule": self.rule.model_dump(exclude_none=True),
            "classes": summary,
            "precision": quality.precision,
            "coverage": quality.coverage,
            "ece": self.ece,
            "confusion": self.confusion().tolist(),
            "failed": dict(self.failed),
            "unknown": self.unknown,
            "counts": self.counts.to_plain(),
        }
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.json.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: it is no calibration, one of another version, or damaged.
    """
    found = find_file(path)
    if found is None:
        raise MissingFileError(f"no calibration {path}; make one with `autocoarse calibrate`")
    if found.size > MAX_BYTES:
        raise SettingsError(f"{path} has {found.size} bytes, expected a calibration of at most {MAX_BYTES}")
    try:
        content = json.loads(read_file(path))
        if content["kind"] != KIND or content["version"] != VERSION:
            raise SettingsError(
                f"{path} is a {content['kind']} of version {content['version']}, expected a {KIND} of version {VERSION}"
            )
        return _parse(str(path), content)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, ValidationError, RecursionError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"{path} is no calibration that this autocoarse reads: {error}; make it again with `autocoarse calibrate`"
        ) from error


def _parse(where: str, content: Mapping[str, Any]) -> Calibration:
    counts = CalibrationCounts.from_plain(content["counts"])
    measured = dict(content["measured"])
    choices = tuple(ClassChoice(one["name"], one["threshold"], one["status"]) for one in content["classes"])
    if [choice.name for choice in choices] != measured["classes"] or len(choices) != counts.classes:
        raise ValueError("its classes, its counts and what was measured do not agree")
    for choice in choices:
        level_of(choice.threshold, counts.steps)
    rule, failed = ChoiceRule(**content["rule"]), dict(content["failed"])
    float(measured["temperature"])
    return Calibration(where, measured, counts, rule, choices, failed, int(content["unknown"]))


def _or_none(share: float) -> float | None:
    return None if np.isnan(share) else share
