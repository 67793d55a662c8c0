"""The copy of a ledger beside a run that lies in a store: fetched when a driver starts, published while it works.

The ledger itself stays on the driver's disk, as SQLite needs one. Labels are decided by the settings alone, so that a
copy which is older than the labels costs the work of the items that it does not know, and nothing else.
"""

import json
import socket
import sqlite3
import threading
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.atomic_file import write_atomically
from storage.broken_ledger import COPY_MEMORY
from storage.errors import AutocoarseError, MissingFileError, WorkspaceError
from storage.json_text import parse_json
from storage.object_io import find_file, get_file, put_file
from storage.object_walk import walk_objects
from storage.paths import path_text
from storage.workspace import Workspace

SECONDS = 60.0
"""Between two copies; more where one takes long, so that copying takes a tenth of the time at most."""

_FIRST_SECONDS = 1.0
"""Before the first copy of a new run, so that there is one from early on."""

_LONGEST_SHARE = 10


class LedgerCopy:
    """The copy of one run's ledger; a context manager while its driver works.

    Each copy has the name of the driver that wrote it and a number; the driver remembers what it last saw in the store.

    Args:
        workspace: a run in a store, locked by this process.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.path = workspace, workspace.ledger_copy
        self._ledger, self._scratch, self._memory = workspace.ledger, workspace.scratch, workspace.state / COPY_MEMORY
        self._published: list[int] | None = None  # time and size of the ledger, when it was as the copy is
        self._host, self._count, self._tag = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}", 0, ""
        with suppress(FileNotFoundError, ValueError, KeyError):
            known = parse_json(self._memory.read_bytes())
            self._host, self._count, self._tag = str(known["host"]), int(known["count"]), str(known["tag"])
            self._published = known["ledger"]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger copy", daemon=True)

    def has_seen(self, tag: str) -> bool:
        """Whether this machine's driver wrote, or took, what is in the store."""
        return tag == self._tag

    def fetch(self) -> None:
        """Bring this machine's ledger up to date with the copy in the store, before it is opened.

        Without a ledger here the copy is taken. Where both are there the one here stays, unless another driver has
        written more copies than this one knows: then it is put aside. A ledger whose run was deleted from the store
        is put aside as well.

        Raises:
            WorkspaceError: the store cannot be read, or the copy is damaged.
        """
        here = self._ledger
        found = find_file(self.path)
        if found is None:
            if here.exists() and self._tag and next(walk_objects(self.workspace.labels), None) is None:
                self._put_aside(here)
                self._published = None
                self._remember(0, "")
            return
        if here.exists() and found.tag == self._tag:
            return
        fetched = self._scratch / "fetched.sqlite"
        get_file(self.path, fetched)
        host, count, _ = self._read_mark(fetched)
        if not here.exists() or (host != self._host and (count > self._count or not _is_claimed(here))):
            self._put_aside(here)
            fetched.replace(here)
            self._published = self._signature()
        self._remember(max(count, self._count), found.tag)

    def _read_mark(self, ledger: Path) -> tuple[str, int, bool]:
        try:
            return _mark_of(ledger)
        except sqlite3.Error as error:
            raise WorkspaceError(
                f"{path_text(self.path)} is no whole ledger: {error}; delete it to go on with what is in "
                f"{self.workspace.state}, or give another --out"
            ) from error

    def _put_aside(self, ledger: Path) -> None:
        if ledger.exists():
            # what a killed driver had begun to write is part of it
            for name in (ledger.name, f"{ledger.name}-journal"):
                with suppress(FileNotFoundError):
                    ledger.with_name(name).replace(ledger.with_name(name.replace("ledger", "ledger-before")))

    def _remember(self, count: int, tag: str) -> None:
        self._count, self._tag = count, tag
        content = {"host": self._host, "count": count, "tag": tag, "ledger": self._published}
        write_atomically(self._memory, json.dumps(content).encode(), self._scratch)

    def _signature(self) -> list[int]:
        found = self._ledger.stat()
        return [found.st_mtime_ns, found.st_size]

    def publish(self) -> None:
        """Write a copy, whole or not at all; nothing where nothing has changed, or no run has claimed the ledger yet.

        Raises:
            WorkspaceError: the store cannot be written, or another driver writes there.
        """
        signature = self._signature()
        if signature == self._published or not _is_claimed(self._ledger):
            return
        self._refuse_other_driver()
        snapshot = self._scratch / "snapshot.sqlite"
        snapshot.unlink(missing_ok=True)
        try:
            with (
                closing(_opened(self._ledger)) as source,
                closing(sqlite3.connect(snapshot, isolation_level=None)) as target,
            ):
                source.backup(target)
                target.execute("PRAGMA synchronous = OFF")  # should the machine stop, it is not sent
                mark = [("copy_host", self._host), ("copy_count", str(self._count + 1))]
                target.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", mark)
            put_file(self.path, snapshot)
        except sqlite3.Error as error:
            raise WorkspaceError(f"cannot copy the ledger {self._ledger}: {error}") from error
        finally:
            snapshot.unlink(missing_ok=True)
        found = find_file(self.path)
        self._published = signature
        self._remember(self._count + 1, "" if found is None else found.tag)

    def _refuse_other_driver(self) -> None:
        found = find_file(self.path)
        if found is None or found.tag == self._tag:
            return
        other = self._scratch / "other.sqlite"
        try:
            get_file(self.path, other)
            host, _, _ = self._read_mark(other)
        finally:
            other.unlink(missing_ok=True)
        if host != self._host:  # else a request of ours whose answer was lost
            raise WorkspaceError(
                f"{path_text(self.path)} was written by another driver ({host}) while this one worked; the labels of "
                f"both are whole and the same. Stop one of them, and run the command again"
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.publish()
        except AutocoarseError:
            if error is None:  # else it has a reason of its own to end, and the ledger is whole here
                raise

    def _work(self) -> None:
        pause = min(SECONDS, _FIRST_SECONDS)
        while not self._stop.wait(pause):
            started = time.monotonic()
            with suppress(AutocoarseError, OSError, sqlite3.Error):  # the next one, or the last one, tells
                self.publish()
            if self._published is not None:  # else no run has claimed it yet
                pause = max(SECONDS, _LONGEST_SHARE * (time.monotonic() - started))


def _opened(ledger: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=30)


def _mark_of(ledger: Path) -> tuple[str, int, bool]:
    """Who wrote a copy, its number, and whether a run has claimed the ledger."""
    with closing(_opened(ledger)) as connection:
        rows: dict[str, Any] = dict(
            connection.execute("SELECT name, value FROM run WHERE name IN ('copy_host', 'copy_count', 'settings')")
        )
    return str(rows.get("copy_host", "")), int(rows.get("copy_count", 0)), "settings" in rows


def _is_claimed(ledger: Path) -> bool:
    """Whether a run has recorded its settings in a ledger; one that cannot be read now is not taken for empty."""
    try:
        return _mark_of(ledger)[2]
    except sqlite3.Error:
        return True


def readable_ledger(workspace: Workspace) -> Path:
    """A ledger to look at: that of the run, or of a run in a store which another machine drives the copy of it.

    Raises:
        MissingFileError: there is neither.
        WorkspaceError: the store cannot be read.
    """
    here = workspace.ledger
    if not workspace.is_remote or workspace.is_at_work():
        return here
    found = find_file(workspace.ledger_copy)
    if found is None:
        if here.exists():
            return here
        raise MissingFileError(f"{path_text(workspace.ledger_copy)}: there is no such run")
    if here.exists() and LedgerCopy(workspace).has_seen(found.tag):
        return here
    workspace.state.mkdir(parents=True, exist_ok=True)
    looked_at = workspace.state / f".looked-at-{uuid.uuid4().hex[:8]}"
    get_file(workspace.ledger_copy, looked_at)
    return looked_at.replace(workspace.state / "looked-at.sqlite")
