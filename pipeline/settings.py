"""Settings: frozen, validated, written as TOML beside what they made, and digested where they decide pixels.

A settings object is passed as an argument; there are no globals. Parsing flags is the command line's work.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.errors import SettingsError
from storage.layouts import Layout
from storage.workspace import write_atomically
from teacher.fusion import check_scales
from teacher.inference import Precision


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, **values: Any) -> Self:  # noqa: ANN401 - validated here
        """Build and validate.

        Raises:
            SettingsError: a value is missing, unknown or out of range; the message names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(problems)) from error

    def write(self, path: Path, table: str) -> None:
        """Write the settings as one TOML table, in the form that `--settings` reads.

        Raises:
            WorkspaceError: the file cannot be written.
        """
        content = {table: self.model_dump(mode="json", exclude_none=True)}
        write_atomically(path, tomli_w.dumps(content).encode())


def settings_digest(decisive: Mapping[str, object]) -> str:
    """Hash of the settings that decide a result: sha256, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def settings_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The settings that differ, one a line, readable; empty when none does."""
    names = sorted({*before, *now})
    return "\n".join(
        f"  {name}: {before.get(name, '(none)')} -> {now.get(name, '(none)')}"
        for name in names
        if before.get(name) != now.get(name)
    )


def _ascending(scales: tuple[float, ...]) -> tuple[float, ...]:
    return check_scales(scales)[::-1]


Scales = Annotated[tuple[float, ...], AfterValidator(_ascending)]
"""Ratios to the input image, ascending; 1.0 is among them."""


class LabelSettings(Settings):
    """What `label` does. Only teacher, classes, scales, threshold, flip and precision decide pixels."""

    images: Path
    """Folder of images, listed recursively."""
    teacher: str
    """A network's name, or the path of a checkpoint."""
    weights: Path | None = None
    """Weights, where the teacher is a name."""
    classes: str | None = None
    """A class schema's name or file; the teacher's own where it has one."""
    layout: Layout = "folder"
    scales: Scales = (0.5, 1.0, 2.0)
    threshold: float = Field(0.5, ge=0, lt=1)
    """Keep a pixel where confidence > threshold."""
    flip: bool = False
    """Average the logits of the image and of its mirror image."""
    batch: int = Field(1, ge=1)
    """Images of equal size labelled together."""
    device: str = "auto"
    precision: Precision = "fp32"
    out: Path
    """The run's folder."""
