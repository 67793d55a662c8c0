"""The file of a calibration: how precise a teacher's labels are at each threshold, and the threshold chosen for each class.

What is in it is measured by `calibrating`, counted by `calibration_counts` and chosen by `calibration_choice`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.quality import ClassQuality, Quality
from storage.errors import MissingFileError, SettingsError
from storage.soft_store import MAX_STEPS, level_of
from storage.workspace import write_atomically

VERSION = 1
"""Of the file's form; a file of another version is refused."""

MAX_BYTES = 2**26
"""A larger file is refused before it is read; one of 255 classes and 255 steps has some 8 MB."""

Status = Literal["met", "unreached", "too little evidence"]
"""Of a class's threshold: the target is met; no threshold meets it, and the nearest was taken; there are too few images
to say, and the default was taken."""

_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Target:
    """What the thresholds were chosen for."""

    of: Literal["precision", "coverage"]
    at_least: _Share
    min_images: int
    """A class that was given, or is the truth, in fewer images keeps the default threshold."""
    default_threshold: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A class's labels, were they kept above one threshold."""

    threshold: float
    precision: _Share | None
    """Right pixels of those given the class; None where none is given."""
    low: _Share | None
    """Lower end of its interval (see `pipeline.intervals`)."""
    high: _Share | None
    coverage: _Share | None
    """Pixels rightly given the class, of those whose truth it is; None where there are none."""
    images: int
    """In which the class is given to a pixel that is judged."""
    pixels: int
    """Given the class, and judged."""


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """One class at all thresholds, and the one that was chosen."""

    name: str
    threshold: _Share
    status: Status
    truth_images: int
    """Images in which it is the truth."""
    truth_pixels: int
    curve: tuple[CurvePoint, ...]
    """By threshold k / steps, k = 0..steps-1."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pixels of about the same confidence, and how many of them are right."""

    confidence: float
    """Their mean, each taken for the middle of its step."""
    right: _Share
    pixels: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What held-out labels say of a teacher."""

    kind: Literal["calibration"]
    version: Literal[1]
    made_with: dict[str, Any]
    """What decides the figures: the teacher's digest, the classes' digest, scales, flip, precision, temperature."""
    data: dict[str, Any]
    """What they were measured on: folders, images, pixels, and the digest of the files' names, sizes and times."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """Thresholds are multiples of 1 / steps."""
    target: Target
    classes: tuple[ClassCalibration, ...]
    """In the order of the class indices."""
    confusion: tuple[tuple[int, ...], ...]
    """At the chosen thresholds, pixels: rows are the truth, columns what was given, the last column no class."""
    reliability: tuple[ReliabilityBin, ...]
    """By confidence, ascending; without thresholds."""
    ece: float
    """Expected calibration error: mean distance of confidence from the share that is right, weighted by pixels."""

    @property
    def thresholds(self) -> dict[str, float]:
        """The chosen threshold of each class, by name."""
        return {one.name: one.threshold for one in self.classes}

    def curve(self, name: str) -> tuple[CurvePoint, ...]:
        """A class at all thresholds.

        Raises:
            SettingsError: there is no such class.
        """
        found = next((one.curve for one in self.classes if one.name == name), None)
        if found is None:
            raise SettingsError(f"the calibration has no class {name!r}; it has {', '.join(self.thresholds)}")
        return found

    def quality(self, thresholds: Mapping[str, float] | None = None) -> Quality:
        """How good labels are.

        Args:
            thresholds: by class name, those that differ from the chosen ones.

        Raises:
            SettingsError: a threshold is not a multiple of 1 / steps.
        """
        chosen = {**self.thresholds, **(thresholds or {})}
        found = []
        given = right = truth = 0
        for one in self.classes:
            point = one.curve[level_of(chosen[one.name], self.steps)]
            enough = one.truth_images >= self.target.min_images and point.images >= self.target.min_images
            share = point.precision, point.low, point.high, point.coverage
            found.append(ClassQuality(one.name, point.threshold, *share, point.images, point.pixels, enough))
            given += point.pixels
            right += round((point.precision or 0) * point.pixels)
            truth += one.truth_pixels
        return Quality(
            "calibration",
            str(self.data.get("truth", "")),
            tuple(found),
            right / given if given else None,
            given / truth if truth else None,
        )


_FORM = TypeAdapter(Calibration)


def to_json(calibration: Calibration) -> bytes:
    """A calibration as the content of its file; the same one gives the same bytes."""
    return _FORM.dump_json(calibration) + b"\n"


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration, whole or not at all.

    Raises:
        WorkspaceError: it cannot be written.
    """
    write_atomically(path, to_json(calibration))


def read_calibration(path: Path) -> Calibration:
    """Read what `write_calibration` wrote.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: it is no calibration, of another version, or damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"no calibration {path}; `autocoarse calibrate` makes one")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise SettingsError(f"{path} has {size} bytes, no calibration has more than {MAX_BYTES}; make it again")
    try:
        calibration = _FORM.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{path} is no calibration of version {VERSION}: {'.'.join(map(str, first['loc'])) or 'file'}: "
            f"{first['msg']}; make it again with `autocoarse calibrate`"
        ) from error
    count = len(calibration.classes)
    rows = {len(row) for row in calibration.confusion}
    curves = {len(one.curve) for one in calibration.classes}
    if not count or len(calibration.confusion) != count or rows != {count + 1} or curves != {calibration.steps}:
        raise SettingsError(
            f"{path} is no calibration: its tables do not fit {count} classes and {calibration.steps} steps"
        )
    return calibration
