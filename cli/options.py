"""Options that commands share: their types, the data set's layout, and the settings file that stands for flags."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

import click

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class ByteSize(click.ParamType[int]):
    """A number of bytes such as 600MB; MB is 10^6 bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read "600MB" as 600000000."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(value).strip().upper())
        if match is None or match[2] not in _BYTE_UNITS:
            self.fail(f"{value!r} is no size; expected a number with KB, MB, GB or TB, such as 600MB", param, ctx)
        return round(float(match[1]) * _BYTE_UNITS[match[2]])


class PixelSize(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT on the command line, (height, width) in code."""

    name = "WIDTHxHEIGHT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:  # noqa: ANN401
        """Read "1920x1080" as (1080, 1920)."""
        if isinstance(value, tuple | list):
            value = "x".join(map(str, reversed(value)))  # a settings file holds (height, width), as code does
        match = re.fullmatch(r"(\d+)[xX](\d+)", str(value).strip())
        if match is None or min(int(match[1]), int(match[2])) < 1:
            self.fail(f"{value!r} is no size; expected WIDTHxHEIGHT in pixels, such as 1920x1080", param, ctx)
        return int(match[2]), int(match[1])


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:  # noqa: ANN401
        """Read "0.5,1,2" as (0.5, 1.0, 2.0)."""
        try:
            return tuple(float(v) for v in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no list of numbers; expected something like 0.5,1,2", param, ctx)


FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
OUT = click.Path(path_type=Path, file_okay=False)


def _read_settings(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}") from error
    group = ctx.parent.command if ctx.parent else None
    commands = group.list_commands(ctx) if isinstance(group, click.Group) else []
    known = {p.name for p in ctx.command.params} - {"settings"}
    for table in content:
        if table not in commands:
            raise click.UsageError(f"{path}: [{table}] is no command; expected tables {', '.join(commands)}")
    values = {str(k).replace("-", "_"): v for k, v in content.get(ctx.command.name or "", {}).items()}
    for name in values.keys() - known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
        raise click.UsageError(f"{path}: {name!r} is no setting of {ctx.command.name}{hint}")
    ctx.default_map = {**(ctx.default_map or {}), **values}


settings_option = click.option(
    "--settings",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_read_settings,
    help="TOML with a table per command, such as [label], that stands for these flags; flags win.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Last line of stdout is one JSON object; the rest goes to stderr."
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
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the network; scores are blended and decided in fp32.",
)
