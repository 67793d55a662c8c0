"""The gate: labels that are not as good as was asked for are not used.

How good they are was measured by `calibrating` or `audit`; here it is compared with what was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline import audit_file
from pipeline.gate_condition import Condition, parse_conditions
from pipeline.quality import ClassQuality, Quality
from storage.errors import GateError, MissingFileError, SettingsError
from storage.json_text import parse_json
from storage.layouts import list_labels
from storage.workspace import Workspace

_NAMED = 8
"""Classes in a message."""


@dataclass(frozen=True, slots=True)
class GateFailure:
    """A class that is not as good as was asked for."""

    condition: Condition
    quality: ClassQuality

    def __str__(self) -> str:
        one = self.quality
        if self.condition.measure == "coverage":
            return f"{one.name}: coverage {one.coverage:.2%}, asked for is {self.condition}"
        return (
            f"{one.name}: precision {one.precision:.2%} ({one.precision_low:.2%} to {one.precision_high:.2%}) in "
            f"{one.images} images, asked for is {self.condition}"
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """Conditions that labels must meet, class by class.

    One on a class stands instead of the one on all classes, for the same measure.
    """

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, *texts: str) -> Self:
        """Read conditions such as "precision>=0.9" and "precision[pole]>=0.8".

        Raises:
            SettingsError: as `parse_conditions`.
        """
        return cls(parse_conditions(*texts))

    def refuse_unknown(self, names: Sequence[str], where: str) -> None:
        """Refuse conditions on classes that there are not.

        Args:
            names: of the classes.
            where: they are, for the message.

        Raises:
            SettingsError: a condition is on another.
        """
        for condition in self.conditions:
            if condition.name is not None and condition.name not in names:
                raise SettingsError(
                    f"gate {condition}: {condition.name} is no class of {where}; known are {', '.join(names)}"
                )

    def failures(self, quality: Quality) -> tuple[GateFailure, ...]:
        """The classes that are known not to meet a condition.

        Raises:
            SettingsError: a condition is on a class that there is not.
        """
        return tuple(
            GateFailure(condition, one)
            for condition, one in self._compared(quality)
            if (value := _known(condition, one)) is not None and value < condition.at_least
        )

    def unknown(self, quality: Quality) -> tuple[str, ...]:
        """Names of the classes of which too little is known to say whether they meet the conditions on them.

        Raises:
            SettingsError: as `failures`.
        """
        names = [one.name for condition, one in self._compared(quality) if _known(condition, one) is None]
        return tuple(dict.fromkeys(names))

    def check(self, quality: Quality) -> str:
        """Refuse labels that do not meet the conditions, or of which nothing is known.

        Returns:
            What is to be known of labels that have passed: of which classes there is too little evidence, which do not
            fail, and have not passed either; and which have passed by the estimate of their precision, while the lower
            end of its interval is below what was asked for. Empty where there are neither.

        Raises:
            GateError: a class fails, or there is no class of which enough is known; the message has the figures.
            SettingsError: as `failures`.
        """
        failures, unknown = self.failures(quality), self.unknown(quality)
        not_known = f"not known, for want of evidence: {_named(unknown)}" if unknown else ""
        measured = f"as the {quality.source} of {quality.where} says"
        if failures:
            lines = [f"the gate {self} is not met, {measured}:", *map(str, failures), *filter(None, [not_known])]
            raise GateError("\n  ".join(lines))
        compared = self._compared(quality)
        if compared and all(_known(condition, one) is None for condition, one in compared):
            raise GateError(f"the gate {self} is not met, {measured}: {not_known}; measure on more images")
        remarks = "; ".join(filter(None, [not_known, self._by_estimate_alone(quality)]))
        return f"the gate {self}, {measured}: {remarks}" if remarks else ""

    def _by_estimate_alone(self, quality: Quality) -> str:
        """Which classes meet a condition on their precision that the lower end of its interval does not meet."""
        unsure = [
            f"{one.name} {one.precision:.2%} ({one.precision_low:.2%} to {one.precision_high:.2%})"
            for condition, one in self._compared(quality)
            if condition.measure == "precision"
            and _known(condition, one) is not None
            and one.precision_low is not None
            and one.precision_low < condition.at_least
        ]
        if not unsure:
            return ""
        return (
            f"met by the estimate, the interval reaches below: {_named(unsure)}; precision_low asks for its lower end"
        )

    def __str__(self) -> str:
        return ", ".join(map(str, self.conditions))

    def _compared(self, quality: Quality) -> list[tuple[Condition, ClassQuality]]:
        by_name = {one.name: one for one in quality.classes}
        self.refuse_unknown(list(by_name), f"the {quality.source} of {quality.where}")
        compared = []
        for condition in self.conditions:
            if condition.name is None:
                own = {one.name for one in self.conditions if one.measure == condition.measure}
                compared += [(condition, one) for one in quality.classes if one.name not in own]
            else:
                compared.append((condition, by_name[condition.name]))
        return compared


def _known(condition: Condition, one: ClassQuality) -> float | None:
    """The figure that a condition asks for; None where it, or enough evidence for it, is missing."""
    value: float | None = getattr(one, condition.measure)
    return value if (one.enough_truth if condition.measure == "coverage" else one.enough) else None


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def read_quality(path: Path) -> Quality:
    """Read how good labels are from the file of a calibration or of an audit.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: it is neither, of another version, or damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"no file {path} that says how good labels are; `calibrate` or `audit` makes one")
    if (size := path.stat().st_size) > audit_file.MAX_BYTES:
        raise SettingsError(f"{path} has {size} bytes, no file of a calibration or an audit has so many")
    try:
        kind = parse_json(path.read_bytes())["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is neither a calibration nor an audit: {error!r}") from error
    if kind == "audit":
        return audit_file.read_audit(path).quality()
    if kind == "calibration":
        from pipeline import calibration_file  # it knows the settings and by them torch, which no audit has a use for

        return calibration_file.read_calibration(path).quality()
    raise SettingsError(f"{path} is of the kind {kind!r}, expected a calibration or an audit")


def check_run(gate: Gate, labels: Path) -> list[str]:
    """Refuse the labels of a RUN that its calibration or its audit, whichever are there, say are not good enough.

    Args:
        gate: what is asked for.
        labels: the RUN, or its labels.

    Returns:
        What is not known or not sure, as `Gate.check` does.

    Raises:
        GateError: the gate is not met.
        SettingsError: there is neither file, one cannot be read, or a condition is on a class that there is not; or
            labels were added or taken away since the audit.
    """
    run = Workspace.holding(labels)
    if run is None:
        raise SettingsError(
            f"gate: {labels} is no RUN that could hold an audit; make its labels with `autocoarse label`, or leave out "
            f"the gate"
        )
    files = [path for path in (run.calibration, run.audit) if path.is_file()]
    if not files:
        raise SettingsError(
            f"gate: nothing is known of the labels in {run.root}. With coarse labels of its images: `autocoarse audit "
            f"{run.root} --coarse DIR`; with fine labels of others: `autocoarse calibrate`, then `autocoarse label "
            f"--thresholds calibration.json`"
        )
    if run.audit in files:
        audit = audit_file.read_audit(run.audit)
        then, now = len(audit.images) + audit.images_without_coarse, len(list_labels(run.root))
        if then != now:
            raise SettingsError(
                f"gate: {run.audit} is of {then} labels, and {run.root} has {now} now; make it again: `autocoarse "
                f"audit {run.root} --coarse {audit.coarse}`"
            )
    return [not_known for path in files if (not_known := gate.check(read_quality(path)))]
