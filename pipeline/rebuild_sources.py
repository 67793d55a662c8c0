"""What a ledger is made anew from, beside the labels: what is left of the old one, the images, and the settings.

It writes nothing. The settings are proven by the labels, each of which has their digest.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from pipeline.plan_making import refuse_full
from pipeline.provenance import decisive_settings
from pipeline.settings import LabelSettings, settings_digest
from storage.errors import (
    AutocoarseError,
    BrokenLedgerError,
    ForeignSettingsError,
    LabelError,
    MissingFileError,
    WorkspaceError,
)
from storage.integrity import check_ledger
from storage.label_png import read_provenance
from storage.layouts import find_images, no_images
from storage.ledger import Entry, Ledger
from storage.schema import load_schema
from storage.shard import Shard
from storage.walk import FoundFile, walk_files
from storage.workspace import Workspace
from teacher import load_teacher


def is_sound(ledger: Path) -> bool:
    """Whether a ledger of `label` is there, whole, and agrees with itself; a commit that was cut off is rolled back.

    Raises:
        WorkspaceError: it is another version's, or cannot be looked at.
    """
    try:
        if not ledger.is_file() or not ledger.stat().st_size:
            return False
        # a journal is played back by who may write; without one nothing is to be written
        with Ledger(ledger, read_only=not ledger.with_name(f"{ledger.name}-journal").exists()) as opened:
            check_ledger(ledger)
            digest = settings_digest(opened.settings or {})
            return all(entry.settings_digest == digest or entry.status == "failed" for entry in opened)
    except BrokenLedgerError:
        return False


class Remains:
    """What can still be read of a damaged ledger; a context manager. Nothing of it is believed without a proof."""

    def __init__(self, ledger: Path) -> None:
        self._ledger: Ledger | None = None
        try:
            self._ledger = Ledger(ledger, read_only=True)
        except WorkspaceError:
            return  # gone, or so damaged that nothing can be read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ledger is not None:
            self._ledger.__exit__(kind, error, trace)

    @property
    def settings(self) -> dict[str, object] | None:
        """What it says of the settings."""
        try:
            return None if self._ledger is None else self._ledger.settings
        except BrokenLedgerError:
            return None

    def get(self, key: str) -> Entry | None:
        """What it says of an item."""
        try:
            return None if self._ledger is None else self._ledger.get(key)
        except BrokenLedgerError:
            return None


class ImageTable:
    """The images of a run by key, in a temporary file: there may be millions."""

    count: int
    """Of all images, also those that cannot have a key of their own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # a database without a name is a file of the system's, written where memory does not do, and gone when closed
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.executescript("PRAGMA journal_mode = OFF; CREATE TABLE images (key TEXT, path TEXT)")

    @classmethod
    def of(cls, settings: LabelSettings, exclude: Sequence[Path]) -> Self:
        """List the images of a run.

        Args:
            settings: of the run.
            exclude: folders to leave out.

        Raises:
            MissingFileError: their folder is not there.
            LayoutError: there is none, of a shard none of its own.
        """
        try:
            root, found = find_images(settings.images, settings.layout, exclude)
        except MissingFileError as error:
            raise MissingFileError(
                f"{error}: labels are told by the images that they were made from; bring these back, or run this where "
                f"`label` was run"
            ) from error
        table = cls(root)
        try:
            table._fill(found, settings.shard)
        except sqlite3.Error as error:
            refuse_full(error)
            raise WorkspaceError(f"cannot list the images in a temporary file: {error}") from error
        if not table.count:
            raise no_images(root, settings.layout)
        return table

    def _fill(self, found: Iterator[tuple[str, FoundFile]], shard: Shard | None) -> None:
        rows = (
            (key, file.relative if key else repr(file.relative))  # a name that is no UTF-8 cannot be written
            for key, file in found
            if shard is None or shard.holds(key or PurePosixPath(file.relative).with_suffix("").as_posix())
        )
        self._table.execute("BEGIN")
        self._table.executemany("INSERT INTO images VALUES (?, ?)", rows)
        self._table.execute("CREATE INDEX by_key ON images (key)")
        self._table.execute("COMMIT")
        (self.count,) = self._table.execute("SELECT count(*) FROM images").fetchone()

    def find(self, key: str) -> Path | None:
        """The image of a key; None where there is none, or more than one."""
        rows = self._table.execute("SELECT path FROM images WHERE key = ? LIMIT 2", (key,)).fetchall()
        return self._root / rows[0][0] if len(rows) == 1 else None

    def close(self) -> None:
        """Give the table's room back."""
        self._table.close()


def find_decisive(workspace: Workspace, settings: LabelSettings, remains: Remains) -> dict[str, object]:
    """What decides the labels of a run, proven by their digest of it: as the old ledger says, or by the teacher.

    Args:
        workspace: of the run.
        settings: that it has left there.
        remains: of its ledger.

    Raises:
        WorkspaceError: the old ledger does not say, and the teacher cannot be loaded.
        ForeignSettingsError: the labels say other settings.
    """
    said = remains.settings
    if said is not None and not _other_provenance(workspace, settings_digest(said)):
        return said
    try:
        teacher = load_teacher(
            settings.teacher,
            settings.weights,
            schema=None if settings.classes is None else load_schema(str(workspace.classes)),
            device="cpu",
            precision=settings.precision,
        )
        decisive = decisive_settings(settings, teacher)
    except AutocoarseError as error:
        raise WorkspaceError(
            f"what the labels were made with is told by the teacher that {workspace.settings} names, and that cannot "
            f"be loaded: {error}; bring it back, or run this where `label` was run"
        ) from error
    digest = settings_digest(decisive)
    if other := _other_provenance(workspace, digest):
        raise ForeignSettingsError(
            f"no label of {workspace.labels} is of the settings in {workspace.settings} and the teacher that they "
            f"name: digest {digest}, teacher {teacher.digest}; labels say digest {other['settings']}, teacher "
            f"{other.get('teacher', '(none)')}. Bring back the settings and the teacher of these labels"
        )
    return decisive


def _other_provenance(workspace: Workspace, digest: str) -> Mapping[str, object] | None:
    """What a label says where none is of these settings; None where one is, or where none says anything."""
    other: Mapping[str, object] | None = None
    for file in walk_files(workspace.labels, strange=[]):
        try:
            said = read_provenance(workspace.labels / file.relative)
        except (LabelError, OSError):
            continue
        if said.get("settings") == digest:
            return None
        if "settings" in said:
            other = other or said
    return other
