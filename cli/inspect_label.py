"""`autocoarse inspect`: what a label file was made with, and what it holds."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console, human_bytes
from cli.options import FILE, OUT_FILE, ids_option, json_option, settings_option

if TYPE_CHECKING:
    from pipeline.inspection import Inspection
    from storage.schema import ClassSchema, Ids

_VALUES = {"class": "class indices", "source": "source ids"}


@click.command("inspect")
@settings_option
@click.argument("file", type=FILE)
@click.option("--classes", help="Class schema: cityscapes, camvid, ... or a file. By default those of the file's RUN.")
@ids_option
@click.option(
    "--picture",
    type=OUT_FILE,
    help="Draw the label to this file, such as label.png: with its image, and with what the attention saw, where "
    "`label --save-attention` saved that.",
)
@json_option
def inspect_label(*, file: Path, classes: str | None, ids: "Ids | None", picture: Path | None, as_json: bool) -> None:
    """Tell what a label FILE was made with, its size, and how many pixels each class has.

    The file may be any 8-bit label PNG. What it says itself of its values is believed.
    """
    from pipeline.inspection import inspect_label as inspect
    from storage.schema import load_schema

    console = Console(as_json=as_json)
    if picture is not None:
        _refuse_picture(picture)
    schema = None if classes is None else load_schema(classes)
    found = inspect(file, schema, ids)
    _say_what_it_is(found, console)
    if found.foreign_classes:
        console.warn(f"{file} says that it was made with other classes than {classes}: the names may be wrong")
    if found.unknown:
        console.warn(f"{found.unknown} pixels have source ids that {classes} does not know, they are taken as ignore")
    _print_histogram(found, console)
    if picture is not None:
        _draw(found, schema, picture, console)
    console.finish(found.to_dict() | ({} if picture is None else {"picture": str(picture)}))


def _say_what_it_is(found: "Inspection", console: Console) -> None:
    console.say(
        f"{found.path}: {found.width}x{found.height}, {human_bytes(found.bytes)}, {found.mode} PNG of "
        f"{_VALUES[found.ids]}"
    )
    if found.run is not None:
        console.say(f"label {found.key} of the run {found.run}")
    if not found.provenance:
        console.say("it carries no provenance: autocoarse did not write it, or its text chunk was lost since")
        return
    console.say("made with:")
    width = max(map(len, found.provenance))
    for name, value in found.provenance.items():
        console.say(f"  {name:{width}}  {value}")


def _print_histogram(found: "Inspection", console: Console) -> None:
    total = found.height * found.width
    head = "class" if found.names is not None else "class index" if found.ids == "class" else "source id"
    rows = {name: pixels for name, pixels in found.pixels.items() if pixels}
    if found.ignored is not None:
        rows["ignore"] = found.ignored
    width = max(len(head), *map(len, rows))
    console.say(f"{head:{width}}  {'pixels':>10}  {'share':>8}")
    for name, pixels in rows.items():
        console.say(f"{name:{width}}  {pixels:>10}  {pixels / total:>8.2%}")
    if found.names is not None:
        console.say(f"{sum(map(bool, found.pixels.values()))} of {len(found.names)} classes occur")
    elif found.ids == "source":
        console.say("which of these are classes and which are ignored is not known; say it with --classes")
    if found.confidence is not None:
        console.say("confidence: " + ", ".join(f"{name} {value:.3g}" for name, value in found.confidence.items()))
    if found.attention is not None:
        console.say("share of scales: " + ", ".join(f"{name} {value:.1%}" for name, value in found.attention.items()))


def _refuse_picture(picture: Path) -> None:
    from storage.atomic_file import refuse_existing
    from storage.errors import SettingsError

    if picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise SettingsError(f"picture {picture} is neither a .png nor a .jpg; choose such a name")
    refuse_existing(picture)  # it may be the very label, or its image


def _draw(found: "Inspection", schema: "ClassSchema | None", picture: Path, console: Console) -> None:
    from pipeline.inspection_picture import label_picture
    from storage.workspace import write_atomically

    file = io.BytesIO()
    label_picture(found, schema).save(file, "PNG" if picture.suffix.lower() == ".png" else "JPEG")
    write_atomically(picture, file.getvalue())
    console.say(f"picture: {picture}")
