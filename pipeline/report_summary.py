"""What a report says of a run as a whole: put together from its sources, what was counted, and what is known beside.

No label is opened here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from pipeline.report_form import LAYERS, Bytes, ClassRow, Counts, Failure, Plot, Summary
from pipeline.report_quality import Figures
from pipeline.report_sources import ReportItem, Sources
from pipeline.report_sums import Judgement, ReportSums
from pipeline.run_budget import LedgerCounts, soft_alternatives
from pipeline.status import RunStatus, read_status
from storage.budget import measure_bytes

_FAILURES = 200
"""So many reasons are on the page; the run's failed.txt has all."""

_NAMES = {
    "teacher": "teacher (digest)",
    "network": "network",
    "scales": "scales",
    "threshold": "threshold",
    "class_thresholds": "thresholds of classes",
    "flip": "mirror image averaged in",
    "precision": "arithmetic",
    "min_component": "smallest component, pixels",
    "policy": "policy of the merge",
    "union_classes": "classes whose human pixels win",
    "border_ignore": "border ignored (top, bottom, left, right)",
    "coarse": "merged: coarse labels",
    "auto": "merged: automatic labels",
}
"""The settings that decide pixels, as the page calls them; what is not here is on no page."""


def summarise(
    sources: Sources, sums: ReportSums, figures: Figures, plots: Sequence[Plot], notes: Sequence[str]
) -> Summary:
    """Put a summary together.

    Args:
        sources: what the report is made from.
        sums: what was counted.
        figures: on quality.
        plots: that lie beside the page.
        notes: what else must be said.

    Raises:
        WorkspaceError: the ledger cannot be read.
    """
    status = read_status(sources.run)
    done = [item for item in sources.items if _is(item, "done")]
    failed = [item for item in sources.items if _is(item, "failed")]
    pixels = sum(item.entry.height * item.entry.width for item in done if item.entry is not None)
    ignored = sum(item.entry.ignored for item in done if item.entry is not None)
    overall = figures.judgements[-1] if figures.judgements else Judgement(None, None, None, None)
    seconds = sum(item.entry.seconds for item in done if item.entry is not None)
    return Summary(
        title=sources.run.root.resolve().name,
        made=_made(sources, status),
        classes=class_rows(sources, sums, figures),
        counts=Counts(
            done=len(done),
            failed=len(failed),
            left=len(sources.items) - len(done) - len(failed),
            reviewed=sum(item.reviewed for item in done),
        ),
        bytes=_bytes(sources, status, [item.key for item in done], pixels),
        layers=sources.layers,
        seconds=seconds or None,
        images_per_second=_rate(done, status.started_ns),
        labelled=1 - ignored / pixels if pixels else None,
        precision=overall.precision,
        precision_low=overall.low,
        precision_high=overall.high,
        coverage=overall.coverage,
        precision_source=figures.source,
        failures=tuple(Failure(i.key, i.entry.reason) for i in failed[:_FAILURES] if i.entry is not None),
        curves=figures.curves,
        reliability=figures.reliability,
        ece=figures.ece,
        confidence_histogram=sums.confidence_histogram(),
        coverage_map=sums.coverage_map(),
        plots=tuple(plots),
        notes=(*_state_notes(status), *sources.notes, *figures.notes, *notes),
    )


def class_rows(sources: Sources, sums: ReportSums, figures: Figures) -> tuple[ClassRow, ...]:
    """What is known of each class."""
    pixels = {layer: sources.pixels.get(layer) or sums.pixels(layer) for layer in LAYERS}
    rows = []
    for index, info in enumerate(sources.schema.classes):
        counts = {layer: None if found is None else found[index] for layer, found in pixels.items()}
        row = ClassRow(
            name=info.name,
            color=info.color,
            pixels_auto=counts.get("auto"),
            pixels_coarse=counts.get("coarse"),
            pixels_merged=counts.get("merged"),
            threshold=figures.thresholds.get(info.name),
        )
        if figures.judgements:
            one = figures.judgements[index]
            row = replace(
                row, precision=one.precision, precision_low=one.low, precision_high=one.high, coverage=one.coverage
            )
        rows.append(row)
    return tuple(rows)


def _is(item: ReportItem, status: str) -> bool:
    return item.entry is not None and item.entry.status == status


def _made(sources: Sources, status: RunStatus) -> tuple[tuple[str, str], ...]:
    settings, table = sources.settings, sources.table
    rows = [("run", str(sources.run.root)), ("made by", f"autocoarse {sources.command}".strip())]
    rows += [(name, str(table[key])) for key, name in (("teacher", "teacher"), ("images", "images")) if key in table]
    rows += [(name, _text(settings[key])) for key, name in _NAMES.items() if settings.get(key) not in (None, [], {})]
    rows.append(("classes", f"{sources.schema.name}, {len(sources.schema)}"))
    if (shard := table.get("shard")) is not None:
        rows.append(("shard", str(shard)))
    rows += [
        (name, _moment(moment))
        for name, moment in (("last started", status.started_ns), ("latest label", status.last_label_ns))
        if moment is not None
    ]
    now = _moment(status.read_ns)
    return (*rows, ("report made", f"{now} by autocoarse {version('autocoarse')}"))


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _moment(moment_ns: int) -> str:
    return datetime.fromtimestamp(moment_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _bytes(sources: Sources, status: RunStatus, keys: Sequence[str], pixels: int) -> Bytes:
    found = measure_bytes(sources.run.root)
    counts = LedgerCounts(frozenset(keys), pixels, found.label_bytes, len(sources.schema))
    soft = soft_alternatives(sources.run.root, counts, len(sources.schema))
    return Bytes(
        labels=found.label_bytes,
        soft=found.store_bytes,
        total=found.total_bytes,
        budget=status.budget,
        soft_fp32=None if isinstance(soft, str) else soft.bytes["fp32"],
    )


def _rate(done: Sequence[ReportItem], started_ns: int | None) -> float | None:
    """Labels a second since the run was last started; None where it made none then, or does not say when that was."""
    moments = [item.entry.modified_ns for item in done if item.entry is not None]
    made = [moment for moment in moments if started_ns is not None and moment > started_ns]
    return len(made) / ((max(made) - (started_ns or 0)) / 1e9) if made else None


def _state_notes(status: RunStatus) -> list[str]:
    if status.at_work:
        return ["The run was at work when this report was made; make it again when it has ended."]
    if status.left:
        return [f"{status.left} images are not labelled yet: run the same command again to go on."]
    return []
