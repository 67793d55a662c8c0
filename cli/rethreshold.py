"""`autocoarse rethreshold`: other thresholds for a run whose confidence was kept, without the teacher."""

import time
from typing import Any

import click

from cli.console import Console, Failures, Progress, human_bytes
from cli.exit_codes import stop_where_items_failed
from cli.options import (
    FILE,
    FOLDER,
    OUT,
    class_thresholds_option,
    json_option,
    png_option,
    settings_option,
    workers_option,
)


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option("--threshold", type=float, help="Keep where confidence > threshold.  [default: as in RUN]")
@class_thresholds_option(None)
@click.option("--thresholds", type=FILE, help="A calibration, made by `calibrate`, with a threshold for each class.")
@png_option(None)
@workers_option
@click.option("--out", type=OUT, required=True, help="Folder of the new run.")
@json_option
def rethreshold(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by RethresholdSettings
    """Make the labels that labelling at other thresholds would have made, from what `label --keep` kept in RUN.

    Thresholds must be on the grid of the kept confidence, 0.01 by default. OUT is a RUN like any other.
    """
    from pipeline.rethresholding import RethresholdRun, RethresholdSettings

    console = Console(as_json=as_json)
    started = time.monotonic()
    with RethresholdRun(RethresholdSettings.checked(**options)) as run:
        summary = run.summary
        own = ", ".join(f"{name} {value:g}" for name, value in run.label_settings.class_thresholds.items())
        console.say(
            f"{summary.total} labels: {summary.skipped} made before, {len(run.plan)} to make at threshold "
            f"{run.label_settings.threshold:g}" + (f" ({own})" if own else "")
        )
        if run.without_label:
            console.warn(f"{run.without_label} images have no label in {options['run']}, and will have none here")
        with (
            Failures() as failures,
            Progress("rethreshold", summary.total - summary.skipped, unit="labels") as progress,
        ):
            for entry in run:
                progress.advance(note=f"{human_bytes(summary.bytes)}, {summary.failed} failed")
                if entry.status == "failed":
                    failures.add(entry.reason)
    seconds = time.monotonic() - started
    console.say(
        f"made {summary.labelled}, skipped {summary.skipped}, failed {summary.failed} of {summary.total}; "
        f"{human_bytes(summary.bytes)}, {summary.ignore_fraction:.1%} of the pixels ignored; {seconds:.1f} s"
    )
    console.say(f"labels: {run.workspace.labels}")
    console.finish(
        {
            "total": summary.total,
            "labelled": summary.labelled,
            "failed": summary.failed,
            "skipped": summary.skipped,
            "bytes": summary.bytes,
            "seconds": round(seconds, 3),
            "ignore_fraction": summary.ignore_fraction,
            "settings_digest": run.digest,
            "out": str(options["out"]),
        }
    )
    stop_where_items_failed(summary.failed, summary.total)
