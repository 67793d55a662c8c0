"""The options that say how images are labelled, shared by `label` and by `estimate`, which labels a sample."""

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from cli.options import FILE, class_thresholds_option, png_option, precision_option, scales_option

fusion_option = click.option(
    "--fusion",
    type=click.Choice(["hierarchical", "average", "single"]),
    help="How scales are fused: by attention, as a mean of logits, or scale 1 alone.  [default: the network's own]",
)

_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    scales_option,
    fusion_option,
    click.option("--threshold", type=float, default=0.5, show_default=True, help="Keep where confidence > threshold."),
    class_thresholds_option(""),
    click.option(
        "--thresholds",
        type=FILE,
        help="A calibration of this teacher, made by `calibrate`, with a threshold for each class.",
    ),
    click.option("--flip", is_flag=True, help="Average with the mirror image: twice the time."),
    click.option(
        "--temperature",
        type=float,
        default=1.0,
        show_default=True,
        help="Divide the logits by this; a calibration given with --thresholds brings its own.",
    ),
    click.option(
        "--min-component",
        type=click.IntRange(min=0),
        default=0,
        help="Components of fewer pixels than this become ignore; `estimate` gives figures with and without.  "
        "[default: none do]",
    ),
    click.option(
        "--keep",
        type=click.Choice(["none", "confidence", "top2"]),
        default="none",
        show_default=True,
        help="Keep class and confidence of each pixel (top2: the runner-up too) in OUT/soft, for `rethreshold`.",
    ),
    click.option(
        "--keep-steps",
        type=int,
        default=100,
        show_default=True,
        help="Confidence is kept in this many steps; thresholds k/STEPS can be applied later. Fewer take less space.",
    ),
    click.option(
        "--save-attention", is_flag=True, help="Save how much each scale counted, as gray PNGs in OUT/attention/SCALE."
    ),
    png_option("fast"),
    precision_option,
    click.option(
        "--compiled",
        is_flag=True,
        help="Have torch compile the network: minutes for each size at first, then faster; a CPU needs a C++ compiler.",
    ),
)


def labelling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of how images are labelled."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_two_thresholds(ctx: click.Context) -> None:
    """Refuse a threshold given on the command line beside a calibration, which has one for each class.

    Raises:
        click.UsageError: both are given.
    """
    given = ctx.get_parameter_source("threshold") is ParameterSource.COMMANDLINE
    if given and ctx.params["thresholds"] is not None:
        raise click.UsageError("--thresholds has a threshold for each class; leave out it or --threshold", ctx)
