"""`autocoarse verify`: the proof that nothing of a RUN is damaged, and the return of what is damaged to the plan."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console, Progress
from cli.exit_codes import ExitCode
from cli.going_on import command_to_go_on
from cli.options import FOLDER, json_option, settings_option
from cli.rebuild_view import rebuild_ledger

if TYPE_CHECKING:
    from pipeline.verification import Verification

_PROBLEMS_SHOWN = 20
_MAX_WORKERS = 256


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option(
    "--repair",
    is_flag=True,
    help="Delete what is damaged and was made by the run, so that its next run makes it again.",
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="Make a ledger that is damaged or gone anew, from the labels that are this run's; nothing else is done.",
)
@click.option(
    "--workers", type=click.IntRange(1, _MAX_WORKERS), show_default="one a processor", help="Threads that check."
)
@json_option
def verify(*, run: Path, repair: bool, rebuild: bool, workers: int | None, as_json: bool) -> None:
    """Prove that nothing of a RUN (what `label --out` made) is damaged.

    Every label is decoded and compared with its entry, its image's size and the kept confidence; files that belong to
    nothing are named. Without --repair or --rebuild nothing is written. Exit 1: damage; 3: sound, but images are
    failed, not labelled yet, or returned to the plan by a repair, or a rebuilding has left labels out.
    """
    from pipeline.verification import Verification
    from storage.errors import SettingsError

    console = Console(as_json=as_json)
    if rebuild:
        if repair:
            raise SettingsError("--rebuild and --repair are done one after the other: the ledger first")
        rebuild_ledger(run, workers, console)
        return
    started = time.monotonic()
    with Verification(run, repair=repair, workers=workers) as verification:
        _say_start(verification, console)
        summary = verification.summary
        with Progress("verify", summary.items, unit="items") as progress:
            for found in verification:
                if found.of_item:
                    progress.advance(note=f"{summary.damaged} damaged")
    seconds = time.monotonic() - started
    _say_problems(verification, console)
    _say_end(verification, console, seconds)
    _finish(verification, console, seconds)
    if summary.beyond_repair:
        raise SystemExit(ExitCode.FAILED)
    if summary.to_make:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _say_start(verification: "Verification", console: Console) -> None:
    source, summary = verification.source, verification.summary
    if source.listing is None:
        compared = f"its entries alone are checked: {source.absence}"
    else:
        compared = f"compared with the {len(source.listing.keys)} images in {source.folder}"
    console.say(f"{verification.workspace.root}: {summary.items} items, {summary.labels} with a label, {compared}")
    if source.listing is None and source.command in ("label", ""):
        console.warn("the images are not there: whether each of them has a label is not known")
    if verification.compares_store is False:
        console.warn("the run's thresholds are not on the grid of the kept confidence: the two are not compared")
    if verification.at_work:
        console.warn(
            "a run is at work here, or was killed: what it has not recorded yet is told as unfinished or stray"
        )


def _say_problems(verification: "Verification", console: Console) -> None:
    summary = verification.summary
    if not summary.kinds:
        return
    width = max(map(len, summary.kinds))
    for kind, count in summary.kinds.most_common():
        console.say(f"  {kind:{width}}  {count:>7}")
    shown = summary.problems[:_PROBLEMS_SHOWN]
    for problem in shown:
        console.say(f"{problem.kind}: {problem.key}: {' '.join(problem.reason.split())}")
    if (more := summary.kinds.total() - len(shown)) > 0:
        console.say(f"and {more} more" + ("" if more > len(summary.problems) else "; --json lists them"))


def _say_end(verification: "Verification", console: Console, seconds: float) -> None:
    summary, repaired, root = verification.summary, verification.summary.repaired, verification.workspace.root
    rate = f"{summary.checked} labels checked in {seconds:.1f} s"
    source = verification.source
    again = command_to_go_on(source.command or "label", root)
    if not summary.damaged:
        console.say(f"{rate}: nothing is damaged")
    elif repaired is None:
        console.say(f"{rate}: {summary.damaged} damaged or stray")
        strays = summary.kinds["stray"] + summary.kinds["duplicate"]
        if summary.of_items:
            console.say(f"next: autocoarse verify {root} --repair")
        elif strays:
            console.say("next: move or delete the files that are stray or duplicates; a repair leaves them alone")
    else:
        console.say(f"{rate}: {summary.damaged} damaged or stray")
        console.say(f"returned to the plan: {len(repaired.returned)} items, to be made again")
        for name, reason in repaired.kept[:_PROBLEMS_SHOWN]:
            console.say(f"not repaired: {name}: {' '.join(reason.split())}")
        if len(repaired.kept) > _PROBLEMS_SHOWN:
            console.say(f"not repaired: {len(repaired.kept) - _PROBLEMS_SHOWN} more")
    if repaired is not None and repaired.removed:
        console.say(f"deleted {len(repaired.removed)} labels that the run had made and not recorded")
    if summary.left or (repaired is not None and repaired.returned):
        if source.listing is None and source.folder is not None:  # the settings alone cannot go on
            console.say(f"the images of its settings are not found at {source.folder}: --images says where they are")
            again += " --images DIR"
        console.say(f"next: {again}")


def _finish(verification: "Verification", console: Console, seconds: float) -> None:
    from pipeline.verification import PROBLEMS_KEPT

    summary, repaired = verification.summary, verification.summary.repaired
    console.finish(
        {
            "run": str(verification.workspace.root),
            "items": summary.items,
            "labels": summary.labels,
            "damaged": summary.damaged,
            "beyond_repair": summary.beyond_repair,
            "left": summary.left,
            "counts": dict(summary.kinds),
            "problems": [asdict(problem) for problem in summary.problems],
            "problems_total": summary.kinds.total(),
            "images": None if verification.source.listing is None else str(verification.source.folder),
            "without_images": verification.source.absence,
            "store_compared": verification.compares_store,
            "repaired": None
            if repaired is None
            else {
                "returned": len(repaired.returned),
                "removed": len(repaired.removed),
                "kept": repaired.kept[:PROBLEMS_KEPT],
            },
            "seconds": round(seconds, 3),
        }
    )
