"""The workspace of a run: the only builder of its paths, and the only writer of its files.

Files appear whole or not at all: they are written under a temporary name in `.partial`, flushed to the disk and
renamed; in a store, where a run may lie as well, each is written by one request. It does not know what is in them.
"""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from storage.account import ByteAccount
from storage.adoption import Adopted
from storage.atomic_file import as_ours, remove_partial_files, write_atomically
from storage.broken_ledger import SETTINGS, broken_ledger
from storage.errors import WorkspaceError
from storage.lock_look import is_taken, take
from storage.object_io import find_file, put_object
from storage.paths import is_remote
from storage.state_folder import state_folder

__all__ = ["Workspace", "remove_partial_files", "write_atomically"]


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that `label --out` makes: labels/, soft/, ledger.sqlite and a few files that say more.

    Of a run in a store the ledger, the lock and what is half written are in a state folder on this machine's disk.
    """

    root: Path
    account: ByteAccount | None = field(default=None, compare=False, repr=False)
    """Where its files' bytes are reserved before they are written; None: nobody counts."""

    @classmethod
    def holding(cls, folder: Path) -> "Workspace | None":
        """The run that a folder is, or whose labels it is; None where it is neither.

        Raises:
            BrokenLedgerError: it is a run without its ledger; the labels of one are a folder of labels like any other.
        """
        candidates = [cls(folder)]
        if folder.absolute().name == "labels":
            candidates.append(cls(folder.absolute().parent))
        candidates[0].refuse_lost_ledger()
        return next((run for run in candidates if run.is_run()), None)

    @property
    def is_remote(self) -> bool:
        """Whether it is in a store and not on the disk."""
        return is_remote(self.root)

    @property
    def state(self) -> Path:
        """Folder of what the driver alone has, always on the disk."""
        return state_folder(self.root) if self.is_remote else self.root

    @property
    def labels(self) -> Path:
        """Folder of the label files, a mirror of the image tree."""
        return self.root / "labels"

    @property
    def soft(self) -> Path:
        """Folder of the soft store, where one is kept."""
        return self.root / "soft"

    @property
    def attention(self) -> Path:
        """Folder of the maps of how much each scale counted, where they are saved."""
        return self.root / "attention"

    @property
    def ledger(self) -> Path:
        """The record of every item."""
        return self.state / "ledger.sqlite"

    @property
    def ledger_copy(self) -> Path:
        """Of a run in a store, the copy of the ledger there."""
        return self.root / "ledger.sqlite"

    @property
    def ledger_in_the_making(self) -> Path:
        """A ledger that is made anew, until it is complete."""
        return self.root / "ledger-rebuilt.sqlite"

    @property
    def damaged_ledger(self) -> Path:
        """A ledger that was put aside."""
        return self.root / "ledger-damaged.sqlite"

    @property
    def settings(self) -> Path:
        """The resolved settings."""
        return self.root / SETTINGS

    @property
    def classes(self) -> Path:
        """The class schema, in the form that `--classes` reads."""
        return self.root / "classes.json"

    @property
    def failures(self) -> Path:
        """The reason of each failed item, one a line; there is none where nothing failed."""
        return self.root / "failed.txt"

    @property
    def calibration(self) -> Path:
        """The calibration that the thresholds are from, where they are from one."""
        return self.root / "calibration.json"

    @property
    def audit(self) -> Path:
        """How far the labels agree with human coarse ones, where that was measured."""
        return self.root / "audit.json"

    @property
    def scratch(self) -> Path:
        """Folder of files that are still being written."""
        return self.state / ".partial"

    @property
    def _lock_file(self) -> Path:
        return self.state / ".lock"

    def is_run(self) -> bool:
        """Whether a folder is a run: it has labels and a ledger."""
        if self.is_remote:
            return self.ledger.is_file() or find_file(self.ledger_copy) is not None
        return self.labels.is_dir() and self.ledger.is_file()

    def has_lost_ledger(self) -> bool:
        """Whether a folder on the disk is a run but for its ledger, which is older than the files that say it."""
        made = not self.is_remote and self.labels.is_dir() and self.settings.is_file() and self.classes.is_file()
        return made and not self.ledger.is_file()

    def refuse_lost_ledger(self) -> None:
        """Raise BrokenLedgerError where that is so."""
        if self.has_lost_ledger():
            raise broken_ledger(self.ledger, f"the ledger {self.ledger} is gone")

    def label_path(self, key: str) -> Path:
        """Path of an item's label, below `labels` whatever the key holds.

        Raises:
            WorkspaceError: the key, or a link on its way, leads out of the workspace.
        """
        return self._png_path(self.labels, key)

    def attention_path(self, key: str, scale: float) -> Path:
        """Path of the map of one scale of an item's attention; errors as `label_path`."""
        return self._png_path(self.attention / f"{scale:g}", key)

    def _png_path(self, folder: Path, key: str) -> Path:
        relative = PurePosixPath(key)
        if not key or relative.is_absolute() or ".." in relative.parts:
            raise WorkspaceError(f"{key!r} is no relative path below {folder}")
        path = folder / relative.with_name(f"{relative.name}.png").as_posix()
        if not self.is_remote and not path.parent.resolve().is_relative_to(folder.resolve()):
            raise WorkspaceError(f"{path.parent} is a link that leads out of {folder}; remove it")
        return path

    def prepare(self) -> None:
        """Make the folders, and throw away what an earlier run left half written.

        Raises:
            WorkspaceError: the folder cannot be made or written to.
        """
        try:
            if not self.is_remote:
                self.labels.mkdir(parents=True, exist_ok=True)
            self.tidy()
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_ours(f"cannot use {self.state} as output folder", error) from error

    def tidy(self) -> None:
        """Throw away what was left half written, and the folder for it."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def publish(self, path: Path, content: bytes, *, small: bool = False) -> None:
        """Write one of the workspace's files, whole or not at all.

        Args:
            path: of the file.
            content: all of it.
            small: it is one of the few small files that a budget always leaves room for.

        Raises:
            DiskFullError: the disk is full.
            BudgetError: the workspace's account has no room for it.
            WorkspaceError: the folder is not writable.
        """
        self.publish_together([(path, content)], small=small)

    def publish_together(self, files: Sequence[tuple[Path, bytes]], rows: int = 0, *, small: bool = False) -> None:
        """Write files that belong together, in order, each whole or not at all; none, where there is no room for all.

        Args:
            files: path and content of each.
            rows: entries that the ledger will get for them.
            small: as in `publish`.

        Raises:
            DiskFullError, BudgetError, WorkspaceError: as `publish`.
        """
        # a file that is replaced lies there until the new one is whole: for a moment both take room
        to_write = sum(len(content) for _, content in files)
        if self.account is not None:
            self.account.reserve(to_write, rows, from_margin=small)
        try:
            for path, content in files:
                before = 0 if self.account is None else _size(path)  # a request to a store, which nobody would use
                self._write(path, content)
                to_write -= len(content)
                if self.account is not None:
                    self.account.reserve(-before)
        except BaseException:
            if self.account is not None:
                self.account.reserve(-to_write, -rows)
            raise

    def _write(self, path: Path, content: bytes) -> None:
        if is_remote(path):
            put_object(path, content)
        else:
            _make_folder(path.parent)
            write_atomically(path, content, self.scratch)

    def adopt_together(self, files: Sequence[Adopted]) -> bool:
        """Take files of another run that belong together, in order, each whole; none, where one is not as it should be.

        Returns:
            Whether all of them are links.

        Raises:
            LabelError: a file is missing, cannot be read, or is not the one that is wanted.
            DiskFullError, WorkspaceError: as `publish`.
        """
        assert self.account is None, "whose the bytes of a link are, nobody has said yet"
        assert not self.is_remote, "no command that takes files of other runs writes to a store"
        staged = [(file, self.scratch / f".{uuid.uuid4().hex}.partial") for file in files]
        try:
            linked = [file.stage(temporary) for file, temporary in staged]
            for file, temporary in staged:
                _make_folder(file.path.parent)
                temporary.replace(file.path)
        except WorkspaceError:
            raise
        except OSError as error:
            raise as_ours(f"cannot write to {self.root}", error) from error
        finally:
            for _, temporary in staged:
                temporary.unlink(missing_ok=True)  # replacing one name of a file by another of its names leaves both
        return all(linked)

    def lock(self) -> FileLock:
        """Take the workspace for this process; the system releases it when the process ends, however it ends.

        Raises:
            WorkspaceError: another process has it, or the folder is not writable.
        """
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            return take(self._lock_file)
        except Timeout as error:
            raise WorkspaceError(
                f"{self.root} is in use by another autocoarse process; wait for it or stop it"
            ) from error
        except OSError as error:
            raise as_ours(f"cannot use {self.state} as output folder", error) from error

    def is_at_work(self) -> bool:
        """Whether a run works here now, seen without waiting and without keeping any run from starting.

        Half-written files without a lock are those of a run that was killed.
        """
        return self.scratch.is_dir() and is_taken(self._lock_file)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_ours(f"cannot make folder {folder}", error) from error


def _size(path: Path) -> int:
    try:
        found = find_file(path)
    except OSError:  # what is wrong, writing will tell
        return 0
    return 0 if found is None else found.size
