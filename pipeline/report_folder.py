"""The folder of a report: never taken from anybody else, and never half made.

A new report is built beside the old one, which stays whole until the new one takes its place. What is in it is
`reporting`'s.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from storage.atomic_file import as_ours
from storage.errors import ForeignSettingsError, WorkspaceError

MARK = "report.json"
"""The file that says that a folder is a report; with its figures, for programs."""

KIND, VERSION = "report", 1


@contextmanager
def new_report(out: Path) -> Iterator[Path]:
    """Build a report: gives an empty folder, which takes the place of `out` when all went well.

    Args:
        out: a folder that is not there yet, is empty, or is an older report.

    Raises:
        ForeignSettingsError: it holds something else; it is unchanged.
        WorkspaceError: it cannot be written, or another process makes a report there.
    """
    out = out.resolve()
    scratch = out.with_name(f".{out.name}.partial")
    new, old = scratch / "new", scratch / "old"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_ours(f"cannot make a report at {out}", error) from error
    with _locked(scratch, out):
        try:
            _put_back(old, out)
            _refuse_strangers(out)
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
            yield new
            if out.exists():
                out.rename(old)
            new.rename(out)
        except WorkspaceError:
            raise
        except OSError as error:
            raise as_ours(f"cannot make a report at {out}", error) from error
        finally:
            _put_back(old, out)
            shutil.rmtree(scratch, ignore_errors=True)


def _put_back(old: Path, out: Path) -> None:
    """The old report returns where the new one did not come to take its place, in this process or in a killed one."""
    if old.is_dir() and not out.exists():
        old.rename(out)


@contextmanager
def _locked(scratch: Path, out: Path) -> Iterator[None]:
    lock = FileLock(scratch / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise WorkspaceError(
            f"another autocoarse process makes the report {out} now; wait for it or stop it"
        ) from error
    except OSError as error:
        raise as_ours(f"cannot make a report at {out}", error) from error
    try:
        yield
    finally:
        lock.release()


def is_report(folder: Path) -> bool:
    """Whether a folder is a report."""
    try:
        content = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def _refuse_strangers(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ForeignSettingsError(f"{out} is a file, and a report is a folder; choose another --out")
    stranger = next(iter(sorted(path.name for path in out.iterdir())), None)
    if stranger is not None and not is_report(out):
        raise ForeignSettingsError(
            f"{out} holds {stranger}, and no {MARK} that says that it is a report; choose a new or an empty folder "
            f"with --out"
        )
