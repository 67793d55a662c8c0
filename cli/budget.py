"""`autocoarse budget`: what labels take on disk, after or during a run."""

from pathlib import Path

import click

from cli.console import Console, human_bytes
from cli.exit_codes import ExitCode
from cli.options import FOLDER, ByteSize, json_option, settings_option


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option("--limit", type=ByteSize(), help="Such as 600MB; exit 4 if the labels are over it.")
@json_option
def budget(*, run: Path, limit: int | None, as_json: bool) -> None:
    """Measure the bytes of a RUN (what `label --out` made) or of a folder of labels.

    The limit is on the labels, as in `estimate --budget`; the bytes of all files are told beside it.
    """
    from storage.budget import measure_bytes

    console = Console(as_json=as_json)
    found = measure_bytes(run)
    per_label = found.label_bytes / found.labels if found.labels else None
    within = None if limit is None else found.label_bytes <= limit
    average = "" if per_label is None else f", {human_bytes(per_label)} a label"
    console.say(f"{found.labels} labels: {human_bytes(found.label_bytes)}{average}")
    console.say(f"all files: {human_bytes(found.total_bytes)} (with ledger and settings, which no limit is on)")
    if limit is not None:
        console.say(f"limit {human_bytes(limit)}: the labels are {'within' if within else 'OVER'}")
    console.finish(
        {
            "labels": found.labels,
            "bytes": found.label_bytes,
            "bytes_per_label": per_label,
            "total_bytes": found.total_bytes,
            "limit": limit,
            "within": within,
        }
    )
    if within is False:
        raise SystemExit(ExitCode.BUDGET_OR_GATE)
