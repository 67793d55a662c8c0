"""The folder of a report: never taken from anybody else, and never half made.

A new report is built beside the old one, which stays whole until the new one takes its place. What is in it is
`reporting`'s.
"""

from contextlib import AbstractContextManager
from pathlib import Path

from storage.errors import ForeignSettingsError
from storage.json_text import parse_json
from storage.new_folder import new_folder

MARK = "report.json"
"""The file that says that a folder is a report; with its figures, for programs."""

KIND, VERSION = "report", 1


def new_report(out: Path) -> AbstractContextManager[Path]:
    """Build a report: gives an empty folder, which takes the place of `out` when all went well.

    Args:
        out: a folder that is not there yet, is empty, or is an older report.

    Raises:
        ForeignSettingsError: it holds something else; it is unchanged.
        WorkspaceError: it cannot be written, or another process makes a report there.
    """
    return new_folder(out, _refuse_strangers)


def is_report(folder: Path) -> bool:
    """Whether a folder is a report."""
    try:
        content = parse_json((folder / MARK).read_text("utf-8"))
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
