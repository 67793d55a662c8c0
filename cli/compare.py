"""`autocoarse compare`: which labels make the better student."""

from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages, human_seconds
from cli.option_types import Names, Numbers
from cli.options import FOLDER, OUT, classes_option, ids_option, json_option, layout_option, settings_option
from cli.train_options import flags_win, recipe_options
from cli.training_view import TrainingView

if TYPE_CHECKING:
    from pipeline.comparison import CompareProgress
    from pipeline.comparison_report import Comparison


class LabelSets(Names):
    """One NAME=DIR, of an option that may be given several times; a settings file has a list of them."""

    name = "NAME=DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ANN401
        """Take the text as it is: what is in it is checked by the settings."""
        if "=" not in str(value):
            self.fail(f"{value!r} is no label set; expected NAME=DIR", param, ctx)
        return (str(value),)


@click.command()
@settings_option
@click.option("--fine-images", type=FOLDER, required=True, help="Images with fine labels; each must have one.")
@click.option("--fine-labels", type=FOLDER, required=True, help="Their labels.")
@click.option("--extra-images", type=FOLDER, required=True, help="Images that the sets hold labels of.")
@click.option(
    "--set",
    type=LabelSets(),
    multiple=True,
    required=True,
    help="A name, and what label --out made (auto) or a label folder (coarse); NAME:auto=DIR and NAME:coarse=DIR say "
    "which. Repeat it for each set; in a settings file it is a list.",
)
@click.option(
    "--reviewed",
    type=LabelSets(),
    multiple=True,
    help="One of the sets, and reviewed labels that stand in it instead of those of the same images. Give the same "
    "labels as two sets to compare them with and without.",
)
@click.option("--baseline", help="Set that gains are computed against.  [default: the first coarse one, or fine]")
@click.option("--val-images", type=FOLDER, required=True, help="Images to evaluate the students on.")
@click.option("--val-labels", type=FOLDER, required=True, help="Their labels.")
@classes_option
@layout_option
@ids_option
@click.option("--seeds", type=int, default=3, show_default=True, help="Students of each set.")
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="To evaluate at; must contain 1.")
@recipe_options
@click.option("--out", type=OUT, required=True, help="Folder of the students and of the tables.")
@json_option
def compare(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by CompareSettings
    """Train the same student on the fine labels alone and with each --set, and compare them.

    All get the same steps and the same seeds. The table in OUT is written again after each student; run the same
    command again to go on after a stop, also with more sets or seeds.
    """
    from pipeline.comparison import CompareSettings
    from pipeline.comparison import compare as compare_sets

    console = Console(as_json=as_json)
    for name in ("set", "reviewed"):
        options[name] = tuple(text for texts in options[name] for text in texts)
    settings = CompareSettings.checked(**flags_win(options))
    comparison = None
    with Stages() as stages:
        view = _View(console, stages, settings.seed)
        for progress in compare_sets(settings):
            comparison = progress.comparison
            view.show(progress)
    assert comparison is not None, "the last progress has the comparison"
    _print_table(comparison, console)
    console.say(f"\nin {settings.out}: comparison.md, comparison.json, comparison.png, students/")
    console.finish(comparison.to_dict() | {"out": str(settings.out)})


class _View:
    """Shows each student's name, what is left for all, and its training; the plan once for each set."""

    def __init__(self, console: Console, stages: Stages, first_seed: int) -> None:
        self._console, self._stages, self._first_seed = console, stages, first_seed
        self._student = -1
        self._training: TrainingView | None = None

    def show(self, progress: "CompareProgress") -> None:
        if progress.phase == "counting":
            self._stages.show(f"labels of {progress.name}", progress.done, progress.total, unit="labels")
        elif progress.training is not None:
            if progress.done != self._student or self._training is None:
                self._student = progress.done
                self._training = TrainingView(self._console, self._stages, plans=progress.seed == self._first_seed)
                left = progress.seconds_left
                note = "" if left is None else f"; about {human_seconds(left)} for all that are left"
                self._console.say(
                    f"student {progress.done + 1} of {progress.total}: {progress.name}, seed {progress.seed}{note}"
                )
            self._training.show(progress.training, f"{progress.name}, seed {progress.seed}: ")


def _print_table(comparison: "Comparison", console: Console) -> None:
    from pipeline.comparison_report import gain_text, percent_text

    width = max(len("trained on"), *(len(row.name) for row in comparison.rows))
    console.say(f"\nstudents of equal steps, on validation images, in %; gains over {comparison.baseline}")
    console.say(f"{'trained on':{width}}{'seeds':>7}{'mIoU':>8}{'deviation':>11}{'gain':>16}{'coverage':>10}")
    for row in comparison.rows:
        console.say(
            f"{row.name:{width}}{len(row.miou.values):>7}{percent_text(row.miou.mean):>8}"
            f"{percent_text(row.miou.deviation):>11}{gain_text(row.gain):>16}"
            f"{percent_text(comparison.labels[row.name].coverage):>10}"
        )
    console.say(comparison.verdict)
