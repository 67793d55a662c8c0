"""What `verify --rebuild` does and says: a ledger made anew from the labels."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.console import Console, Progress
from cli.exit_codes import ExitCode
from cli.going_on import command_to_go_on

if TYPE_CHECKING:
    from pipeline.rebuild_ledger import LedgerRebuild

_PROBLEMS_SHOWN = 20


def rebuild_ledger(run: Path, workers: int | None, console: Console) -> None:
    """Make the ledger of a RUN anew, and say what came of it.

    Raises:
        SystemExit: images are left to be labelled, or labels could not be taken.
    """
    from pipeline.rebuild_ledger import LedgerRebuild

    started = time.monotonic()
    with LedgerRebuild(run, workers=workers) as work:
        summary = work.summary
        console.say(f"{work.workspace.root}: {summary.files} labels, {summary.images} images; the ledger is made anew")
        with Progress("rebuild", summary.files, unit="labels") as progress:
            for _ in work:
                progress.advance(note=f"{summary.left_out} left out")
    seconds = time.monotonic() - started
    _say(work, console, seconds)
    console.finish(
        {
            "run": str(work.workspace.root),
            "labels": summary.files,
            "images": summary.images,
            "recorded": summary.recorded,
            "without_image": summary.without_image,
            "left_out": summary.left_out,
            "problems": [asdict(problem) for problem in summary.problems],
            "left": summary.left,
            "confidence_found": summary.slots,
            "confidence_lost": summary.without_confidence,
            "damaged_ledger": None if summary.aside is None else str(summary.aside),
            "seconds": round(seconds, 3),
        }
    )
    if summary.left or summary.left_out or summary.without_confidence:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _say(work: "LedgerRebuild", console: Console, seconds: float) -> None:
    summary, workspace = work.summary, work.workspace
    console.say(f"recorded {summary.recorded} labels as this run's, left out {summary.left_out}; {seconds:.1f} s")
    for problem in summary.problems[:_PROBLEMS_SHOWN]:
        console.say(f"left out: {problem.key}: {' '.join(problem.reason.split())}")
    if (more := summary.left_out - _PROBLEMS_SHOWN) > 0:
        console.say(f"left out: {more} more; --json lists them")
    if summary.without_image:
        console.say(f"of the recorded labels {summary.without_image} have no image any more")
    if summary.slots:
        console.say(f"kept confidence: found again for {summary.slots} labels")
    if summary.without_confidence:
        console.warn(
            f"of {summary.without_confidence} labels it cannot be told which kept confidence is theirs: the `label` "
            f"below makes them again; with --keep none it leaves them as they are, without confidence"
        )
    if summary.aside is not None:
        console.say(f"the damaged ledger is kept as {summary.aside}; delete it when all is well")
    if summary.left or summary.without_confidence:
        console.say(f"next: {command_to_go_on('label', workspace.root)}")
    else:
        console.say(f"next: autocoarse verify {workspace.root}")
