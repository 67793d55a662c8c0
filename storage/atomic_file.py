"""Files of the disk that appear whole or not at all: written under a temporary name, flushed, and renamed."""

import errno
import os
import tempfile
from pathlib import Path

from storage.errors import DiskFullError, SettingsError, WorkspaceError


def write_atomically(path: Path, content: bytes, scratch: Path | None = None) -> None:
    """Write a file so that a reader, or a crash at any point, sees the old file or the new one and no other.

    Args:
        path: the file; its folder must exist.
        content: all of it.
        scratch: folder for the temporary file, on the same file system; the file's own by default.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=scratch or path.parent, prefix=".", suffix=".partial", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_UMASK)  # temporary files are private, labels are to be shared like any other file
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise as_ours(f"cannot write {path}", error) from error
        raise


def refuse_existing(path: Path) -> None:
    """Never write over a file that may be somebody's; to be asked before the work, as is whether it can be written.

    Raises:
        SettingsError: something is there, or its folder is not.
    """
    refuse_without_folder(path)
    if path.exists() or path.is_symlink():
        raise SettingsError(
            f"{path} is there already, perhaps with work of yours in it: choose another name, or remove it"
        )


def refuse_without_folder(path: Path) -> None:
    """Say before the work, and not after it, that a file has no folder to be written into.

    Raises:
        SettingsError: there is none.
    """
    if not path.parent.is_dir():
        raise SettingsError(f"{path.parent} is no folder; make it first")


def remove_partial_files(folder: Path) -> None:
    """Throw away what `write_atomically` left in a folder when its process was killed; nobody else may write there."""
    for path in folder.glob(".*.partial"):
        if path.is_file():
            path.unlink(missing_ok=True)


# the process-wide mask can only be read by setting it, which is not safe once threads run: so once, at import
_UMASK = os.umask(0)
os.umask(_UMASK)


def as_ours(what: str, error: OSError) -> WorkspaceError:
    """The error of ours that says what the system's does, and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{what}: {error.strerror}; free some space and run the same command again, it goes on where it stopped"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return WorkspaceError(f"{what}: {error.strerror}; choose a folder that you may write to with --out")
    return WorkspaceError(f"{what}: {error.strerror or error}")
