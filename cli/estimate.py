"""`autocoarse estimate`: what labels will take on disk, before a run: by a model, or measured on a sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.console import Console, human_bytes
from cli.exit_codes import ExitCode
from cli.folders import FOLDER_OR_URL, OUT_OR_URL
from cli.label_options import labelling_options, refuse_two_thresholds
from cli.option_types import ByteSize, PixelSize, SchemaOrCount
from cli.options import FOLDER, device_option, ids_option, json_option, layout_option, settings_option, weights_option

if TYPE_CHECKING:
    from pipeline.estimation import Estimate

_OF_THE_TEACHER = (
    "weights",
    "scales",
    "fusion",
    "threshold",
    "class_thresholds",
    "thresholds",
    "flip",
    "temperature",
    "save_attention",
    "min_component",
    "keep",
    "keep_steps",
    "png",
    "device",
    "precision",
    "sample",
    "seed",
    "devices",
    "truth",
    "ids",
)
"""Options that mean nothing to the model."""

_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


@click.command()
@settings_option
@click.option("--images", type=FOLDER_OR_URL, help="Folder of images, or a URL; their sizes are read.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images, where there are none yet.")
@click.option("--size", type=PixelSize(), help="Their size, such as 1920x1080.")
@click.option(
    "--classes",
    type=SchemaOrCount(),
    help="Class schema, or just the number of classes; with --teacher a schema, the teacher's own by default.",
)
@click.option(
    "--teacher",
    help="As of `label`: label a sample of --images and measure. Without it the bytes "
    "come from a model of label PNGs, within a factor of two or three.",
)
@weights_option
@layout_option
@labelling_options
@click.option("--sample", type=click.IntRange(min=2), default=20, show_default=True, help="Images that are labelled.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws another sample.")
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Tell the time on so many devices, too."
)
@click.option("--truth", type=FOLDER, help="True labels of the images, as far as there are any: tell the precision.")
@ids_option
@device_option
@click.option("--budget", type=ByteSize(), help="Limit such as 600MB; exit 4 if the estimate is over it.")
@click.option(
    "--out", type=OUT_OR_URL, help="Where the labels would go; free space is looked up there (default: here)."
)
@json_option
@click.pass_context
def estimate(
    ctx: click.Context,
    /,
    *,
    images: Path | None,
    count: int | None,
    size: tuple[int, int] | None,
    teacher: str | None,
    classes: str | int | None,
    budget: int | None,
    out: Path | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401 - validated by LabelSettings
) -> None:
    """Estimate the bytes of hard labels against soft ones, before a run.

    With --teacher a sample of the images is labelled and measured, and totals come with intervals that hold the truth
    in nine cases of ten.
    """
    console = Console(as_json=as_json)
    if teacher is None:
        given = [name for name in _OF_THE_TEACHER if ctx.get_parameter_source(name) in _GIVEN]
        if given:
            raise click.UsageError(
                f"--{given[0].replace('_', '-')} is for measuring with a teacher; give --teacher too"
            )
        if classes is None or (images is None and count is None):
            raise click.UsageError(
                "say what is to be estimated: --images DIR --teacher TEACHER to measure a sample; without a teacher "
                "--images DIR, or --count N --size WIDTHxHEIGHT, with --classes"
            )
        _estimate_by_model(console, images, count, size, classes, options["layout"], budget, out or Path())
        return
    if images is None or count is not None or size is not None:
        raise click.UsageError("with --teacher give --images DIR and neither --count nor --size")
    if isinstance(classes, int):
        raise click.UsageError("with --teacher give --classes as a schema, or leave it out: the teacher has classes")
    refuse_two_thresholds(ctx)
    from cli.sample_estimate_view import estimate_by_sample

    how = {name: options.pop(name) for name in ("sample", "seed", "devices", "truth")}
    truth_ids = options.pop("ids")  # `label` has an option of this name, which says what it writes
    options |= {"images": images, "teacher": teacher, "classes": classes, "out": out or Path()}
    estimate_by_sample(console, options, budget, **how, truth_ids=truth_ids)


def _estimate_by_model(
    console: Console,
    images: Path | None,
    count: int | None,
    size: tuple[int, int] | None,
    classes: str | int | None,
    layout: str,
    budget: int | None,
    place: Path,
) -> None:
    from pipeline.estimation import make_estimate, sample_sizes
    from storage.layouts import list_images
    from storage.schema import load_schema

    if classes is None:
        raise click.UsageError("Missing option '--classes': a class schema, or just the number of classes")
    classes_count = classes if isinstance(classes, int) else len(load_schema(classes))
    if images is not None and count is None and size is None:
        items = list_images(images, "cityscapes" if layout == "cityscapes" else "folder").items
        result = make_estimate(sample_sizes(items), len(items), classes_count, "sample", place, budget)
    elif images is None and count is not None and size is not None:
        result = make_estimate([size], count, classes_count, "model", place, budget)
    else:
        raise click.UsageError("say either --images DIR, or --count N together with --size WIDTHxHEIGHT")
    _say_model(console, result, budget)
    sizes = result.sizes
    console.finish(
        {
            "count": sizes.count,
            "height": result.height,
            "width": result.width,
            "classes": sizes.classes,
            "soft_fp32_bytes": sizes.soft_fp32_bytes,
            "soft_fp16_bytes": sizes.soft_fp16_bytes,
            "hard_png_bytes": sizes.hard_png_bytes,
            "basis": result.basis,
            "free_bytes": result.free_bytes,
            "within_budget": result.within_budget,
        }
    )
    if result.within_budget is False:
        raise SystemExit(ExitCode.BUDGET_OR_GATE)


def _say_model(console: Console, result: "Estimate", budget: int | None) -> None:
    sizes = result.sizes
    console.say(f"{sizes.count} images of {result.width}x{result.height}, {sizes.classes} classes")
    rows = (
        ("soft labels, fp32", sizes.soft_fp32_bytes),
        ("soft labels, fp16", sizes.soft_fp16_bytes),
        ("hard labels, PNG", sizes.hard_png_bytes),
    )
    for name, total in rows:
        console.say(f"  {name:<18} {human_bytes(total):>9}   {human_bytes(total / sizes.count):>8} a label")
    console.say(f"  hard PNG is {sizes.soft_fp32_bytes / sizes.hard_png_bytes:,.0f} times smaller than soft fp32")
    console.say(_basis(result.basis, result.sampled))
    console.say(f"free space: {human_bytes(result.free_bytes)}")
    if result.within_budget is not None and budget is not None:
        verdict = "fits" if result.within_budget else "does not fit"
        console.say(f"budget: {human_bytes(budget)}: {verdict}")


def _basis(basis: str, sampled: int) -> str:
    from storage.budget import REFERENCE_BYTES, SIZE_EXPONENT

    sizes = f"sizes read from {sampled} images" if basis == "sample" else "the size given"
    return (
        f"rests on: {sizes}. Soft labels: classes x pixels x 4 or 2 bytes, uncompressed; exact. Hard PNG: a model, "
        f"{human_bytes(REFERENCE_BYTES)} at 1920x1080 with 4 % of the pixels ignored, growing with "
        f"pixels^{SIZE_EXPONENT}; real sets lie between half of it (clean) and three times (speckled). "
        f"With --teacher a sample is labelled and measured instead."
    )
