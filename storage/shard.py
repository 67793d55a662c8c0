"""Shards: the parts into which a data set is split for jobs that know nothing of one another.

Whose an item is depends on its key and on the number of shards alone, not on which other items there are: a shard
stays what it is when images come or go.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from storage.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several shards."""

    number: int
    """From 1."""
    count: int
    """Of all shards."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise SettingsError(f"shard {self.number} of {self.count}: expected a number from 1 to {self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "2/8", the second of eight shards.

        Raises:
            SettingsError: it is no such text, or there is no such shard.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None:
            raise SettingsError(f"{text!r} is no shard; expected I/N such as 2/8, the second of eight")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, key: str, count: int) -> Self:
        """The one of `count` shards that an item belongs to."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return cls(1 + int.from_bytes(digest[:8], "big") % count, count)

    def holds(self, key: str) -> bool:
        """Whether an item belongs to this shard."""
        return Shard.of(key, self.count) == self
