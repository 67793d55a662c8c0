"""`autocoarse demo`: the whole way on generated street scenes, in minutes."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console, Stages, human_bytes
from cli.options import OUT, json_option, settings_option
from cli.run import StagesView

if TYPE_CHECKING:
    from pipeline.demo import DemoResult


@click.command()
@settings_option
@click.option("--out", type=OUT, default="demo", show_default=True, help="Folder of everything that is made.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other scenes, other weights.")
@json_option
def demo(*, out: Path, seed: int, as_json: bool) -> None:
    """Show the whole way on generated street scenes: teacher, labels, budget, three students.

    Takes a few minutes on two cores. Nothing is downloaded and nothing is scripted: the table holds what the run gave.
    """
    from pipeline.demo import DemoSettings, run_demo

    console = Console(as_json=as_json)
    result = None
    with Stages() as stages:
        view = StagesView(console, stages, plans=False)
        for progress in run_demo(DemoSettings.checked(out=out, seed=seed)):
            result = progress.result
            view.show(progress.step)
    assert result is not None, "the last progress has the result"
    _print_table(result, console)
    console.say(f"\nin {out}: labels.png (image | coarse | auto | truth), summary.json, auto/labels, comparison/")
    console.say(f"open {out / 'report' / 'index.html'}: all of the labels, beside images, coarse labels and truth")
    console.finish(result.to_dict() | {"out": str(out)})


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _print_table(result: "DemoResult", console: Console) -> None:
    soft, hard = result.soft.soft_fp32_bytes, result.label_bytes
    auto, coarse = result.auto, result.coarse
    console.say(f"\nlabels of the coarse set, against the known truth of {auto.images} scenes, in %")
    console.say(f"{'':<15}{'coverage':>9}{'precision':>10}")
    console.say(f"{'human coarse':<15}{_percent(coarse.coverage):>9}{_percent(coarse.precision):>10}")
    console.say(f"{'auto':<15}{_percent(auto.coverage):>9}{_percent(auto.precision):>10}")
    console.say(
        f"\nbytes: {result.labels} auto labels take {human_bytes(hard)}, soft labels (fp32) would take "
        f"{human_bytes(soft)}: {soft / hard:,.0f} times more"
    )
    console.say("\nstudents of equal steps, IoU on held-out scenes, in %")
    names = list(auto.iou)
    console.say(f"{'trained on':<15}{'mIoU':>6}" + "".join(f"{n[:10]:>11}" for n in names))
    for name, scores in result.students.items():
        console.say(f"{name:<15}{_percent(scores.miou):>6}" + "".join(f"{_percent(scores.iou[n]):>11}" for n in names))
    console.say(f"\n{result.seconds:.0f} s")
