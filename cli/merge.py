"""`autocoarse merge`: join human coarse labels and a teacher's labels into a new label set."""

import time
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Failures, Progress, human_bytes
from cli.exit_codes import stop_where_items_failed
from cli.going_on import refuse_moved_run
from cli.option_types import Names, Numbers
from cli.options import FOLDER, OUT, classes_option, ids_option, json_option, layout_option, settings_option

if TYPE_CHECKING:
    from pipeline.merge import MergeCounts
    from pipeline.merging import MergeRun


class Border(Numbers):
    """Four numbers of pixels with commas between them."""

    name = "TOP,BOTTOM,LEFT,RIGHT"

    def convert(  # noqa: D102 - as in the base
        self,
        value: Any,  # noqa: ANN401 - checked here
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        numbers = super().convert(value, param, ctx)
        if len(numbers) != 4 or not all(number.is_integer() and number >= 0 for number in numbers):
            self.fail(f"{value!r} is no border; expected four numbers of pixels such as 15,184,14,18", param, ctx)
        return tuple(int(number) for number in numbers)


@click.command()
@settings_option
@click.option("--coarse", type=FOLDER, required=True, help="Folder of the human coarse labels.")
@click.option("--auto", type=FOLDER, required=True, help="What label --out made, or a label folder.")
@click.option(
    "--policy",
    type=click.Choice(["fill", "auto", "agree"]),
    default="fill",
    show_default=True,
    help="fill: the teacher fills what the human left blank. auto: the teacher alone. agree: conflicts are ignored.",
)
@click.option(
    "--union-classes", type=Names(), default=(), help="Such as truck,bus,train: the human's pixels of these always win."
)
@click.option(
    "--border-ignore",
    type=Border(),
    default="0,0,0,0",
    show_default=True,
    help="Pixels at the border where the teacher is not believed; the human's label stays as --policy says.",
)
@classes_option
@layout_option
@ids_option
@click.option("--out", type=OUT, required=True, help="Folder of the run; labels land in OUT/labels.")
@json_option
def merge(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by MergeSettings
    """Merge human coarse labels with automatic ones into a new RUN.

    An image that only one of them has is taken as it is, but --policy auto leaves out what has no automatic label.
    Run the same command again to go on after a stop, and to merge again what changed since.
    """
    from pipeline.merging import MergeRun, MergeSettings

    refuse_moved_run(click.get_current_context())
    console = Console(as_json=as_json)
    started = time.monotonic()
    with MergeRun(MergeSettings.checked(**options)) as run:
        _say_plan(run, console)
        with Failures() as failures, Progress("merge", len(run.plan.to_do) + len(run.plan.refused)) as progress:
            for entry in run:
                progress.advance(note=f"{human_bytes(run.summary.bytes)}, {run.summary.failed} failed")
                if entry.status == "failed":
                    failures.add(entry.reason)
    _report(run, console, time.monotonic() - started)
    stop_where_items_failed(run.summary.failed, run.summary.total)


def _say_plan(run: "MergeRun", console: Console) -> None:
    summary = run.summary
    both = summary.total - summary.coarse_only - summary.auto_only
    console.say(
        f"{summary.total} images, policy {run.settings.policy}: {both} in both sets, {summary.coarse_only} with the "
        f"human label only, {summary.auto_only} with the auto label only; {summary.skipped} merged before"
    )
    if not both:
        console.warn("no image is in both sets; their trees must mirror each other")
    if summary.left_out:
        console.warn(f"{summary.left_out} human labels without an auto label are left out, as policy auto has it")
    if summary.stale:
        console.warn(f"{run.workspace.labels} holds {summary.stale} older labels that nothing of this merge made")
    if not run.plan.to_do and not run.plan.refused:
        console.say("nothing to do: all labels are current")


def _report(run: "MergeRun", console: Console, seconds: float) -> None:
    summary, counts = run.summary, run.summary.counts
    if counts.unknown:
        console.warn(f"{counts.unknown} pixels have source ids that {run.schema.name} does not know, taken as ignore")
    if counts.pixels:
        _print_table(counts, run.schema.names, console)
    console.say(
        f"merged {summary.merged}, skipped {summary.skipped}, failed {summary.failed} of {summary.total}; "
        f"{human_bytes(summary.bytes)}, {_share(counts.ignored, counts.pixels)} of the pixels ignored; {seconds:.1f} s"
    )
    if summary.failed:
        console.say(f"the reasons are in {run.workspace.failures}; the same command tries the failed images again")
    console.say(f"labels: {run.workspace.labels}")
    rows = zip(run.schema.names, counts.human, counts.kept, counts.filled, counts.conflicts, strict=True)
    console.finish(
        {
            "total": summary.total,
            "merged": summary.merged,
            "skipped": summary.skipped,
            "failed": summary.failed,
            "left_out": summary.left_out,
            "coarse_only": summary.coarse_only,
            "auto_only": summary.auto_only,
            "bytes": summary.bytes,
            "seconds": round(seconds, 3),
            "pixels": counts.pixels,
            "human": sum(counts.human),
            "kept": sum(counts.kept),
            "filled": sum(counts.filled),
            "conflicts": sum(counts.conflicts),
            "ignored": counts.ignored,
            "unknown": counts.unknown,
            "classes": {
                name: {"human": human, "kept": kept, "filled": filled, "conflicts": conflicts}
                for name, human, kept, filled, conflicts in rows
            },
            "policy": run.settings.policy,
            "settings_digest": run.digest,
            "out": str(run.settings.out),
        }
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"


def _print_table(counts: "MergeCounts", names: tuple[str, ...], console: Console) -> None:
    width = max(len("all"), *map(len, names))
    console.say(f"{'class':{width}}  {'kept':>8}  {'conflicts':>9}  {'filled':>8}  {'result':>8}")
    rows = [*zip(names, counts.human, counts.kept, counts.conflicts, counts.filled, strict=True)]
    rows.append(("all", sum(counts.human), sum(counts.kept), sum(counts.conflicts), sum(counts.filled)))
    for name, human, kept, conflicts, filled in rows:
        result = kept + filled
        console.say(
            f"{name:{width}}  {_share(kept, human):>8}  {_share(conflicts, human):>9}  "
            f"{_share(filled, result):>8}  {_share(result, counts.pixels):>8}"
        )
    console.say(
        "kept and conflicts: of the human's pixels of the class; filled: of the result's pixels of the class; "
        "result: of all pixels"
    )
