"""Folders that appear whole or not at all: built beside their place, where two processes cannot meet, and renamed.

What is in them, and whose place they may take, is the caller's.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from storage.atomic_file import as_ours
from storage.errors import AutocoarseError, WorkspaceError
from storage.lock_look import LOOK_SECONDS


@contextmanager
def new_folder(out: Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """Build a folder: gives an empty one, which takes the place of `out` when all went well.

    What was at `out` stays whole until then, and for good where this process is ended before.

    Args:
        out: where it is to be.
        refuse: raises where what is at `out` now must stay.

    Raises:
        WorkspaceError: it cannot be written, or another process builds it.
    """
    out = out.resolve()
    scratch = out.with_name(f".{out.name}.partial")
    new, old = scratch / "new", scratch / "old"
    with locked(scratch / ".lock", out):
        try:
            _put_back(old, out)
            refuse(out)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
            yield new
            if out.exists():
                out.rename(old)
            new.rename(out)
        except AutocoarseError:
            raise
        except OSError as error:
            raise as_ours(f"cannot write {out}", error) from error
        finally:
            _put_back(old, out)
            shutil.rmtree(scratch, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    """The old folder returns where the new one did not come to take its place, in this process or in a killed one."""
    if old.is_dir() and not out.exists():
        old.rename(out)


@contextmanager
def locked(file: Path, out: Path) -> Iterator[None]:
    """Hold a lock; the system releases it when the process ends, however it ends.

    Args:
        file: the lock; its folder is made. Who holds it may remove it, folder and all.
        out: what is made under it, for the message.

    Raises:
        WorkspaceError: another process has it, or it cannot be written.
    """
    # tried for a moment: a file that was removed before its holder let it go is not the one that others find then
    lock = FileLock(file, timeout=LOOK_SECONDS)
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except FileNotFoundError:  # its holder has removed the folder just now
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as error:
        raise WorkspaceError(f"another autocoarse process makes {out} now; wait for it or stop it") from error
    except OSError as error:
        raise as_ours(f"cannot write {out}", error) from error
    try:
        yield
    finally:
        lock.release()
