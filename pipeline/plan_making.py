"""Making the plan of a labelling run, by a few sorted passes over the listing, the labels and the ledger.

An item is done if, and only if, the ledger has an entry with these settings' digest and the files agree with it.
A label that this run did not make is never replaced: its item is refused.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.forecast import TRIED, Made
from pipeline.plan import Done, Plan, State, items_in
from pipeline.run_folder import reason_to_keep
from storage.agreement import image_agrees, label_agrees
from storage.broken_ledger import broken_ledger, is_broken
from storage.errors import DiskFullError, WorkspaceError
from storage.layouts import Item, Layout, bad_name, find_images, is_utf8, no_images, shared_key
from storage.ledger import Ledger
from storage.object_walk import walk
from storage.shard import Shard
from storage.soft_store import SoftStore
from storage.walk import FoundFile
from storage.workspace import Workspace

_TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE images (key TEXT, path TEXT, size INTEGER, modified_ns INTEGER, PRIMARY KEY (key, path)) WITHOUT ROWID;
CREATE TABLE labels (key TEXT PRIMARY KEY, size INTEGER, modified_ns INTEGER) WITHOUT ROWID;
CREATE TABLE refused (key TEXT, reason TEXT);
CREATE TABLE items (number INTEGER PRIMARY KEY, key TEXT, path TEXT, state TEXT);
"""

_SORT = """
INSERT INTO items (key, path, state)
SELECT image.key, min(image.path), CASE
    WHEN entry.status = 'done' AND entry.settings_digest = ?
        AND entry.image_bytes = image.size AND entry.image_modified_ns = image.modified_ns
        AND entry.bytes = label.size AND entry.modified_ns = label.modified_ns THEN 'done'
    WHEN label.key IS NULL THEN 'to do'
    ELSE 'look' END
FROM images AS image
LEFT JOIN run.entries AS entry ON entry.key = image.key
LEFT JOIN labels AS label ON label.key = image.key
GROUP BY image.key HAVING count(*) = 1
ORDER BY image.key
"""
"""States `done` and `to do` are certain from sizes and times; at what is left one has to look."""

_SUMS = """
SELECT count(*), total(entry.bytes), total(entry.height * entry.width), total(entry.ignored)
FROM items JOIN run.entries AS entry ON entry.key = items.key WHERE state = 'done'
"""


@dataclass(frozen=True, slots=True)
class PlanMaker:
    """What a plan is made of, beside the images.

    Attributes:
        ledger: what earlier runs recorded.
        workspace: where the labels are.
        digest: of the settings that decide pixels.
        store: where confidence is to be kept; what has none there is not done.
    """

    ledger: Ledger
    workspace: Workspace
    digest: str
    store: SoftStore | None = None

    def make(self, images: Path, layout: Layout, exclude: Sequence[Path] = (), shard: Shard | None = None) -> Plan:
        """Split the images of a folder into those that are done, those to do, and those that are refused.

        Args:
            images: the folder.
            layout: how it lies on disk.
            exclude: folders in it to leave out.
            shard: whose images alone are planned; None: all.

        Raises:
            MissingFileError: there is no such folder.
            LayoutError: it holds no image.
            DiskFullError: the disk of temporary files has no room for the listing.
            WorkspaceError: the ledger cannot be read.
        """
        try:
            return self._make(images, layout, exclude, shard)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            refuse_full(error)
            what = f"cannot plan with the ledger {self.ledger.path}: {error}"
            raise (broken_ledger(self.ledger.path, what) if is_broken(error) else WorkspaceError(what)) from error

    def _make(self, images: Path, layout: Layout, exclude: Sequence[Path], shard: Shard | None) -> Plan:
        root, found = find_images(images, layout, exclude)
        # a database without a name is a file of the system's, written where memory does not do, and gone when closed
        table = sqlite3.connect("", uri=True, isolation_level=None)
        table.executescript(_TABLES)
        table.execute("ATTACH DATABASE ? AS run", (f"{self.ledger.path.absolute().as_uri()}?mode=ro",))
        table.execute("BEGIN")
        if not self._fill_images(table, root, found, shard):
            raise no_images(root, layout)
        strange = self._fill_labels(table)
        table.execute(_SORT, (self.digest,))
        for path in strange:  # what lies behind a link was not listed, and a folder may be where a label is to go
            where = (f"{path}/", f"{path}0", path.removesuffix(".png"))
            table.execute("UPDATE items SET state = 'look' WHERE (key >= ? AND key < ?) OR key = ?", where)
        table.execute(
            "UPDATE items SET state = 'look' WHERE key LIKE '%.png/%'"
        )  # a label may be where a folder is to be
        if self.store is not None:
            self._look_for_chunks(table, root, self.store)
        self._look(table, root)
        done = self._sums(table)
        (to_do,) = table.execute("SELECT count(*) FROM items WHERE state = 'to do'").fetchone()
        (refused,) = table.execute("SELECT count(*) FROM refused").fetchone()
        table.execute("COMMIT")
        table.execute("DETACH DATABASE run")
        return Plan(root, table, done, to_do, refused)

    def _fill_images(
        self, table: sqlite3.Connection, root: Path, found: Iterator[tuple[str, FoundFile]], shard: Shard | None
    ) -> bool:
        """Take the images in, and refuse those that can have no key of their own; says whether there are any."""
        some, nameless = False, []

        def rows() -> Iterator[tuple[str, str, int, int]]:
            nonlocal some
            for key, file in found:
                some = True
                if not key:
                    nameless.append(bad_name(root, file.relative))
                elif shard is None or shard.holds(key):
                    yield key, file.relative, file.size, file.modified_ns

        table.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", rows())
        refused = nameless if shard is None else [one for one in nameless if shard.holds(_stem(one[0]))]
        doubled = table.execute(
            "SELECT key, path FROM images WHERE key IN (SELECT key FROM images GROUP BY key HAVING count(*) > 1) "
            "ORDER BY key, path"
        ).fetchall()
        for key, group in groupby(doubled, key=lambda row: row[0]):
            refused += shared_key(root, key, [path for _, path in group])
        table.executemany("INSERT INTO refused VALUES (?, ?)", refused)
        return some

    def _fill_labels(self, table: sqlite3.Connection) -> list[str]:
        """Take in which label files there are; gives what is no file, and in the way."""
        strange: list[str] = []
        files = walk(self.workspace.labels, strange=strange)

        def rows() -> Iterator[tuple[str, int, int]]:
            for file in files:
                if not file.relative.endswith(".png"):
                    strange.append(file.relative)  # it may be where a folder is to be
                elif is_utf8(file.relative):
                    yield file.relative.removesuffix(".png"), file.size, file.modified_ns

        table.executemany("INSERT INTO labels VALUES (?, ?, ?)", rows())
        return [path for path in strange if is_utf8(path)]

    def _look_for_chunks(self, table: sqlite3.Connection, root: Path, store: SoftStore) -> None:
        """Of what seems done, have one look again at what has nothing kept."""
        for number, item in items_in(table, root, "done"):
            if not self._is_kept(table, store, item.key):
                _move(table, number, "look")

    @staticmethod
    def _is_kept(table: sqlite3.Connection, store: SoftStore, key: str) -> bool:
        """Whether there is a chunk of an item; whether it is whole, `verify` says."""
        row = table.execute(
            "SELECT slot, height, width FROM run.slots JOIN run.entries USING (key) WHERE key = ?", (key,)
        ).fetchone()
        return row is not None and store.chunk_path(row[0], (row[1], row[2])).is_file()

    def _look(self, table: sqlite3.Connection, root: Path) -> None:
        """Decide by the files themselves what sizes and times have left open."""
        for number, item in items_in(table, root, "look"):
            state, reason = self._judge(table, item)
            _move(table, number, state)
            if state == "refused":
                table.execute("INSERT INTO refused VALUES (?, ?)", (item.key, reason))

    def _judge(self, table: sqlite3.Connection, item: Item) -> tuple[State, str]:
        try:
            label = self.workspace.label_path(item.key)
        except WorkspaceError as error:
            return "refused", f"{item.image}: {error}"
        entry = self.ledger.get(item.key)
        if (
            entry is not None
            and entry.status == "done"
            and entry.settings_digest == self.digest
            and image_agrees(entry, item.image)
            and label_agrees(entry, label)
            and (self.store is None or self._is_kept(table, self.store, item.key))
        ):
            return "done", ""
        reason = reason_to_keep(label, self.digest, "the image labelled")
        return ("refused", reason) if reason else ("to do", "")

    @staticmethod
    def _sums(table: sqlite3.Connection) -> Done:
        count, size, pixels, ignored = table.execute(_SUMS).fetchone()
        last = table.execute("SELECT key FROM items WHERE state = 'done' ORDER BY number DESC LIMIT ?", (TRIED,))
        keys = tuple(key for (key,) in last)[::-1]
        return Done(Made(count, int(size), keys), int(pixels), int(ignored))


def refuse_full(error: Exception) -> None:
    """Raise DiskFullError where an error of a table in a temporary file says that there is no room for it."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:  # not every error has a code
        # as SQLite looks for it; what Python's own search finds has been tried by writing
        folder = os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
        raise DiskFullError(
            f"no room in {folder} for the list of images, about 200 bytes each; "
            f"make room, or set TMPDIR to a folder on another disk"
        ) from error


def _move(table: sqlite3.Connection, number: int, state: State) -> None:
    table.execute("UPDATE items SET state = ? WHERE number = ?", (state, number))


def _stem(path: str) -> str:
    return Path(path).with_suffix("").as_posix()
