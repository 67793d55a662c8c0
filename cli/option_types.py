"""Values of options as the command line writes them: sizes, numbers, names, and what each becomes in code."""

import re
from typing import Any

import click

from storage.schema import MAX_CLASSES

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class ByteSize(click.ParamType[int]):
    """A number of bytes such as 600MB; MB is 10^6 bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        """Read "600MB" as 600000000."""
        match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([A-Z]*)", str(value).strip().upper())
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
        match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", str(value).strip())
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


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ANN401
        """Read "truck,bus" as ("truck", "bus")."""
        names = tuple(str(v).strip() for v in (value.split(",") if isinstance(value, str) else value))
        if not all(names):
            self.fail(f"{value!r} is no list of names; expected something like truck,bus,train", param, ctx)
        return names


class ClassThresholds(click.ParamType[dict[str, float]]):
    """NAME=THRESHOLD with commas between them; a settings file may have a table of them."""

    name = "NAME=P,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:  # noqa: ANN401
        """Read "pole=0.4,sign=0.6" as a dictionary."""
        if isinstance(value, dict):
            return {str(name): float(number) for name, number in value.items()}
        thresholds: dict[str, float] = {}
        for text in str(value).split(",") if value else ():
            name, _, number = (part.strip() for part in text.rpartition("="))
            if name in thresholds:
                self.fail(f"{name!r} has two thresholds in {value!r}; expected one a class", param, ctx)
            try:
                thresholds[name] = float(number)
            except ValueError:
                name = ""
            if not name:
                self.fail(f"{text!r} is no class threshold; expected something like pole=0.4,sign=0.6", param, ctx)
        return thresholds


_CLASS_COUNT: click.ParamType[int] = click.IntRange(1, MAX_CLASSES)


class SchemaOrCount(click.ParamType[str | int]):
    """A class schema's name or file, or the number of classes."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:  # noqa: ANN401
        """Read "19" as 19, and leave anything but digits as it is."""
        text = str(value)
        return _CLASS_COUNT.convert(text, param, ctx) if text.isdecimal() else text
