"""`autocoarse doctor`: what this machine has, how images of given sizes would be labelled on it, and what to change."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, human_bytes
from cli.label_options import fusion_option
from cli.option_types import PixelSize
from cli.options import (
    FILE,
    OUT,
    device_option,
    json_option,
    precision_option,
    scales_option,
    settings_option,
    teacher_classes_option,
)

if TYPE_CHECKING:
    from pipeline.doctor import Examination, SizePlan
    from pipeline.settings import LabellingRecipe
    from teacher import Teacher


@click.command()
@settings_option
@click.option("--out", type=OUT, default=".", show_default=True, help="Where labels would go; free space is looked up.")
@click.option(
    "--teacher", help="Network name (hrnet-ocr, whose weights are not needed here) or checkpoint: plan its memory."
)
@click.option("--weights", type=FILE, help="Weights, where --teacher is a name; they are read as `label` would.")
@teacher_classes_option
@click.option("--size", "sizes", type=PixelSize(), multiple=True, help="Size of the images; may be given repeatedly.")
@scales_option
@fusion_option
@click.option("--batch", type=int, default=1, show_default=True, help="Images of equal size labelled together.")
@click.option("--flip", is_flag=True, help="With the mirror image.")
@click.option(
    "--keep",
    type=click.Choice(["none", "confidence", "top2"]),
    default="none",
    show_default=True,
    help="What is kept beside the labels.",
)
@precision_option
@device_option
@json_option
def doctor(
    *,
    out: Path,
    teacher: str | None,
    weights: Path | None,
    classes: str | None,
    sizes: tuple[tuple[int, int], ...],
    device: str,
    as_json: bool,
    **recipe: Any,  # noqa: ANN401 - validated by LabellingRecipe
) -> None:
    """Tell what this machine has and what to change, and how images would be labelled on it: whole, or in tiles.

    With --teacher and --size the memory of labelling is predicted, without labelling anything.
    """
    from pipeline.doctor import examine
    from pipeline.settings import LabellingRecipe

    if (teacher is None) != (not sizes):
        raise click.UsageError("--teacher and --size go together: the plan is that of a teacher for images of a size")
    if teacher is None and (weights or classes):
        raise click.UsageError("--weights and --classes are the teacher's; give --teacher and --size too")
    console = Console(as_json=as_json)
    how = LabellingRecipe.checked(**recipe)
    found = examine(out)
    _say_machine(found, out, console)
    plans: list[SizePlan] = []
    if teacher is not None:
        loaded = _load(teacher, weights, classes, device, how)
        plans = _plans(loaded, sizes, how, console)
    advice = [*found.advice, *(plan.advice for plan in plans if plan.advice)]
    console.say()
    for line in advice or ["nothing to change"]:
        console.say(f"advice: {line}")
    console.finish(
        dataclasses.asdict(found) | {"plans": [dataclasses.asdict(plan) for plan in plans], "advice": advice}
    )


def _plans(
    loaded: "Teacher", sizes: tuple[tuple[int, int], ...], how: "LabellingRecipe", console: Console
) -> "list[SizePlan]":
    from pipeline.doctor import plan_size
    from pipeline.fitting import Work, memory_of
    from pipeline.machine import room_on
    from teacher.fusion import scales_of

    if loaded.predictor.planned is None:
        console.warn(
            f"what a teacher of the kind {loaded.name} takes in memory cannot be told beforehand: label a few images, "
            f"and look at what the process takes"
        )
        return []
    memory, room = memory_of(loaded), room_on(loaded.device)
    scales = scales_of(loaded.fusion(how.fusion), how.scales)[::-1]
    plans = [plan_size(memory, size, Work(scales, how.flip, how.keep), room, how.batch) for size in sizes]
    console.say(
        f"\n{loaded.name} on {loaded.device}, {how.precision}, scales "
        f"{', '.join(f'{s:g}' for s in scales)}: weights {human_bytes(memory.weights)}, "
        f"{memory.forward.per_pixel:.0f} bytes a pixel of the largest scale, {human_bytes(room)} free"
    )
    for plan in plans:
        _say_plan(plan, console)
    return plans


def _load(name: str, weights: Path | None, classes: str | None, device: str, how: "LabellingRecipe") -> "Teacher":
    """The teacher; one that is only named has random weights, on which memory does not depend."""
    from storage.schema import load_schema
    from teacher import Teacher, load_teacher
    from teacher.networks.registry import build_network, default_spec

    schema = None if classes is None else load_schema(classes)
    if name == "hrnet-ocr" and weights is None:
        schema = schema or load_schema("cityscapes")
        spec = default_spec("hrnet-ocr", len(schema))
        return Teacher.of_network(build_network(spec), spec, schema, device, how.precision)
    return load_teacher(name, weights, schema=schema, device=device, precision=how.precision)


def _say_machine(found: "Examination", out: Path, console: Console) -> None:
    processor = found.processor
    codecs = [f"{name} {version}" for name, version in found.codecs.items() if version is not None]
    missing = [name for name, version in found.codecs.items() if version is None]
    rows = [
        ("processor", f"{processor.model}, {processor.logical} processors, {processor.usable} usable"),
        ("memory", f"{human_bytes(found.memory_total)}, {human_bytes(found.memory_available)} available"),
        *(
            (f"cuda:{number}", f"{gpu.name}, {human_bytes(gpu.total_bytes)}, {human_bytes(gpu.free_bytes)} free")
            for number, gpu in enumerate(found.devices)
        ),
        *([] if found.devices else [("cuda", "no device")]),
        ("disk", f"{human_bytes(found.disk_free)} free at {out}"),
        ("threads", f"torch {found.threads}, decoding {found.decoders}, encoding {found.encoders}"),
        ("environment", ", ".join(f"{name}={value}" for name, value in found.environment.items()) or "nothing set"),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
        ("decoders", ", ".join(codecs) + (f"; without {', '.join(missing)}" if missing else "")),
    ]
    for name, text in rows:
        console.say(f"{name:<12} {text}")


def _say_plan(plan: "SizePlan", console: Console) -> None:
    chosen = plan.chosen
    verdict = f"{chosen.way}, {human_bytes(chosen.peak)}" if chosen.fits else "does not fit"
    console.say(
        f"  {f'{plan.width}x{plan.height}':<12} one whole image {human_bytes(plan.whole.peak):>8}   plan: {verdict}"
    )
