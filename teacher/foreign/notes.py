"""What a file says of its network beside the network: names of the outputs, normalisation, what the outputs are.

Files that autocoarse exports carry such notes; what a file of anybody else says under these keys is taken as well, and
none of it is trusted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from storage.errors import CheckpointError
from teacher.foreign.contract import Colours

PREFIX = "autocoarse."
MAX_TEXT = 65536
"""Characters of a note that are read."""
MAX_OUTPUTS = 1 << 16
"""Outputs that a network may have."""
_LONGEST_NAME = 200

Outputs = Literal["logits", "probabilities"]


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes on a network; what is None the file does not say."""

    labels: tuple[str, ...] | None = None
    """Names of its outputs, in their order."""
    mean: Colours | None = None
    """Subtracted from red, green, blue in [0, 1]."""
    std: Colours | None = None
    """What the difference is divided by."""
    outputs: Outputs | None = None
    """What it puts out."""
    remark: str | None = None
    """For people."""

    def to_texts(self) -> dict[str, str]:
        """The notes by their keys, each a JSON text, in the form that `from_texts` reads."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {PREFIX + name: json.dumps(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], where: str) -> "Notes":
        """Read notes from a file.

        Args:
            texts: JSON texts by key; other keys are left alone.
            where: the file, for messages.

        Raises:
            CheckpointError: a note is none.
        """
        values = {name: _parse(texts[PREFIX + name], name, where) for name in cls.__slots__ if PREFIX + name in texts}
        checks = {"labels": _is_names, "mean": _is_colours, "std": _is_spread, "outputs": _is_outputs}
        for name, value in values.items():
            if not checks.get(name, _is_text)(value):
                raise CheckpointError(
                    f"{where}: its note {PREFIX}{name} is {str(value)[:100]!r}, which cannot be; the file is damaged, "
                    f"or the note was not written by autocoarse: remove it, and say in a description of the teacher "
                    f"what it should have said"
                )
        checked: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**checked)


def _parse(text: str, name: str, where: str) -> Any:  # noqa: ANN401 - parsed JSON
    if len(text) > MAX_TEXT:
        raise CheckpointError(
            f"{where}: its note {PREFIX}{name} has {len(text)} characters, at most {MAX_TEXT} are read"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its note {PREFIX}{name} is no JSON ({error}); it is damaged") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= MAX_OUTPUTS
        and all(_is_text(name) and 0 < len(name) <= _LONGEST_NAME for name in value)
    )


def _is_colours(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(v) in (int, float) and abs(v) < math.inf for v in value)
    )


def _is_spread(value: object) -> bool:
    return _is_colours(value) and isinstance(value, list) and min(value) > 0


def _is_outputs(value: object) -> bool:
    return isinstance(value, str) and value in get_args(Outputs)
