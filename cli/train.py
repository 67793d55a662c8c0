"""`autocoarse train`: train a student, or a teacher, on fine labels and whatever else there is."""

from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages
from cli.gate_view import gate_option
from cli.going_on import refuse_moved_run
from cli.option_types import Numbers
from cli.options import FOLDER, OUT, OUT_FILE, classes_option, ids_option, json_option, layout_option, settings_option
from cli.train_options import flags_win, recipe_options
from cli.training_view import TrainingView

if TYPE_CHECKING:
    from pipeline.training_progress import TrainProgress
    from pipeline.training_settings import TrainSettings


@click.command()
@settings_option
@click.option("--fine-images", type=FOLDER, required=True, help="Images with fine labels; each must have one.")
@click.option("--fine-labels", type=FOLDER, required=True, help="Their labels.")
@click.option("--auto-images", type=FOLDER, help="Images that a teacher labelled.")
@click.option("--auto-labels", type=FOLDER, help="Their labels: what label --out made, or a folder.")
@click.option("--coarse-images", type=FOLDER, help="Images with rough labels.")
@click.option("--coarse-labels", type=FOLDER, help="Their labels.")
@gate_option
@click.option(
    "--reviewed-labels",
    type=FOLDER,
    help="Labels of these images that people have corrected: what import-review --out made, or a folder. They stand "
    "instead of the auto and coarse ones.",
)
@click.option("--val-images", type=FOLDER, help="Images to evaluate the result on.")
@click.option("--val-labels", type=FOLDER, help="Their labels.")
@classes_option
@layout_option
@ids_option
@recipe_options
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="To evaluate at; must contain 1.")
@click.option("--validate-every", type=int, help="Steps between evaluations; the best is kept.  [default: at the end]")
@click.option("--allow-training-images", is_flag=True, help="Evaluate also on images that are trained on.")
@click.option("--checkpoint-every", type=int, default=200, show_default=True, help="Steps between two saved states.")
@click.option("--keep", type=int, default=2, show_default=True, help="Saved states that are kept.")
@click.option("--index", type=OUT_FILE, help="Keeps the labels' index; runs may share it.  [default: OUT/index.npz]")
@click.option("--resume", is_flag=True, help="Only go on with a run; an error where there is none in OUT.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, and stop before the first step.")
@click.option("--out", type=OUT, required=True, help="Folder of the run; the network lands in OUT/checkpoint.pt.")
@json_option
def train(*, as_json: bool, dry_run: bool, resume: bool, **options: Any) -> None:  # noqa: ANN401 - validated by TrainSettings
    """Train a network on fine labels, and on auto and coarse ones if given; ignored pixels (255) teach nothing.

    Run the same command again to go on after a stop; the result is the same as without it. Several devices: --devices.
    Several machines: the same command on each, started by torchrun or srun, with --nodes.
    """
    refuse_moved_run(click.get_current_context())
    console = Console(as_json=as_json)
    console.wait("what trains a network")
    from pipeline.training_settings import TrainSettings

    settings = TrainSettings.checked(**flags_win(options))
    if resume:
        _require_run(settings)
    if dry_run:
        _print_plan(settings, console)
    else:
        _train(settings, console)


def _require_run(settings: "TrainSettings") -> None:
    from pipeline.training_state import TrainingFolder
    from storage.errors import MissingFileError

    if not TrainingFolder(settings.out).has_state():
        raise MissingFileError(
            f"{settings.out} holds no state of a training run to go on with; leave out --resume to start one"
        )


def _print_plan(settings: "TrainSettings", console: Console) -> None:
    from pipeline.training import dry_run

    last: TrainProgress | None = None
    with Stages() as stages:
        view = TrainingView(console, stages)
        for last in dry_run(settings):
            view.show(last)
    assert last is not None, "a dry run yields its plan"
    assert last.plan is not None, "it comes last"
    console.finish(last.plan.to_dict())


def _train(settings: "TrainSettings", console: Console) -> None:
    from pipeline.distributed import is_first_process
    from pipeline.training import train as train_network

    result = None
    with Stages() as stages:
        view = TrainingView(console, stages)
        for progress in train_network(settings):
            result = progress.result
            if is_first_process():
                view.show(progress)
    assert result is not None, "the last progress has the result"
    if not is_first_process():
        return
    console.say(f"trained {result.steps} steps in {result.seconds:.0f} s: {result.checkpoint}")
    summary: dict[str, Any] = {
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "checkpoint": str(result.checkpoint),
    }
    if result.scores is not None:
        console.say(f"mIoU {result.scores.miou:.2%} on {result.scores.images} images; by class in metrics.json")
        summary["miou"] = result.scores.miou
    if result.raw_scores is not None:
        console.say(f"mIoU {result.raw_scores.miou:.2%} without averaging the weights")
        summary["raw_miou"] = result.raw_scores.miou
    console.finish(summary)
