"""The conditions of a gate: what can be asked of labels, and how that is written.

Whether labels meet them is told by `gate`.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator

from storage.errors import SettingsError

Measure = Literal["precision", "precision_low", "coverage"]
"""Fields of `ClassQuality`: `precision_low` is the lower end of the precision's interval."""

_CONDITION = re.compile(
    r"\s*(precision|precision_low|coverage)\s*(?:\[(.*)\])?\s*>=\s*(\d*\.?\d+(?:e-?\d+)?)\s*", re.DOTALL
)

_EXPECTED = (
    "expected something like precision>=0.9 or precision[pole]>=0.8: precision, precision_low (the lower end of its "
    "interval) or coverage (without an interval), a class in brackets if it is for one alone, and a number from 0 to 1"
)


@dataclass(frozen=True, slots=True)
class Condition:
    """What one measure of classes must reach."""

    measure: Measure
    name: str | None
    """The class; None: every class that has no condition of its own on this measure."""
    at_least: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "precision[pole]>=0.8".

        Raises:
            SettingsError: it is no condition.
        """
        match = _CONDITION.fullmatch(text)
        if match is None or not 0 <= float(match[3]) <= 1 or match[2] == "":
            raise SettingsError(f"{text!r} is no gate; {_EXPECTED}")
        return cls(match[1], match[2], float(match[3]))  # type: ignore[arg-type] # the pattern has these measures only

    def __str__(self) -> str:
        of = "" if self.name is None else f"[{self.name}]"
        return f"{self.measure}{of}>={self.at_least}"


def parse_conditions(*texts: str) -> tuple[Condition, ...]:
    """Read conditions that are to be met together.

    Raises:
        SettingsError: one is no condition, or two are on the same.
    """
    conditions = tuple(map(Condition.parse, texts))
    on = [(one.measure, one.name) for one in conditions]
    if twice := [str(one) for one, what in zip(conditions, on, strict=True) if on.count(what) > 1]:
        raise SettingsError(f"the gates {' and '.join(twice)} are on the same; give one of them")
    return conditions


def _parsed(texts: tuple[str, ...]) -> tuple[str, ...]:
    parse_conditions(*texts)
    return texts


GateTexts = Annotated[tuple[str, ...], AfterValidator(_parsed)]
"""Conditions of a gate, in settings."""
