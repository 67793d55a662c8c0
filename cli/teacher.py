"""`autocoarse teacher`: what a teacher is, what it was trained on, how good it proved to be, and its terms."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console
from cli.options import FILE, OUT_FILE, json_option, settings_option

if TYPE_CHECKING:
    from pipeline.teacher_card import HeldOut, TeacherCard, TrainingRecord
    from storage.schema import ClassSchema

_SHOWN = 6
"""Classes that are named before the rest is only counted."""


@click.command()
@settings_option
@click.argument("teacher", metavar="FILE|NAME")
@click.option("--weights", type=FILE, help="Of the named network: the file of its public weights.")
@click.option("--classes", help="Class schema that its labels are to become: cityscapes, camvid, ... or a file.")
@click.option(
    "--write",
    type=OUT_FILE,
    help="Write a description to this file, for --teacher: with --classes and a class for each label, guesses marked.",
)
@click.option("--calibration", type=FILE, help="What `calibrate` found of it on held-out labels; told as well.")
@json_option
def teacher(
    *,
    teacher: str,
    weights: Path | None,
    classes: str | None,
    write: Path | None,
    calibration: Path | None,
    as_json: bool,
) -> None:
    """Tell what a teacher is: network, classes, normalisation, training, held-out figures, digests and terms.

    FILE is a checkpoint of autocoarse, a description, or, as hf:FOLDER, onnx:FILE and so on, a network of another
    library; none of its content is run as code. NAME is that of a network, as `networks` lists them: it tells how a
    teacher is made of it.
    """
    from pipeline.teacher_card import card_of
    from storage.schema import load_schema

    console = Console(as_json=as_json)
    if write is not None and (classes is None or teacher.endswith(".toml")):
        raise click.UsageError("--write describes a single network with the classes of --classes; give that")
    schema = None if classes is None else load_schema(classes)
    # what is to be described may have labels that are no classes of the schema: that is what the description is for
    card = card_of(teacher, weights, calibration, None if write is not None else schema)
    for name, text in _lines(card):
        # a file may hold anything, also what a terminal obeys
        console.say(f"{name:<13} {''.join(one if one.isprintable() else '?' for one in text)}")
    if write is not None and classes is not None and schema is not None:
        _write(card, teacher, weights, classes, schema, write, console)
    console.finish(card.to_dict() | ({} if write is None else {"description": str(write)}))


def _write(
    card: "TeacherCard",
    teacher: str,
    weights: Path | None,
    classes: str,
    schema: "ClassSchema",
    write: Path,
    console: Console,
) -> None:
    from pipeline.teacher_file import describe_with_classes
    from storage.atomic_file import refuse_existing
    from storage.class_table import propose
    from storage.errors import SettingsError
    from storage.workspace import write_atomically

    refuse_existing(write)
    if card.teacher.digest is None:
        raise SettingsError(f"{teacher} is only a name: there are no labels to be described; give --weights")
    labels = card.teacher.labels or card.teacher.classes
    write_atomically(write, describe_with_classes(teacher, weights, labels, classes, schema, write))
    proposed = propose(labels, schema)
    without = [name for name in schema.names if name not in proposed.values()]
    mapped = sum(name is not None for name in proposed.values())
    console.say(
        f"\n{write}: {mapped} of {len(labels)} labels are proposed to be a class of {schema.name}"
        + (f"; none is {', '.join(without)}" if without else "")
        + f"\nread it, and mend the guesses; then give --teacher {write}"
    )


def _lines(card: "TeacherCard") -> list[tuple[str, str]]:
    one = card.teacher
    classes = ", ".join(one.classes[:_SHOWN]) + (", ..." if len(one.classes) > _SHOWN else "")
    scales = ", ".join(f"{scale:g}" for scale in one.fusion_scales)
    lines = [
        ("network", one.network + (f" on {one.encoder}" if one.encoder else "")),
        *([] if one.parameters is None else [("parameters", f"{one.parameters / 1e6:.1f} M")]),
        ("classes", f"{len(one.classes)} of {one.schema}: {classes}"),
        *(
            [("normalisation", f"mean {_numbers(one.mean)}, deviation {_numbers(one.std)} of red, green, blue in 0..1")]
            if one.mean
            else []
        ),
        *((name, fact) for name, fact in one.facts.items() if name != "licence"),
        *(("remark", remark) for remark in one.remarks),
        ("fusion", one.fusion + (f", of the scales {scales}" if scales else "")),
    ]
    if one.digest is not None:
        training = ["not known"] if card.training is None else _training(card.training)
        lines += [("training", text) for text in training]
        lines.append(("held out", "not known; `calibrate`" if card.held_out is None else _held_out(card.held_out)))
        lines += [] if card.file is None else [("file", f"{card.file}, sha256 {card.file_sha256}")]
        lines.append(("teacher", one.digest))
    lines.append(("class digest", str(one.schema_digest)))
    lines.append(("licence", card.licence))
    if card.start_weights is not None:
        lines.append(("start weights", f"usual for this encoder are {card.start_weights}"))
    return [*lines, ("use", card.how_to)]


def _training(record: "TrainingRecord") -> list[str]:
    samples = ", ".join(f"{count} {kind}" for kind, count in record.samples.items())
    told = {
        "step": record.step,
        "weights": record.weights,
        "seed": record.seed,
        "samples": samples or None,
        "images": f"{len(record.images)} known by their hash" if record.images else None,
        "settings": record.settings,
        "mIoU at best": None if record.miou is None else f"{record.miou:.4f}",
    }
    return [f"{name} {value}" for name, value in told.items() if value is not None] or ["nothing is recorded"]


def _held_out(found: "HeldOut") -> str:
    shares = {"precision": found.precision, "coverage": found.coverage, "calibration error": found.ece}
    text = ", ".join(f"{name} {'-' if share is None else f'{share:.4f}'}" for name, share in shares.items())
    return f"{found.images} images: {text}, temperature {found.temperature:g} ({found.file})"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
