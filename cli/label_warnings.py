"""What `label` warns of: workers that are not used, what had to be given up, and room that will not suffice."""

from typing import TYPE_CHECKING

from cli.console import Console, human_bytes

if TYPE_CHECKING:
    from pipeline.labelling import LabelRun


def warn_of_refused(run: "LabelRun", console: Console, known: set[str]) -> None:
    """Say once of each worker that is not used why it is not."""
    for worker in run.workers.view():
        if worker.state not in ("opening", "ready") and worker.name not in known:
            known.add(worker.name)
            console.warn(f"worker {worker.name} is not used: {worker.state}")


def warn_of_problems(run: "LabelRun", console: Console) -> None:
    """Say of each thing that had to be given up what it was, once, and by which workers."""
    by_whom: dict[str, list[str]] = {problem: [] for problem in run.teacher.problems}
    for worker in run.workers.view():
        for problem in worker.problems:
            by_whom.setdefault(problem, []).append(worker.name)
    for problem, workers in by_whom.items():
        console.warn(problem + (f" (worker {', '.join(workers)})" if workers else ""))


def warn_of_shortage(run: "LabelRun", console: Console) -> None:
    """Say, once, that there will not be room for all, and what would fit."""
    if (shortage := run.forecast.shortage()) is None:
        return
    what = "the budget leaves" if shortage.is_budget else "the disk has"
    fits = " or ".join(shortage.fitting)
    advice = f"what is left would fit with {fits}" if fits else "no preset makes it fit: a larger budget or disk does"
    console.warn(
        f"all files together may take {human_bytes(shortage.bytes)}, {what} room for {human_bytes(shortage.room)}; "
        f"{advice}. The run goes on and stops cleanly when the room is used up"
    )


def warn_by_model(run: "LabelRun", console: Console) -> None:
    """Before the first label only a model can tell; it knows nothing of kept confidence."""
    from pipeline.estimation import make_estimate, sample_sizes
    from storage.errors import LayoutError

    try:
        sizes = sample_sizes(run.plan.sample(50), limit=50)
    except LayoutError:
        return  # nothing to do, or nothing readable: each failure will be recorded with its reason
    classes = len(run.teacher.schema)
    estimate = make_estimate(sizes, run.plan.to_do_count, classes, "sample", run.workspace.root)
    if estimate.sizes.hard_png_bytes > estimate.free_bytes:
        console.warn(
            f"the labels may take {human_bytes(estimate.sizes.hard_png_bytes)}, "
            f"free are {human_bytes(estimate.free_bytes)}; the run stops cleanly when the disk is full"
        )
