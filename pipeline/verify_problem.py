"""What a verification can find wrong, by kind.

How each is found is in `verify_item` and `verify_strays`.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "missing",
    "undecodable",
    "wrong size",
    "illegal value",
    "foreign settings",
    "altered",
    "chunk missing",
    "chunk damaged",
    "illegal chunk",
    "store disagrees",
    "stray",
    "duplicate",
    "failed",
    "unfinished",
    "refused",
    "orphan",
]
"""What can be wrong; from `failed` on it is no damage."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an item or a file."""

    kind: Kind
    key: str
    """The item's key; of a file that is no item's, its path in the RUN."""
    reason: str
    damage: bool = True
    """Whether the RUN is not as it was made; False: work that is left to do, or merely worth knowing."""
    own: bool = False
    """Of a stray file: made by this run and never recorded, so that it may be deleted."""
