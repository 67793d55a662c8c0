"""`autocoarse rounds`: the student becomes the teacher, as long as that makes it better."""

from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages
from cli.exit_codes import ExitCode
from cli.option_types import Numbers
from cli.options import FILE, FOLDER, OUT, classes_option, ids_option, json_option, layout_option, settings_option
from cli.train_options import flags_win, recipe_options
from cli.training_view import TrainingView

if TYPE_CHECKING:
    from pipeline.rounds import Round


@click.command()
@settings_option
@click.option("--fine-images", type=FOLDER, required=True, help="Images with fine labels; each must have one.")
@click.option("--fine-labels", type=FOLDER, required=True, help="Their labels.")
@click.option("--extra-images", type=FOLDER, required=True, help="Images that are labelled again in every round.")
@click.option("--coarse-labels", type=FOLDER, help="Human labels of them: they stay, the teacher fills the rest.")
@click.option("--val-images", type=FOLDER, required=True, help="Images that decide when to stop.")
@click.option("--val-labels", type=FOLDER, required=True, help="Their labels.")
@classes_option
@layout_option
@ids_option
@click.option("--teacher", type=FILE, help="First teacher, a checkpoint; trained on the fine labels without.")
@click.option("--rounds", type=int, default=2, show_default=True, help="At most; may be raised later.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Keep where confidence > threshold.")
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="To label and to evaluate at.")
@recipe_options
@click.option("--out", type=OUT, required=True, help="Folder of all rounds.")
@json_option
def rounds(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by RoundsSettings
    """Label, train a student on fine and auto labels, make it the teacher, and again.

    Stops early when the mIoU or the precision of the labels on the validation images falls, and names the best round.
    So these images choose the result: report a final figure on other ones. A fall that other seeds would not show is
    taken for a fall all the same. Run the same command again to go on after a stop.
    """
    from pipeline.rounds import run_rounds
    from pipeline.rounds_settings import RoundsSettings

    console = Console(as_json=as_json)
    result = None
    with Stages() as stages:
        view = TrainingView(console, stages)
        for progress in run_rounds(RoundsSettings.checked(**flags_win(options))):
            result = progress.result
            name = f"round {progress.number} of {progress.rounds}"
            if progress.warning:
                console.warn(f"{name}: {progress.warning}")
            if progress.training is not None:
                view.show(progress.training, f"{name}: ")
            elif progress.total:
                stages.show(f"{name}: {progress.stage}", progress.done, progress.total)
    assert result is not None, "the last progress has the result"
    console.say(f"\n{'round':>5}{'mIoU':>9}{'labels: precision':>19}{'coverage':>10}   on validation images, in %")
    for one in result.rounds:
        console.say(_line(one))
    console.say(f"stopped: {result.stopped}")
    console.say(f"best: round {result.best.number}, {result.best.checkpoint}; chosen on the validation images")
    console.finish(result.to_dict() | {"out": str(options["out"])})
    if any(one.failed for one in result.rounds):
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _line(one: "Round") -> str:
    precision = "-" if one.labels.precision is None else f"{one.labels.precision:.2%}"
    return f"{one.number:>5}{one.scores.miou:>9.2%}{precision:>19}{one.labels.coverage:>10.2%}"
