"""What files there are below a folder, one after the other, whatever their number.

It opens none of them, and remembers none.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a folder."""

    relative: str
    """Posix path below the folder."""
    size: int
    """Bytes; -1 where nobody can say, as of a link that leads nowhere."""
    modified_ns: int


def walk_files(root: Path, exclude: Sequence[Path] = (), strange: list[str] | None = None) -> Iterator[FoundFile]:
    """Files below a folder, without hidden ones, excluded folders and the RUNs that lie in it.

    Links to files are followed, those to folders are not.

    Args:
        root: the folder.
        exclude: folders to leave out.
        strange: where given, RUNs are entered as well, and it gets the relative paths of links to folders, of folders
            that are named like files, and of those that cannot be read.
    """
    excluded = {path.resolve() for path in exclude}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        below = []
        try:
            found = os.scandir(root / prefix)
        except OSError:  # a folder that cannot be read has nothing to show
            if strange is not None:
                strange.append(prefix.rstrip("/"))
            continue
        with found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield _found(entry, prefix)
                    continue
                if strange is not None and (entry.is_symlink() or "." in entry.name):
                    strange.append(prefix + entry.name)
                here = Path(entry.path)
                if entry.is_symlink() or here.resolve() in excluded:
                    continue
                if strange is not None or not _is_run(here):
                    below.append(f"{prefix}{entry.name}/")
        waiting += sorted(below, reverse=True)


def _is_run(folder: Path) -> bool:
    workspace = Workspace(folder)
    return workspace.is_run() or workspace.has_lost_ledger()


def _found(entry: "os.DirEntry[str]", prefix: str) -> FoundFile:
    try:
        stat = entry.stat()
    except OSError:
        return FoundFile(prefix + entry.name, -1, 0)
    return FoundFile(prefix + entry.name, stat.st_size, stat.st_mtime_ns)
