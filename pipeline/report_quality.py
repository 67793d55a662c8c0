"""What a report says of the quality of labels: measured against a truth, or else by a calibration, or by an audit.

The first of these that is there speaks; each says what it speaks of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pipeline.audit_file import BIAS, Audit, read_audit
from pipeline.calibration_counts import CalibrationCounts
from pipeline.calibration_file import Calibration, read_calibration
from pipeline.quality import Quality
from pipeline.report_curves import precision_curves, reliability
from pipeline.report_form import Curve, ReliabilityBin
from pipeline.report_sources import Sources
from pipeline.report_sums import Judgement, ReportSums
from storage.errors import MissingFileError, SettingsError
from storage.layouts import pairing_key
from storage.ledger import Ledger

_Kind = TypeVar("_Kind", Calibration, Audit)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is said of the labels' quality, and from where."""

    thresholds: Mapping[str, float]
    """By class name, those that the automatic labels were kept above; empty where not known."""
    judgements: tuple[Judgement, ...] = ()
    """By class, and of all together; empty where nothing is known."""
    source: str = ""
    """A sentence on what the judgements are from."""
    curves: tuple[Curve, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    ece: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    """What lies beside the labels of a run."""

    calibration: Calibration | None = None
    audit: Audit | None = None
    notes: list[str] = field(default_factory=list)
    """What could not be used, and why."""

    @classmethod
    def of(cls, sources: Sources) -> "Findings":
        """Read what a run of automatic labels has of both; what is damaged, or of other classes, is told."""
        run = sources.runs.get("auto")
        if run is None:
            return cls()
        notes: list[str] = []
        calibration = _read(
            "calibration", lambda: read_calibration(run.calibration), lambda found: found.classes, sources, notes
        )
        audit = _read("audit", lambda: read_audit(run.audit), _audited_names, sources, notes)
        return cls(calibration, audit, notes)

    def disagreements(self) -> dict[str, float]:
        """By pairing key the share of the judged pixels in which the audit found the labels to differ."""
        images = () if self.audit is None else self.audit.images
        return {pairing_key(one.key): 1 - one.agreeing / one.judged for one in images if one.judged}


def _read(
    what: str,
    read: Callable[[], _Kind],
    names_of: Callable[[_Kind], tuple[str, ...]],
    sources: Sources,
    notes: list[str],
) -> _Kind | None:
    """Read a file; None, and a note where it is there, if it cannot be used."""
    try:
        found = read()
    except MissingFileError:
        return None
    except SettingsError as error:
        notes.append(f"The {what} is left out: {error}.")
        return None
    if (names := names_of(found)) != sources.schema.names:
        notes.append(f"The {what} is left out: it is of other classes, {', '.join(names[:4])}, ... ({len(names)}).")
        return None
    return found


def _audited_names(audit: Audit) -> tuple[str, ...]:
    return tuple(one.name for one in audit.classes)


def find_figures(sources: Sources, sums: ReportSums, findings: Findings) -> Figures:
    """Say what is known of the quality of a run's labels.

    Args:
        sources: what the report is made from.
        sums: what was counted.
        findings: what lies beside the labels.

    Raises:
        WorkspaceError: the ledger cannot be read.
    """
    thresholds, notes = _thresholds(sources), list(findings.notes)
    if "coarse" in sources.layers or findings.audit is not None:
        notes.append(f"Of disagreement: {BIAS[0]}.")
    figures = Figures(thresholds)
    if sums.kept is not None:
        figures = _with_curves(figures, sums.kept)
        if sources.own == "merged":
            notes.append(
                "Curves and confidence are those of the automatic labels; precision is that of the merged ones."
            )
    figures = replace(figures, notes=tuple(notes))
    if sums.judged:
        source = f"Measured against the ground truth of {sums.judged} images of this run."
        return replace(figures, judgements=sums.judgements(), source=source)
    if findings.calibration is not None:
        return _calibrated(figures, findings.calibration)
    if findings.audit is not None:
        audit = findings.audit
        overall = Judgement(audit.precision, audit.precision_low, audit.precision_high, audit.coverage)
        source = f"Agreement of the automatic labels with humans' coarse ones, not with the truth: {audit.bias[0]}."
        return replace(figures, judgements=(*_by_class(audit.quality()), overall), source=source)
    return figures


def _thresholds(sources: Sources) -> dict[str, float]:
    """By class name, as the ledger of the automatic labels says."""
    run = sources.runs.get("auto")
    if run is None:
        return {}
    with Ledger(run.ledger, read_only=True) as ledger:
        settings = ledger.settings or {}
    common, own = settings.get("threshold"), settings.get("class_thresholds") or {}
    assert isinstance(own, dict), "a run records it so"
    found = {name: own.get(name, common) for name in sources.schema.names}
    return {name: float(value) for name, value in found.items() if value is not None}


def _calibrated(figures: Figures, calibration: Calibration) -> Figures:
    try:
        quality = calibration.quality(figures.thresholds)
    except SettingsError as error:
        note = f"Precision is that at the thresholds of the calibration, not of the run: {error}."
        figures, quality = replace(figures, notes=(*figures.notes, note)), calibration.quality()
    overall = Judgement(quality.precision, None, None, quality.coverage)
    source = f"Of this teacher's labels at these thresholds on {calibration.images} other images, its calibration."
    judged = replace(figures, judgements=(*_by_class(quality), overall), source=source)
    return _with_curves(judged, calibration.counts)


def _with_curves(figures: Figures, counts: CalibrationCounts) -> Figures:
    bins, ece = reliability(counts)
    return replace(figures, curves=precision_curves(counts), reliability=bins, ece=ece)


def _by_class(quality: Quality) -> tuple[Judgement, ...]:
    return tuple(
        Judgement(one.precision, one.precision_low, one.precision_high, one.coverage) for one in quality.classes
    )
