"""JSON of annotation tools: long lists written one entry at a time, and files that are not to be trusted, read.

What the entries mean is the formats'.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from storage.errors import LabelError

Parsed = TypeVar("Parsed")


class JsonList:
    """A JSON file whose last part is a long list.

    Args:
        path: the file, made anew.
        head: what stands before the list, as an object; None: the file is the list alone.
        name: of the list in the object.
    """

    def __init__(self, path: Path, head: Mapping[str, object] | None = None, name: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._end = "]\n" if head is None else "]}\n"
        self._file.write("[" if head is None else f"{json.dumps(head)[:-1]}, {json.dumps(name)}: [")
        self._separator = "\n"

    def add(self, entry: object) -> None:
        """Append an entry, as plain values."""
        self._file.write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def close(self) -> None:
        """End the file."""
        self._file.write(self._end)
        self._file.close()


def parse(content: bytes, form: TypeAdapter[Parsed], where: str, expected: str) -> Parsed:
    """Read a JSON file of a form.

    Args:
        content: of the file.
        form: what it must be; more fields than these do no harm.
        where: the file's name.
        expected: what it should have been, for the message.

    Raises:
        LabelError: it is no such file; the message says where it is not.
    """
    try:
        return form.validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise LabelError(f"{where} is no {expected}: {place}: {first['msg']}") from error
