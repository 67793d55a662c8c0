"""The ledger: one entry an item in SQLite, written by the driver alone, the proof of what is done.

It does not look at the files that its entries speak of; `agreement` does.
"""

import json
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.broken_ledger import broken_ledger, is_broken
from storage.entry import COLUMNS, Entry, from_row, to_row
from storage.errors import BrokenLedgerError, DiskFullError, WorkspaceError
from storage.json_text import parse_json
from storage.shard import Shard

__all__ = ["Entry", "Ledger"]

FORMAT = 1
"""Version of the tables; a ledger of another version is refused."""

_TABLES = """
CREATE TABLE IF NOT EXISTS run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, status TEXT NOT NULL, settings_digest TEXT NOT NULL, image_bytes INTEGER NOT NULL,
    image_modified_ns INTEGER NOT NULL, image_sha256 TEXT NOT NULL,
    height INTEGER NOT NULL, width INTEGER NOT NULL, ignored INTEGER NOT NULL, bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL, sha256 TEXT NOT NULL, counts TEXT NOT NULL, seconds REAL NOT NULL,
    attempts INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slots (key TEXT PRIMARY KEY, slot INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
"""

_INSERT = "INSERT OR REPLACE INTO entries VALUES (" + ", ".join("?" * len(COLUMNS)) + ")"  # noqa: S608 - question marks only


class Ledger:
    """The record of a run. One process writes it; any may read it meanwhile.

    Commits are durable: rollback journal, not WAL, because runs live on network file systems too.

    Raises:
        BrokenLedgerError: the file is damaged, or no ledger.
        WorkspaceError: it cannot be opened, or was written by another version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        mode = "ro" if read_only else "rwc"
        with ExitStack() as on_error:  # one that failed would keep its lock for as long as its error lives
            try:
                self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=30)
                on_error.callback(self._connection.close)
                if not read_only:
                    self._connection.executescript(_TABLES)
                    self._connection.execute("INSERT OR IGNORE INTO run VALUES ('format', ?)", (str(FORMAT),))
                    self._connection.commit()
                row = self._connection.execute("SELECT value FROM run WHERE name = 'format'").fetchone()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                repair = "; if its run was killed, run the same `label` command again" if read_only else ""
                raise self._failed(f"cannot open the ledger {path}: {error}", repair, error) from error
            if row is None:
                raise self._broken("it says nothing of its format")
            if row[0] != str(FORMAT):
                raise WorkspaceError(
                    f"ledger {path} has format {row[0]}, this autocoarse reads {FORMAT}; use the version that made it"
                )
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def _broken(self, what: str) -> BrokenLedgerError:
        return broken_ledger(self.path, f"the ledger {self.path} is damaged: {what}")

    def _failed(self, what: str, advice: str, error: Exception) -> WorkspaceError:
        return broken_ledger(self.path, what) if is_broken(error) else WorkspaceError(what + advice)

    def _value(self, name: str) -> str | None:
        rows = self.read("SELECT value FROM run WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def _plain(self, text: str) -> Any:  # noqa: ANN401 - what was written as JSON
        try:
            return parse_json(text)
        except ValueError as error:
            raise self._broken(f"it holds text that is no JSON: {error}") from error

    @property
    def settings(self) -> dict[str, object] | None:
        """The settings that decide pixels, as given to `claim`; None in a new ledger."""
        text = self._value("settings")
        return None if text is None else self._plain(text)

    @property
    def shard(self) -> Shard | None:
        """The shard that the run is of, as given to `claim`; None where it is of all items."""
        text = self._value("shard")
        return Shard.parse(text) if text else None

    def claim(self, settings: dict[str, object], shard: Shard | None = None) -> None:
        """Record the settings that this run's labels are made with, and the shard whose items it labels."""
        rows = [("settings", json.dumps(settings)), ("shard", "" if shard is None else str(shard))]
        with self._writing():
            self._connection.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)

    @property
    def plan(self) -> dict[str, Any] | None:
        """What the last run set out to do, as given to `record_plan`; None in an older ledger."""
        text = self._value("plan")
        return None if text is None else self._plain(text)

    def record_plan(self, plan: Mapping[str, object]) -> None:
        """Record what a run sets out to do, as plain values, for those who look on.

        Raises:
            WorkspaceError: the disk is full.
        """
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO run VALUES ('plan', ?)", (json.dumps(plan),))
            self._connection.execute("DELETE FROM run WHERE name = 'workers'")  # an earlier run's

    @property
    def workers(self) -> list[dict[str, Any]]:
        """How each worker stood when `record_workers` was last called; none where a process labels by itself."""
        text = self._value("workers")
        return [] if text is None else self._plain(text)

    def record_workers(self, workers: Sequence[Mapping[str, object]]) -> None:
        """Record how the workers stand, as plain values, for those who look on.

        Raises:
            WorkspaceError: the disk is full.
        """
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO run VALUES ('workers', ?)", (json.dumps(workers),))

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; until it is answered its run cannot commit, so it must not ask for everything at once.

        Raises:
            BrokenLedgerError: it is damaged.
            WorkspaceError: it cannot be read, or its run has been committing for half a minute.
        """
        return list(self._rows(query, values))

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """As `read`, row by row, for what may be as long as the set."""
        try:
            yield from self._connection.execute(query, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            advice = "; if its run was killed, run the same command again"
            raise self._failed(f"cannot read the ledger {self.path}: {error}", advice, error) from error

    def commit(self, entries: Iterable[Entry], notes: Mapping[str, Mapping[str, object]] | None = None) -> None:
        """Record entries, durably and together; a failed item's attempts are counted up.

        Args:
            entries: what became of items.
            notes: by key, what a job remembers of an item beyond its entry; plain values, as in JSON.

        Raises:
            WorkspaceError: the disk is full.
        """
        with self._writing():
            for entry in entries:
                before = self.get(entry.key)
                again = entry.status == "failed" and before is not None and before.status == "failed"
                attempts = before.attempts + 1 if before is not None and again else 1
                at = entry.modified_ns or (time.time_ns() if entry.status == "failed" else 0)
                self._connection.execute(_INSERT, to_row(replace(entry, attempts=attempts, modified_ns=at)))
            written = [(key, json.dumps(note)) for key, note in (notes or {}).items()]
            self._connection.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", written)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction; what keeps it from being written is one kind of error."""
        try:
            with self._connection:
                yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            what = f"cannot write the ledger {self.path}: {error}"
            advice = "; no label is lost, run the same command again"
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # not every error has a code
                raise DiskFullError(what + advice) from error
            raise self._failed(what, advice, error) from error

    def slots(self) -> dict[str, int]:
        """The slot of each item of which confidence is, or was to be, kept."""
        return dict(self.read("SELECT key, slot FROM slots")) if self._has_slots() else {}

    def slot(self, key: str) -> int | None:
        """The slot of an item, if it has one."""
        if not self._has_slots():
            return None
        rows = self.read("SELECT slot FROM slots WHERE key = ?", (key,))
        return int(rows[0][0]) if rows else None

    @property
    def slot_count(self) -> int:
        """One more than the largest slot; 0 where there is none."""
        if not self._has_slots():
            return 0
        return int(self.read("SELECT coalesce(max(slot) + 1, 0) FROM slots")[0][0])

    def _has_slots(self) -> bool:
        """Not so in a ledger of before there were any, opened to be read only."""
        return bool(self.read("SELECT 1 FROM sqlite_master WHERE name = 'slots'"))

    def give_slots(self, keys: Iterable[str]) -> None:
        """Give a slot of its own, for good, to every item that has none.

        Raises:
            WorkspaceError: the disk is full.
        """
        given = "INSERT OR IGNORE INTO slots VALUES (?, (SELECT coalesce(max(slot) + 1, 0) FROM slots))"
        with self._writing():
            self._connection.executemany(given, ((key,) for key in keys))

    def set_slots(self, slots: Iterable[tuple[str, int]]) -> None:
        """Record which slot each of some items has, as (key, slot).

        Raises:
            WorkspaceError: the disk is full, or a slot is another item's.
        """
        with self._writing():
            self._connection.executemany("INSERT OR REPLACE INTO slots VALUES (?, ?)", slots)

    def take_slots(self, keys: Iterable[str]) -> None:
        """Take back the slots of items of which nothing is to be kept."""
        with self._writing():
            self._connection.executemany("DELETE FROM slots WHERE key = ?", [(key,) for key in keys])

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the entries and notes of items, so that the next run does them again."""
        with self._writing():
            for key in keys:
                self._connection.execute("DELETE FROM entries WHERE key = ?", (key,))
                self._connection.execute("DELETE FROM notes WHERE key = ?", (key,))

    def forget_notes(self) -> None:
        """Drop all notes."""
        with self._writing():
            self._connection.execute("DELETE FROM notes")

    def get(self, key: str) -> Entry | None:
        """The entry of an item, if there is one."""
        rows = self.read("SELECT * FROM entries WHERE key = ?", (key,))
        return self._entry(rows[0]) if rows else None

    def note(self, key: str) -> dict[str, Any] | None:
        """What was last noted of an item, if anything was."""
        rows = self.read("SELECT value FROM notes WHERE key = ?", (key,))
        return self._plain(rows[0][0]) if rows else None

    def has_labels(self) -> bool:
        """Whether any item is done."""
        return bool(self.read("SELECT 1 FROM entries WHERE status = 'done' LIMIT 1"))

    def has_entries(self) -> bool:
        """Whether anything became of any item."""
        return bool(self.read("SELECT 1 FROM entries LIMIT 1"))

    def done_keys(self) -> frozenset[str]:
        """The keys of all items that are done."""
        return frozenset(key for (key,) in self._rows("SELECT key FROM entries WHERE status = 'done'"))

    def failures(self) -> Iterator[Entry]:
        """The entries of the items that failed, by key."""
        yield from map(self._entry, self._rows("SELECT * FROM entries WHERE status = 'failed' ORDER BY key"))

    def forget_failures(self, listed: Container[str]) -> None:
        """Drop the failed items whose key is none of `listed`: their images are gone, or have other names by now."""
        failed = self.read("SELECT key FROM entries WHERE status = 'failed'")
        with self._writing():
            gone = [row for row in failed if row[0] not in listed]
            self._connection.executemany("DELETE FROM entries WHERE key = ?", gone)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, by key."""
        yield from map(self._entry, self._rows("SELECT * FROM entries ORDER BY key"))

    def _entry(self, row: tuple[object, ...]) -> Entry:
        try:
            return from_row(row)
        except (ValueError, TypeError) as error:
            raise self._broken(f"the entry of {row[0]!r} cannot be read: {error}") from error
