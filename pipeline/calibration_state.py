"""How far a calibration has come, in a file beside its result: what was counted, and of what, so that it can go on.

Images are counted in a fixed order, so that a number says which of them are in the counts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pipeline.calibration_counts import CalibrationCounts, PixelCounts
from pipeline.settings import settings_difference
from storage.errors import ForeignSettingsError, WorkspaceError
from storage.json_text import parse_json
from storage.workspace import write_atomically

KIND = "calibration under way"

MAX_BYTES = 2**30
"""Of a file that is read."""


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """What was counted so far."""

    counts: CalibrationCounts
    done: int = 0
    """Images, in the order of the samples, that were counted or have failed."""
    unknown: int = 0
    """Pixels of the truth whose source id the classes do not know; they are not judged."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Images that could not be counted, by key, and why."""

    @classmethod
    def nothing(cls, measured: Mapping[str, Any]) -> Self:
        """Before the first image."""
        return cls(CalibrationCounts.nothing(len(measured["classes"]), measured["steps"], measured["block"]))

    def plus(self, image: PixelCounts, unknown: int) -> Self:
        """With one image more."""
        return replace(self, counts=self.counts.plus(image), done=self.done + 1, unknown=self.unknown + unknown)

    def without(self, key: str, reason: str) -> Self:
        """With one image more that failed."""
        return replace(self, done=self.done + 1, failed={**self.failed, key: reason})

    def save(self, path: Path, measured: Mapping[str, Any]) -> None:
        """Write it, whole or not at all.

        Args:
            path: the file.
            measured: what is counted, and how.

        Raises:
            WorkspaceError: it cannot be written.
        """
        content = {
            "kind": KIND,
            "measured": dict(measured),
            "done": self.done,
            "unknown": self.unknown,
            "failed": dict(self.failed),
            "counts": self.counts.to_plain(),
        }
        write_atomically(path, json.dumps(content).encode())


def read_state(path: Path, measured: Mapping[str, Any]) -> CalibrationState:
    """Read how far a calibration has come; nothing, where there is no file.

    Args:
        path: the file.
        measured: what is counted, and how.

    Raises:
        ForeignSettingsError: the file is of another calibration; the message shows the difference.
        WorkspaceError: the file is damaged.
    """
    if not path.is_file():
        return CalibrationState.nothing(measured)
    try:
        content = _read(path)
        before = content["measured"]
        counts = CalibrationCounts.from_plain(content["counts"])
        state = CalibrationState(counts, content["done"], content["unknown"], dict(content["failed"]))
        fits = counts.images + len(state.failed) == state.done
        fits &= (counts.classes, counts.steps, counts.block) == (
            len(before["classes"]),
            before["steps"],
            before["block"],
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise WorkspaceError(f"{path} is damaged: {error}; remove it to count from the start") from error
    if not fits:
        raise WorkspaceError(f"{path} is damaged: its numbers contradict each other; remove it to count from the start")
    refuse_other(path, before, measured)
    return state


def _read(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, expected at most {MAX_BYTES}")
    content = parse_json(path.read_bytes())
    if content["kind"] != KIND:
        raise ValueError(f"it is a {content['kind']}, expected a {KIND}")
    return dict(content)


def refuse_other(path: Path, before: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Never go on with, or write over, what was measured otherwise.

    Raises:
        ForeignSettingsError: they differ; the message shows the difference.
    """
    if before != measured:
        raise ForeignSettingsError(
            f"{path} is of another calibration:\n{settings_difference(before, measured)}\n"
            f"choose another --out, or remove it if it is not wanted any more"
        )
