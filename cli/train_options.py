"""The options of a training recipe, shared by the commands that train: `train`, `compare`, `rounds`."""

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from cli.option_types import Names, Numbers, PixelSize
from cli.options import FILE, device_option, precision_option

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_RECIPE: tuple[Decorator, ...] = (
    click.option(
        "--network",
        type=click.Choice(["deeplabv3plus", "deeperlab", "hrnet-ocr"]),
        default="deeplabv3plus",
        show_default=True,
        help="What is trained; `autocoarse networks` lists them with what they take.",
    ),
    click.option(
        "--encoder",
        help="timm's name of the encoder, or wide_resnet38; of hrnet-ocr hrnet_w18, _w32 or _w48.  "
        "[default: tf_efficientnet_lite0; hrnet_w48]",
    ),
    click.option(
        "--output-stride",
        type=int,
        help="Of the encoder's coarsest features: 8, 16 or 32; 8 costs two to four times as much as 16.  [default: 16]",
    ),
    click.option(
        "--attention",
        type=click.Choice(["hierarchical", "explicit", "average", "single"]),
        default="hierarchical",
        show_default=True,
        help="How scales are fused: by an attention, trained at 0.5 and 1, or explicit, over --attention-scales; or, "
        "trained at 1 without one, by their mean or not at all.",
    ),
    click.option(
        "--attention-scales", type=Numbers(), help="Of an explicit attention; must contain 1.  [default: 0.5,1,2]"
    ),
    click.option("--encoder-weights", type=FILE, help="Its pretrained weights; random without. Nothing is downloaded."),
    click.option(
        "--start-weights",
        type=FILE,
        help="Weights of the whole network instead; entries for other classes, or missing, start at random.",
    ),
    click.option("--steps", type=int, help="Updates of the weights.  [default: 1000]"),
    click.option("--epochs", type=float, help="Length in epochs instead; one has a crop for each fine image."),
    click.option("--crop", type=PixelSize(), default="256x256", show_default=True, help="Pieces learned from."),
    click.option("--batch", type=int, default=8, show_default=True, help="Crops a device holds at once."),
    click.option("--accumulate", type=int, default=1, show_default=True, help="Batches a step."),
    click.option(
        "--loss",
        type=click.Choice(["ce", "rmi"]),
        default="ce",
        show_default=True,
        help="Cross entropy, or region mutual information.",
    ),
    click.option("--auxiliary-loss", type=float, default=0.4, show_default=True, help="Weight of an OCR head's."),
    click.option("--scale-loss", type=float, default=0.05, show_default=True, help="Weight of each scale's own."),
    click.option("--auto-weight", type=float, default=1.0, show_default=True, help="Of a pixel of an auto label."),
    click.option("--coarse-weight", type=float, default=1.0, show_default=True, help="Of a pixel of a coarse label."),
    click.option(
        "--optimizer",
        type=click.Choice(["adamw", "sgd"]),
        default="adamw",
        show_default=True,
        help="SGD has momentum 0.9, and wants a higher learning rate.",
    ),
    click.option("--learning-rate", type=float, default=3e-3, show_default=True, help="At its highest."),
    click.option(
        "--encoder-rate",
        type=float,
        default=0.3,
        show_default=True,
        help="Share of it for an encoder whose weights are given.",
    ),
    click.option("--weight-decay", type=float, help="[default: 0.01 for adamw, 0.0001 for sgd]"),
    click.option("--power", type=float, default=0.9, show_default=True, help="Of the polynomial the rate falls by."),
    click.option("--warm-up", type=float, default=0.05, show_default=True, help="Share of steps with a rising rate."),
    click.option("--max-gradient-norm", type=float, default=5.0, show_default=True, help="0: gradients are not cut."),
    click.option("--ema", type=float, default=0.99, show_default=True, help="Averaging of the weights; 0: none."),
    click.option(
        "--precise-bn",
        type=int,
        default=200,
        show_default=True,
        metavar="IMAGES",
        help="Whole images that batch norms take their statistics from at the end; 0: those of the crops stay.",
    ),
    click.option("--class-uniform", type=float, default=0.5, show_default=True, help="Share of crops drawn by class."),
    click.option(
        "--fine-share", type=float, default=0.5, show_default=True, help="Share of crops from fine labels, if not all."
    ),
    click.option("--boost-classes", type=Names(), help="Classes drawn from other labels as well; others: fine only."),
    click.option("--scale-range", type=Numbers(), default="0.5,2", show_default=True, help="Random scaling."),
    click.option("--long-edge", type=int, help="Scale images to this longer side first, pixels."),
    click.option("--jitter", type=float, default=0.25, show_default=True, help="Change of the colours."),
    click.option("--blur", type=float, default=0.0, show_default=True, help="Share of crops that are blurred."),
    click.option("--strong", is_flag=True, help="Change the colours of auto samples more, and blur them."),
    click.option("--cutmix", type=float, default=0.0, show_default=True, help="Share of auto crops that are mixed."),
    click.option("--gradient-checkpointing", is_flag=True, help="Less memory, about a third more time."),
    precision_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Other start values, other crops."),
    click.option("--devices", type=int, default=1, show_default=True, help="Processes on each machine."),
    click.option("--nodes", type=int, default=1, show_default=True, help="Machines."),
    device_option,
    click.option(
        "--workers",
        type=int,
        help="Processes that read and augment.  [default: the processors that are left, 1 to 8]",
    ),
)


_INSTEAD = (("steps", "epochs"), ("epochs", "steps"), ("network", "encoder"), ("network", "output_stride"))


def flags_win(options: dict[str, Any]) -> dict[str, Any]:
    """The options of the present command, without what a settings file says and a flag has made meaningless.

    Steps given as a flag stand instead of a file's epochs, and a network does away with a file's encoder and its
    output stride.
    """
    context = click.get_current_context()
    kept = dict(options)
    for given, other in _INSTEAD:
        sources = [context.get_parameter_source(name) for name in (given, other)]
        if sources == [ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP]:
            kept[other] = None
    return kept


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a training recipe, and where it is computed."""
    for option in reversed(_RECIPE):
        command = option(command)
    return command
