"""What a ledger says of one item, and how that stands in a row of its table."""

import json
from dataclasses import dataclass
from typing import Literal

from storage.json_text import parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one item."""

    key: str
    status: Literal["done", "failed"]
    settings_digest: str
    image_bytes: int = 0
    """Size of the image file; an image that was replaced by another is labelled again."""
    image_modified_ns: int = 0
    """Modification time of the image file."""
    image_sha256: str = ""
    """Hash of the image file."""
    height: int = 0
    width: int = 0
    ignored: int = 0
    """Pixels given no class."""
    bytes: int = 0
    """Size of the label file."""
    modified_ns: int = 0
    """Modification time of the label file; of a failed item, when the failure was committed."""
    sha256: str = ""
    """Hash of the label file."""
    counts: tuple[int, ...] = ()
    """Pixels by class index."""
    seconds: float = 0.0
    """Time the device and the encoder spent on it, shared within a batch."""
    attempts: int = 1
    """How often the item has failed, over all runs, or 1."""
    reason: str = ""
    """Why it failed; of a done item, how it was labelled where memory did not suffice for the usual way, or empty."""


COLUMNS = tuple(Entry.__dataclass_fields__)
"""Of a row, in order."""


def to_row(entry: Entry) -> tuple[object, ...]:
    """An entry as a row."""
    return tuple(json.dumps(v) if isinstance(v, tuple) else v for v in (getattr(entry, c) for c in COLUMNS))


_TYPES = tuple(map(type, to_row(Entry(key="", status="done", settings_digest=""))))


def from_row(row: tuple[object, ...]) -> Entry:
    """A row as an entry.

    Raises:
        ValueError: it is no row that was made of an entry; SQLite itself takes anything in any column.
    """
    if (found := tuple(map(type, row))) != _TYPES:
        wrong = [name for name, one, other in zip(COLUMNS, found, _TYPES, strict=True) if one != other]
        raise ValueError(f"{' and '.join(wrong)} is of another kind")
    values = dict(zip(COLUMNS, row, strict=True))
    values["counts"] = tuple(parse_json(str(values["counts"])))
    return Entry(**values)  # type: ignore[arg-type] # the columns are the fields
