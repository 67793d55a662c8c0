"""Which chunk of kept confidence is which label's, told by the pixels: a chunk decides the label that it belongs to.

Where several labels have the same pixels their chunks are told apart by nothing; they are given out only where it makes
no difference, as all of them hold the same.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.plan_making import refuse_full
from pipeline.rebuild_item import pixel_digest
from pipeline.threads import map_ahead
from pipeline.verify_item import ItemCheck
from storage.errors import LabelError, WorkspaceError
from storage.ledger import Ledger
from storage.soft_store import SoftStore

_PAGE = 1000

_TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE labels (pixels TEXT, key TEXT);
CREATE TABLE chunks (pixels TEXT, slot INTEGER, content TEXT);
"""

_PAIRS = """
WITH
label AS (
    SELECT key, pixels, row_number() OVER (PARTITION BY pixels ORDER BY key) AS number,
        count(*) OVER (PARTITION BY pixels) AS count
    FROM labels),
chunk AS (
    SELECT slot, pixels, row_number() OVER (PARTITION BY pixels ORDER BY slot) AS number,
        count(*) OVER (PARTITION BY pixels) AS count,
        min(content) OVER (PARTITION BY pixels) = max(content) OVER (PARTITION BY pixels) AS alike
    FROM chunks WHERE slot NOT IN (SELECT slot FROM chunks GROUP BY slot HAVING count(*) > 1))
SELECT key, slot FROM label JOIN chunk USING (pixels, number) WHERE label.count <= chunk.count AND alike
"""
"""With fewer chunks than labels it is not known whose are missing; of a slot in two arrays, which is its own."""


@dataclass(frozen=True, slots=True)
class SlotFinder:
    """The search for the slots of a run's items."""

    ledger: Ledger
    """Made anew; of each item whose label is there it has a note of its pixels."""
    check: ItemCheck
    workers: int

    def record(self) -> int:
        """Find the slots, record them, and say how many there are.

        Raises:
            DiskFullError: there is no room for a temporary table, or for the slots.
            WorkspaceError: the ledger cannot be written.
        """
        store = self.check.store
        if store is None or self.check.thresholds is None:
            return 0
        try:
            # a database without a name is a file of the system's, and gone when closed
            with closing(sqlite3.connect("", isolation_level=None)) as table:
                return self._record(table, store)
        except sqlite3.Error as error:
            refuse_full(error)
            raise WorkspaceError(f"cannot sort the labels by their pixels: {error}") from error

    def _record(self, table: sqlite3.Connection, store: SoftStore) -> int:
        table.executescript(_TABLES)
        table.execute("BEGIN")
        table.executemany("INSERT INTO labels VALUES (?, ?)", self._labels())
        with ThreadPoolExecutor(self.workers, "chunk") as pool:
            looked = map_ahead(self._look, _chunks(store), pool, 4 * self.workers)
            table.executemany("INSERT INTO chunks VALUES (?, ?, ?)", (row for row in looked if row is not None))
        pairs, found = iter(table.execute(_PAIRS)), 0
        while page := list(islice(pairs, _PAGE)):
            self.ledger.set_slots(page)
            found += len(page)
        return found

    def _labels(self) -> Iterator[tuple[str, str]]:
        last = ""
        query = "SELECT key FROM notes WHERE key > ? ORDER BY key LIMIT ?"
        while page := self.ledger.read(query, (last, _PAGE)):
            for (key,) in page:
                if (note := self.ledger.note(key)) is not None:
                    yield note["pixels"], key
            last = page[-1][0]

    def _look(self, chunk: tuple[Path, int, tuple[int, int]]) -> tuple[str, int, str] | None:
        """Pixels, slot and content of a chunk; None where it cannot be read."""
        path, slot, size = chunk
        assert self.check.store is not None, "whose chunk it is"
        try:
            label = self.check.decide(self.check.store.read(slot, size))
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except (LabelError, OSError):
            return None
        return None if label is None else (pixel_digest(label.values), slot, content)


def _chunks(store: SoftStore) -> Iterator[tuple[Path, int, tuple[int, int]]]:
    for size in store.array_sizes():
        for path in store.array_path(size).iterdir():
            if (slot := store.chunk_slot(path)) is not None:
                yield path, slot, size
