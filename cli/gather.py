"""`autocoarse gather`: join the runs of several jobs into one, and prove that no image is missing."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Failures, Progress, human_bytes
from cli.exit_codes import ExitCode
from cli.going_on import command_to_go_on
from cli.options import FOLDER, OUT, json_option, settings_option, workers_option

if TYPE_CHECKING:
    from pipeline.gathering import GatherRun

_SHOWN = 20
_LISTED = 1000
"""Keys that the JSON holds of each kind; all are counted."""


@click.command()
@settings_option
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option("--images", type=FOLDER, help="Where the images are now.  [default: as the RUNs say]")
@workers_option
@click.option("--out", type=OUT, required=True, help="Folder of the new run.")
@json_option
def gather(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by GatherSettings
    """Join RUNS of one data set, such as those of `label --shard`, into a new RUN.

    Every label is proven to be what its RUN recorded, and every image to be labelled; exit 3 where one is missing or
    failed. Files are hard links where the disk allows. Run the same command again to go on after a stop.
    """
    from pipeline.gathering import GatherRun, GatherSettings

    console = Console(as_json=as_json)
    started = time.monotonic()
    with GatherRun(GatherSettings.checked(**options)) as run:
        _say_plan(run, console)
        summary = run.summary
        with Failures() as failures, Progress("gather", len(run.plan.to_do), unit="labels") as progress:
            for entry in run:
                progress.advance(note=f"{human_bytes(summary.bytes)}, {summary.failed} failed")
                if entry.status == "failed":
                    failures.add(entry.reason)
    seconds = time.monotonic() - started
    _say_end(run, console, seconds)
    _finish(run, console, seconds)
    if summary.failed and summary.failed == summary.total:
        raise SystemExit(ExitCode.FAILED)
    if not run.is_complete:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _say_plan(run: "GatherRun", console: Console) -> None:
    summary = run.summary
    console.say(
        f"{len(run.sources)} runs, {summary.total} items: {summary.skipped} gathered before, "
        f"{len(run.plan.to_do)} to gather"
    )
    for root in run.at_work:
        console.warn(f"a run is at work in {root}; gather again when it has ended")
    if summary.duplicates:
        console.say(
            f"{summary.duplicates} are in more than one run with the same label, and count once: {_few(run.duplicates)}"
        )
    if summary.gone:
        console.warn(f"{summary.gone} labels are of images that are gone; they are gathered all the same")


def _say_end(run: "GatherRun", console: Console, seconds: float) -> None:
    summary = run.summary
    console.say(
        f"gathered {summary.labelled} ({summary.linked} as links), skipped {summary.skipped}, failed {summary.failed}, "
        f"missing {summary.missing} of {summary.total}; {human_bytes(summary.bytes)}, "
        f"{summary.ignore_fraction:.1%} of the pixels ignored; {seconds:.1f} s"
    )
    for key in run.plan.missing[:_SHOWN]:
        click.echo(f"missing: {key}", err=True)
    if summary.missing > _SHOWN:
        click.echo(f"missing: {summary.missing - _SHOWN} more", err=True)
    for shard, count in sorted(summary.missing_by_shard.items()):
        console.say(f"{count} of the missing images are of shard {shard}: run its `label` command again, then this one")
    if not run.is_proven:
        if run.absent_shards:
            console.warn(f"none of the runs is of shard {_few([str(shard) for shard in run.absent_shards])}")
        console.warn(
            f"whether every image has a label could not be proven: {run.absence}. Run this again where the images are, "
            f"or say with --images where that is"
        )
    elif run.is_complete:
        console.say(
            f"complete: each of the {summary.total - summary.gone} images in {run.label_settings.images} has one label"
        )
    if summary.failed:
        console.say(
            f"the reasons are in {run.workspace.failures}; run `label` of their runs again, then this command; or "
            f"`{command_to_go_on('label', run.workspace.root)}`, which makes all that is left"
        )
    console.say(f"labels: {run.workspace.labels}")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _finish(run: "GatherRun", console: Console, seconds: float) -> None:
    summary = run.summary
    console.finish(
        {
            "runs": [str(source.workspace.root) for source in run.sources],
            "total": summary.total,
            "gathered": summary.labelled,
            "skipped": summary.skipped,
            "failed": summary.failed,
            "missing": summary.missing,
            "missing_items": run.plan.missing[:_LISTED],
            "missing_by_shard": dict(summary.missing_by_shard),
            "absent_shards": [str(shard) for shard in run.absent_shards[:_LISTED]],
            "duplicates": summary.duplicates,
            "duplicate_items": run.duplicates[:_LISTED],
            "gone": summary.gone,
            "linked": summary.linked,
            "proven": run.is_proven,
            "not_proven_because": run.absence,
            "complete": run.is_complete and run.is_proven,
            "bytes": summary.bytes,
            "ignore_fraction": summary.ignore_fraction,
            "seconds": round(seconds, 3),
            "settings_digest": run.digest,
            "out": str(run.settings.out),
        }
    )
