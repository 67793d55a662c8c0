"""`autocoarse train`: train a student, or a teacher, on fine labels and whatever else there is."""

from typing import Any

import click

from cli.console import Console, Stages
from cli.options import (
    FILE,
    FOLDER,
    OUT,
    Numbers,
    PixelSize,
    device_option,
    ids_option,
    json_option,
    layout_option,
    precision_option,
    settings_option,
)


@click.command()
@settings_option
@click.option("--fine-images", type=FOLDER, required=True, help="Images with fine labels; each must have one.")
@click.option("--fine-labels", type=FOLDER, required=True, help="Their labels.")
@click.option("--auto-images", type=FOLDER, help="Images that a teacher labelled.")
@click.option("--auto-labels", type=FOLDER, help="Their labels: what label --out made, or a folder.")
@click.option("--coarse-images", type=FOLDER, help="Images with rough labels.")
@click.option("--coarse-labels", type=FOLDER, help="Their labels.")
@click.option("--val-images", type=FOLDER, help="Images to evaluate the result on.")
@click.option("--val-labels", type=FOLDER, help="Their labels.")
@click.option("--classes", required=True, help="Class schema: cityscapes, camvid, ... or a file.")
@layout_option
@ids_option
@click.option(
    "--network",
    type=click.Choice(["deeplabv3plus", "hrnet-ocr"]),
    default="deeplabv3plus",
    show_default=True,
    help="What is trained.",
)
@click.option("--encoder", help="timm's name of the encoder of deeplabv3plus.  [default: tf_efficientnet_lite0]")
@click.option("--encoder-weights", type=FILE, help="Its pretrained weights; random without. Nothing is downloaded.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Updates of the weights.")
@click.option("--crop", type=PixelSize(), default="256x256", show_default=True, help="Pieces that are learned from.")
@click.option("--batch", type=int, default=8, show_default=True, help="Crops a step.")
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="At its highest.")
@click.option(
    "--encoder-rate", type=float, default=0.3, show_default=True, help="Share of it for an encoder with weights."
)
@click.option("--class-uniform", type=float, default=0.5, show_default=True, help="Share of crops drawn by class.")
@click.option(
    "--fine-share",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of crops from fine labels, if there are more.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Other start values, other crops.")
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="To evaluate at; must contain 1.")
@precision_option
@device_option
@click.option(
    "--workers", type=int, help="Processes that read and augment.  [default: one less than the processors, 1 to 8]"
)
@click.option("--checkpoint-every", type=int, default=200, show_default=True, help="Steps between two saved states.")
@click.option("--out", type=OUT, required=True, help="Folder of the run; the network lands in OUT/checkpoint.pt.")
@json_option
def train(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by TrainSettings
    """Train a network on fine labels, and on auto and coarse ones if given; ignored pixels (255) teach nothing.

    Run the same command again to go on after a stop; the result is the same as without it.
    """
    from pipeline.training import train as train_network
    from pipeline.training_settings import TrainSettings

    console = Console(as_json=as_json)
    result = None
    note = ""
    with Stages() as stages:
        for progress in train_network(TrainSettings.checked(**options)):
            result = progress.result
            if progress.message:
                console.say(progress.message)
            if progress.warning:
                console.warn(progress.warning)
            if progress.loss is not None:
                note = f"loss {progress.loss:.3f}, {progress.labelled:.0%} labelled"
            if progress.phase != "finished":
                unit = {"reading": "labels", "training": "steps", "validating": "images"}[progress.phase]
                shown = note if progress.phase == "training" else ""
                stages.show(progress.phase, progress.done, progress.total, shown, unit)
    assert result is not None, "the last progress has the result"
    console.say(f"trained {result.steps} steps in {result.seconds:.0f} s: {result.checkpoint}")
    summary: dict[str, Any] = {
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "checkpoint": str(result.checkpoint),
    }
    if result.scores is not None:
        console.say(f"mIoU {result.scores.miou:.2%} on {result.scores.images} images; by class in metrics.json")
        summary["miou"] = result.scores.miou
    console.finish(summary)
