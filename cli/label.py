"""`autocoarse label`: label a folder of images with a teacher."""

import time
from typing import Any

import click

from cli.console import Console, Progress, human_bytes
from cli.exit_codes import ExitCode
from cli.options import (
    FILE,
    FOLDER,
    OUT,
    Numbers,
    device_option,
    json_option,
    layout_option,
    precision_option,
    settings_option,
)

_FAILURES_SHOWN = 20


@click.command()
@settings_option
@click.option("--images", type=FOLDER, required=True, help="Folder of images, labelled recursively.")
@click.option("--teacher", required=True, help="Network name (hrnet-ocr) or checkpoint file.")
@click.option("--weights", type=FILE, help="Weights, where --teacher is a name.")
@click.option("--classes", help="Class schema: cityscapes, camvid, ... or a file; the teacher's own by default.")
@layout_option
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="Must contain 1.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Keep where confidence > threshold.")
@click.option("--flip", is_flag=True, help="Average with the mirror image: twice the time.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images of equal size labelled together.")
@device_option
@precision_option
@click.option("--out", type=OUT, required=True, help="Folder of the run; labels land in OUT/labels.")
@json_option
def label(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by LabelSettings
    """Label images with a teacher; pixels it is not sure of become ignore (255).

    Run the same command again to go on after a stop, and to try failed images again.
    """
    from pipeline.labelling import LabelRun
    from pipeline.settings import LabelSettings

    console = Console(as_json=as_json)
    started = time.monotonic()
    with LabelRun(LabelSettings.checked(**options)) as run:
        plan, summary = run.plan, run.summary
        console.say(
            f"{plan.total} images: {len(plan.done)} done before, {len(plan.to_do)} to label with "
            f"{run.teacher.spec.network} on {run.teacher.device}, scales "
            f"{', '.join(f'{s:g}' for s in run.settings.scales)}, threshold {run.settings.threshold:g}"
        )
        _warn_of_space(run, console)
        with Progress("label", len(plan.to_do) + len(plan.refused)) as progress:
            for entry in run:
                progress.advance(note=f"{human_bytes(summary.bytes)}, {summary.failed} failed")
                if entry.status == "failed" and summary.failed <= _FAILURES_SHOWN:
                    click.echo(f"failed: {entry.reason}", err=True)
        if summary.failed > _FAILURES_SHOWN:
            click.echo(f"failed: {summary.failed - _FAILURES_SHOWN} more", err=True)
        digest = run.digest
    seconds = time.monotonic() - started
    console.say(
        f"labelled {summary.labelled}, skipped {summary.skipped}, failed {summary.failed} of {summary.total}; "
        f"{human_bytes(summary.bytes)}, {summary.ignore_fraction:.1%} of the pixels ignored; {seconds:.1f} s"
    )
    if summary.failed:
        console.say(f"the reasons are in {run.workspace.failures}; the same command tries the failed images again")
    console.say(f"labels: {run.workspace.labels}")
    console.finish(
        {
            "total": summary.total,
            "labelled": summary.labelled,
            "failed": summary.failed,
            "skipped": summary.skipped,
            "bytes": summary.bytes,
            "seconds": round(seconds, 3),
            "images_per_second": round(summary.labelled / seconds, 3),
            "ignore_fraction": summary.ignore_fraction,
            "settings_digest": digest,
            "out": str(options["out"]),
        }
    )
    if summary.failed:
        everything = summary.failed == summary.total
        raise SystemExit(ExitCode.FAILED if everything else ExitCode.SOME_ITEMS_FAILED)


def _warn_of_space(run: Any, console: Console) -> None:  # noqa: ANN401 - imported late, for a quick --help
    from pipeline.estimation import make_estimate, sample_sizes
    from storage.errors import LayoutError

    try:
        sizes = sample_sizes(run.plan.to_do, limit=50)
    except LayoutError:
        return  # nothing to do, or nothing readable: each failure will be recorded with its reason
    classes = len(run.teacher.schema)
    estimate = make_estimate(sizes, len(run.plan.to_do), classes, "sample", run.workspace.root)
    if estimate.sizes.hard_png_bytes > estimate.free_bytes:
        console.warn(
            f"the labels may take {human_bytes(estimate.sizes.hard_png_bytes)}, "
            f"free are {human_bytes(estimate.free_bytes)}; the run stops cleanly when the disk is full"
        )
