"""The manifest of an export: which labels were handed out, of which images, so that what comes back can be checked.

What is handed out is written by `exporting`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.review_regions import FormatName, ReviewImage
from storage.errors import MissingFileError, SettingsError
from storage.schema import ClassSchema, Ids
from storage.workspace import write_atomically

MANIFEST = "autocoarse-export.json"
EXPORTED_LABELS = "exported-labels"
"""Folder, in the export, of the labels as they were handed out."""

MAX_BYTES = 1 << 29


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was handed out."""

    kind: Literal["export"]
    version: Literal[1]
    format: FormatName
    settings_digest: str
    """Of the settings of the RUN that the labels are from."""
    select: tuple[str, ...]
    """What was asked for."""
    classes: dict[str, Any]
    """The classes, in the form of classes.json."""
    ids: Ids
    """What the values of the exported labels are."""
    images: tuple[ReviewImage, ...]
    """In the order of the selection."""

    def schema(self) -> ClassSchema:
        """The classes.

        Raises:
            SchemaError: they are malformed.
        """
        return ClassSchema.from_dict(self.classes, "the export's classes")

    def content(self) -> bytes:
        """The manifest as a file."""
        return _FORM.dump_json(self, indent=1) + b"\n"

    def digest(self) -> str:
        """What the export is known by: sha256, 16 hexadecimal digits."""
        return hashlib.sha256(self.content()).hexdigest()[:16]


_FORM = TypeAdapter(Manifest)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write an export's manifest.

    Raises:
        WorkspaceError: it cannot be written.
    """
    write_atomically(root / MANIFEST, manifest.content())


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of an export.

    Raises:
        MissingFileError: the folder is no export.
        SettingsError: the manifest is damaged or of another version.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise MissingFileError(f"no {path}; name the folder that `autocoarse export` made")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise SettingsError(f"{path} has {size} bytes, no manifest has more than {MAX_BYTES}; export again")
    try:
        return _FORM.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{path} is no manifest of version 1: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}; "
            f"put back the one that `autocoarse export` wrote"
        ) from error
