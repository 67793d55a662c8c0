"""Options that commands share: the data set's layout, and the settings file that stands for flags."""

import difflib
import tomllib
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path
from typing import Any

import click

from cli.folders import Folder, LocalPath
from cli.option_types import ByteSize, ClassThresholds, Names, Numbers, PixelSize, SchemaOrCount
from storage.object_io import read_file
from storage.paths import as_path, is_remote

FOLDER = Folder(exists=True, urls=False)
FILE = LocalPath(path_type=Path, dir_okay=False, exists=True)
OUT = Folder(exists=False, urls=False)
OUT_FILE = click.Path(path_type=Path, dir_okay=False)

_RECIPES = Path(str(resources.files("pipeline") / "recipes"))


def recipe_names() -> tuple[str, ...]:
    """Names of the settings that come with autocoarse."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.toml")))


class SettingsFile(click.Path):
    """A TOML file, or the name of one that comes with autocoarse; a file of that name wins."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - as in the base
        """Read "mapillary" as the path of the recipe, and a URL as the file of a run in a store."""
        path = as_path(value)
        if is_remote(path):
            return path
        if path.is_file():
            return super().convert(value, param, ctx)
        if str(value) in recipe_names():
            return _RECIPES / f"{value}.toml"
        return self.fail(
            f"{str(value)!r} is neither a TOML file nor one of the recipes {', '.join(recipe_names())}", param, ctx
        )


def _is_list(value: object, *kinds: type) -> bool:
    return isinstance(value, list) and all(type(v) in kinds for v in value)


# What a settings file holds for an option of a type, the first that fits; `type(...) is`, as true is an int to Python.
_FORMS: tuple[tuple[type[click.ParamType[Any]], str, Callable[[Any], bool]], ...] = (
    (click.types.BoolParamType, "true or false", lambda v: type(v) is bool),
    (click.types.IntParamType, "an integer", lambda v: type(v) is int),
    (click.types.FloatParamType, "a number", lambda v: type(v) in (int, float)),
    (Names, 'names such as ["truck", "bus"] or "truck,bus"', lambda v: type(v) is str or _is_list(v, str)),
    (Numbers, 'numbers such as [0.5, 1, 2] or "0.5,1,2"', lambda v: type(v) is str or _is_list(v, int, float)),
    (
        PixelSize,
        '"WIDTHxHEIGHT" or [height, width]',
        lambda v: type(v) is str or (_is_list(v, int) and len(v) == 2),
    ),
    (
        ClassThresholds,
        'a table of numbers or "pole=0.4,sign=0.6"',
        lambda v: type(v) is str or (isinstance(v, dict) and all(type(n) in (int, float) for n in v.values())),
    ),
    (ByteSize, '"600MB" or a number of bytes', lambda v: type(v) in (str, int)),
    (SchemaOrCount, "a class schema or a number of classes", lambda v: type(v) in (str, int)),
    (click.ParamType, "text in quotes", lambda v: type(v) is str),
)


def _read_settings(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    ctx.meta[SETTINGS_FILE] = path
    group = ctx.parent.command if ctx.parent else None
    tables = read_tables(path, group.list_commands(ctx) if isinstance(group, click.Group) else [])
    values = checked_table(tables.get(ctx.command.name or "", {}), ctx.command, path)
    ctx.default_map = {**(ctx.default_map or {}), **values}


def read_tables(path: Path, known: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read a settings file's tables.

    Args:
        path: the file.
        known: names that a table may have.

    Raises:
        click.UsageError: it is no TOML, or holds another table, or a value outside of any.
    """
    try:
        content = tomllib.loads(read_file(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}") from error
    for name, table in content.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"expected tables {', '.join(known)}"
            raise click.UsageError(f"{path}: [{name}] is no table of settings; {hint}")
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name} is {table!r}, expected a table [{name}] with settings in it")
    return content


def checked_table(table: dict[str, Any], command: click.Command, path: Path) -> dict[str, Any]:
    """The values of a command's table by the parameters' names; refuses what click would turn into something else.

    Raises:
        click.UsageError: a key is no option of the command, or its value is of another type.
    """
    parameters = {p.opts[0].lstrip("-").replace("-", "_"): p for p in command.params if p.name != "settings"}
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(parameters))}"
            raise click.UsageError(f"{path}: {key!r} is no setting of {command.name}{hint}")
        parameter = parameters[name]
        expected, fits = next((text, fits) for kind, text, fits in _FORMS if isinstance(parameter.type, kind))
        repeated = isinstance(parameter, click.Option) and parameter.multiple
        if repeated and not isinstance(value, list):
            raise click.UsageError(
                f"{path}: {key} of [{command.name}] is {value!r}, expected a list: --{key} is repeated"
            )
        several = repeated or (parameter.nargs == -1 and isinstance(value, list))
        if not (all(map(fits, value)) if several else fits(value)):
            raise click.UsageError(f"{path}: {key} of [{command.name}] is {value!r}, expected {expected}")
        assert parameter.name is not None, "every parameter of ours is handed to its command"
        values[parameter.name] = value
    return values


settings_option = click.option(
    "--settings",
    type=SettingsFile(),
    metavar="FILE|NAME",
    is_eager=True,
    expose_value=False,
    callback=_read_settings,
    help=(
        "TOML with a table per command, such as [label], that stands for these flags; flags win. Its relative "
        "paths are from the folder in which the command is started. Or one that comes "
        f"with autocoarse: {', '.join(recipe_names())}."
    ),
)
SETTINGS_FILE = "autocoarse.settings"
"""Set in the context's `meta` to the settings file, where one was given."""

JSON_WANTED = "autocoarse.json"
"""Set in the context's `meta` where the command was asked for JSON, so that an error is JSON too."""


def _remember_json(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON_WANTED] = value
    return value


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_remember_json,
    help="Last line of stdout is one JSON object, also where it fails; the rest goes to stderr.",
)
layout_option = click.option(
    "--layout",
    type=click.Choice(["folder", "cityscapes"]),
    default="folder",
    show_default=True,
    help="How the data set lies on disk: mirrored trees, or leftImg8bit / gtFine / gtCoarse.",
)
ids_option = click.option(
    "--ids",
    type=click.Choice(["class", "source"]),
    default=None,
    help="What label values are: class indices (default), or the data set's source ids (Cityscapes _labelIds).",
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
teacher_option = click.option(
    "--teacher",
    required=True,
    help="A checkpoint, a network's name (hrnet-ocr), a description (.toml), or a network of another library: "
    "hf:FOLDER, onnx:FILE, exported:FILE, python:MODULE:FACTORY.",
)
weights_option = click.option("--weights", type=FILE, help="Weights, where --teacher is a name.")
classes_option = click.option("--classes", required=True, help="Class schema: cityscapes, camvid, ... or a file.")
teacher_classes_option = click.option(
    "--classes", help="Class schema: cityscapes, camvid, ... or a file; the teacher's own by default."
)
scales_option = click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="Must contain 1.")
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the network; scores are blended and decided in fp32.",
)


def class_thresholds_option(default: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option of thresholds by class.

    Args:
        default: the thresholds where none are given; None: the command has its own way to tell.
    """
    return click.option(
        "--class-thresholds",
        type=ClassThresholds(),
        default=default,
        help="Classes with a threshold of their own, such as pole=0.4,sign=0.6."
        + ("" if default is not None else '  [default: as in RUN; "" for none]'),
    )


workers_option = click.option(
    "--workers", type=click.IntRange(1, 256), default=None, help="Threads.  [default: one a processor]"
)


def png_option(default: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option of how label PNGs are compressed.

    Args:
        default: the preset where none is given; None: the command has its own way to tell.
    """
    return click.option(
        "--png",
        type=click.Choice(["fast", "small", "smallest"]),
        default=default,
        show_default=default is not None,
        help="Compression of the label PNGs: smaller files take longer to write."
        + ("" if default else "  [default: as in RUN]"),
    )
