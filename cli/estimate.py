"""`autocoarse estimate`: what labels will take on disk, before a run."""

from pathlib import Path

import click

from cli.console import Console, human_bytes
from cli.exit_codes import ExitCode
from cli.options import FOLDER, OUT, ByteSize, PixelSize, SchemaOrCount, json_option, layout_option, settings_option


@click.command()
@settings_option
@click.option("--images", type=FOLDER, help="Folder of images whose sizes are sampled.")
@click.option("--count", type=click.IntRange(min=1), help="Number of images, where there are none yet.")
@click.option("--size", type=PixelSize(), help="Their size, such as 1920x1080.")
@click.option("--classes", type=SchemaOrCount(), required=True, help="Class schema, or just the number of classes.")
@layout_option
@click.option("--budget", type=ByteSize(), help="Limit such as 600MB; exit 4 if the labels would not fit.")
@click.option("--out", type=OUT, help="Where the labels would go; free space is looked up there (default: here).")
@json_option
def estimate(
    *,
    images: Path | None,
    count: int | None,
    size: tuple[int, int] | None,
    classes: str | int,
    layout: str,
    budget: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Estimate the bytes of hard labels against soft ones, before a run."""
    from pipeline.estimation import make_estimate, sample_sizes
    from storage.layouts import list_images
    from storage.schema import load_schema

    console = Console(as_json=as_json)
    classes_count = classes if isinstance(classes, int) else len(load_schema(classes))
    place = out or Path()
    if images is not None and count is None and size is None:
        items = list_images(images, "cityscapes" if layout == "cityscapes" else "folder").items
        result = make_estimate(sample_sizes(items), len(items), classes_count, "sample", place, budget)
    elif images is None and count is not None and size is not None:
        result = make_estimate([size], count, classes_count, "model", place, budget)
    else:
        raise click.UsageError("say either --images DIR, or --count N together with --size WIDTHxHEIGHT")
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


def _basis(basis: str, sampled: int) -> str:
    from storage.budget import REFERENCE_BYTES, SIZE_EXPONENT

    sizes = f"sizes read from {sampled} images" if basis == "sample" else "the size given"
    return (
        f"rests on: {sizes}. Soft labels: classes x pixels x 4 or 2 bytes, uncompressed; exact. Hard PNG: a model, "
        f"{human_bytes(REFERENCE_BYTES)} at 1920x1080 with 4 % of the pixels ignored, growing with "
        f"pixels^{SIZE_EXPONENT}; real sets lie between half of it (clean) and three times (speckled). "
        f"After a few hundred labels, `autocoarse budget RUN` measures instead."
    )
