"""`autocoarse budget`: what labels take on disk, after or during a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, human_bytes
from cli.exit_codes import ExitCode
from cli.folders import FOLDER_OR_URL
from cli.option_types import ByteSize, SchemaOrCount
from cli.options import json_option, settings_option

if TYPE_CHECKING:
    from pipeline.run_budget import Projection, SoftBytes
    from storage.budget import FolderBytes

_FOLDERS_SHOWN = 20


@click.command()
@settings_option
@click.argument("run", type=FOLDER_OR_URL)
@click.option("--limit", type=ByteSize(), help="Such as 600MB; exit 4 if all files together are over it.")
@click.option(
    "--classes",
    type=SchemaOrCount(),
    help="Class schema, or just the number of classes, to tell what soft labels would take. A RUN says it itself.",
)
@json_option
def budget(*, run: Path, limit: int | None, classes: str | int | None, as_json: bool) -> None:
    """Measure the bytes of a RUN (what `label --out` made) or of a folder of labels.

    The limit is on all files below the folder: labels, what is kept beside them, ledger, and everything else.
    """
    from pipeline.run_budget import count_ledger, project, soft_alternatives
    from storage.budget import measure_bytes
    from storage.paths import path_text
    from storage.schema import load_schema

    console = Console(as_json=as_json)
    count = len(load_schema(classes)) if isinstance(classes, str) else classes
    found = measure_bytes(run)
    ledger = count_ledger(run)
    soft = soft_alternatives(run, ledger, count)
    projection = project(run, found, ledger)
    within = None if limit is None else found.total_bytes <= limit
    if not found.labels and isinstance(ledger, str):
        console.warn(f"{path_text(run)} holds no label: it is no RUN, and no folder of labels")
    _say_bytes(console, found)
    _say_soft(console, soft, found.total_bytes)
    _say_projection(console, projection, limit)
    if limit is not None:
        console.say(f"limit {human_bytes(limit)}: all files together are {'within' if within else 'OVER'}")
    console.finish(
        {
            **_bytes_of(found),
            "soft": None if isinstance(soft, str) else {"pixels": soft.pixels, "classes": soft.classes, **soft.bytes},
            "soft_reason": soft if isinstance(soft, str) else None,
            "projection": None
            if isinstance(projection, str)
            else {
                "done": projection.done,
                "left": projection.left,
                "bytes_each": projection.bytes_each,
                "total_bytes": projection.total_bytes,
            },
            "projection_reason": projection if isinstance(projection, str) else None,
            "limit": limit,
            "within": within,
        }
    )
    if within is False:
        raise SystemExit(ExitCode.BUDGET_OR_GATE)


def _mean(found: "FolderBytes") -> float | None:
    return found.label_bytes / found.labels if found.labels else None


def _folders(found: "FolderBytes") -> list[dict[str, Any]]:
    """The folders with the most bytes, and one row for all the others."""
    rows: list[dict[str, Any]] = [
        {"folder": name, "labels": group.labels, "bytes": group.bytes}
        for name, group in sorted(found.folders.items(), key=lambda one: (-one[1].bytes, one[0]))
    ]
    if len(rows) <= _FOLDERS_SHOWN:
        return rows
    others = rows[_FOLDERS_SHOWN - 1 :]
    rest = {"folder": f"({len(others)} others)"} | {k: sum(row[k] for row in others) for k in ("labels", "bytes")}
    return [*rows[: _FOLDERS_SHOWN - 1], rest]


def _bytes_of(found: "FolderBytes") -> dict[str, Any]:
    return {
        "labels": found.labels,
        "bytes": found.label_bytes,
        "bytes_per_label": _mean(found),
        "total_bytes": found.total_bytes,
        "kinds": {
            "labels": found.label_bytes,
            "store": found.store_bytes,
            "ledger": found.ledger_bytes,
            "other": found.other_bytes,
        },
        "folders": _folders(found),
        "distribution": {
            "count": found.labels,
            "mean": _mean(found),
            "median": found.quantile(0.5),
            "p90": found.quantile(0.9),
            "max": found.quantile(1),
        },
        "largest": [{"label": name, "bytes": size} for name, size in found.largest],
    }


def _say_bytes(console: Console, found: "FolderBytes") -> None:
    each = _mean(found)
    average = "" if each is None else f", {human_bytes(each)} a label"
    console.say(f"{found.labels} labels: {human_bytes(found.label_bytes)}{average}")
    console.say(
        f"all files: {human_bytes(found.total_bytes)} (labels {human_bytes(found.label_bytes)}, store "
        f"{human_bytes(found.store_bytes)}, ledger {human_bytes(found.ledger_bytes)}, other "
        f"{human_bytes(found.other_bytes)})"
    )
    median, p90, most = (found.quantile(share) for share in (0.5, 0.9, 1))
    if median is None or p90 is None or most is None:
        return
    console.say(f"a label: median {human_bytes(median)}, 90 % are at most {human_bytes(p90)}, max {human_bytes(most)}")
    console.say("largest:")
    for name, size in found.largest:
        console.say(f"  {human_bytes(size):>9}  {name}")
    console.say("by folder:")
    for row in _folders(found):
        console.say(f"  {human_bytes(row['bytes']):>9}  {row['labels']:>7} labels  {row['folder']}")


def _say_soft(console: Console, soft: "SoftBytes | str", taken: int) -> None:
    if isinstance(soft, str):
        console.say(f"against soft labels: {soft}")
        return
    console.say(f"the same as soft labels of {soft.classes} classes, uncompressed:")
    for name, size in soft.bytes.items():
        times = f"  {size / taken:,.0f} times as much" if taken else ""
        console.say(f"  {human_bytes(size):>9}  {name}{times}")


def _say_projection(console: Console, projection: "Projection | str", limit: int | None) -> None:
    if isinstance(projection, str):
        console.say(f"no projection: {projection}")
        return
    console.say(
        f"projection: {human_bytes(projection.total_bytes)} with the {projection.left} images that are left, at "
        f"{human_bytes(projection.bytes_each)} each, the mean of the {projection.done} done"
    )
    if limit is not None and projection.total_bytes > limit:
        console.warn(
            f"the finished run will be over the limit of {human_bytes(limit)}: about "
            f"{human_bytes(projection.total_bytes)}"
        )
