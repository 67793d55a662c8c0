"""The plan of a labelling run: which items are left to do, decided before the first one is touched.

It is a table in a temporary file, not in memory, so that sets of millions of images can be planned. How it is made is
in `plan_making`.
"""

import random
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from pipeline.forecast import Made
from storage.layouts import Item
from storage.ledger import Entry

State = Literal["done", "to do", "look", "refused"]

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Done:
    """What the items that are finished with these settings add up to."""

    made: Made
    pixels: int
    ignored: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, and what it found done; used by the thread that made it."""

    root: Path
    """Folder of the images."""
    table: sqlite3.Connection = field(repr=False)
    """Of the items, by key: number, key, path, state; and of those refused: key, reason."""
    done: Done
    to_do_count: int
    refused_count: int
    """Images that cannot be labelled as things lie."""

    @property
    def done_count(self) -> int:
        """Items that are finished with these settings."""
        return self.done.made.count

    @property
    def left_count(self) -> int:
        """Items that the run will have an entry of: those to do, and those refused."""
        return self.to_do_count + self.refused_count

    @property
    def total(self) -> int:
        """Every image of the listing, whatever becomes of it."""
        return self.done_count + self.left_count

    def to_do(self) -> Iterator[Item]:
        """The items to label, by key."""
        return (item for _, item in items_in(self.table, self.root, "to do"))

    def sample(self, limit: int) -> list[Item]:
        """Some of the items to label, at random and always the same."""
        (last,) = self.table.execute("SELECT max(number) FROM items").fetchone()
        if self.to_do_count <= limit or last is None:
            return list(islice(self.to_do(), limit))
        drawn: dict[int, Item] = {}
        numbers = random.Random(0)  # noqa: S311 - no secret
        for _ in range(20 * limit):
            number = numbers.randint(1, last)
            query = "SELECT key, path FROM items WHERE number = ? AND state = 'to do'"
            if row := self.table.execute(query, (number,)).fetchone():
                drawn[number] = Item(row[0], self.root / row[1])
            if len(drawn) == limit:
                break
        return list(drawn.values()) or list(islice(self.to_do(), limit))

    def failures(self, digest: str) -> Iterator[Entry]:
        """The failed entries of the images that are refused."""
        return refusals(self.table.execute("SELECT key, reason FROM refused ORDER BY rowid"), digest)

    def __contains__(self, name: object) -> bool:
        """Whether an image goes by this name in a ledger: by its key, or by its relative path where it has none."""
        (images,) = self.table.execute("SELECT count(*) FROM images WHERE key = ?", (name,)).fetchone()
        refused = "SELECT 1 FROM refused WHERE key = ?"
        return images == 1 or self.table.execute(refused, (name,)).fetchone() is not None

    def close(self) -> None:
        """Give the table's room back."""
        self.table.close()


def items_in(table: sqlite3.Connection, root: Path, state: State) -> Iterator[tuple[int, Item]]:
    """Items of a state with their numbers, a page at a time, so that they may be given another state meanwhile."""
    last = 0
    query = "SELECT number, key, path FROM items WHERE number > ? AND state = ? ORDER BY number LIMIT ?"
    while page := table.execute(query, (last, state, _PAGE)).fetchall():
        for number, key, path in page:
            yield number, Item(key, root / path)
        last = page[-1][0]


def refusals(refused: Iterable[tuple[str, str]], digest: str) -> Iterator[Entry]:
    """The failed entries of items that are refused.

    Args:
        refused: the key of each, and why.
        digest: of the settings that decide pixels.
    """
    for key, reason in refused:
        yield Entry(key=key, status="failed", settings_digest=digest, reason=reason)
