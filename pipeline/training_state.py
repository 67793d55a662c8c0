"""What a training run leaves on disk: its settings, its log, and the state from which it goes on after a stop.

The checkpoint that others use is written by `teacher.checkpoint`.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.settings import settings_difference
from storage.errors import CheckpointError, ForeignSettingsError, WorkspaceError
from storage.workspace import write_atomically


class TrainingFolder:
    """The paths of a training run, and the reading and writing of what is there.

    Args:
        root: the run's folder; it exists.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "settings.toml"
        self.checkpoint = root / "checkpoint.pt"
        self.state = root / "training_state.pt"
        self.log = root / "log.jsonl"
        self.metrics = root / "metrics.json"

    def load_state(self, decisive: Mapping[str, object]) -> dict[str, Any] | None:
        """The state of an earlier run with the same settings; None where there is none.

        Raises:
            ForeignSettingsError: it was made with other settings, or from other labels.
            CheckpointError: the file is damaged.
        """
        if not self.state.is_file():
            if self.checkpoint.is_file():
                raise ForeignSettingsError(
                    f"{self.checkpoint} is there but not the state of the run that made it; choose another --out"
                )
            return None
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
            before = state["settings"]
        except Exception as error:
            raise CheckpointError(
                f"{self.state}: cannot be read ({type(error).__name__}); remove it to train from the start"
            ) from error
        if difference := settings_difference(before, decisive):
            raise ForeignSettingsError(
                f"{self.root} holds a training run with other settings:\n{difference}\n"
                f"choose another --out, or repeat the settings that are there"
            )
        return dict(state)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable.
        """
        content = io.BytesIO()
        torch.save(dict(state), content)
        write_atomically(self.state, content.getvalue())

    def rewind_log(self, step: int) -> None:
        """Forget what was logged after a step: it will be done, and logged, again."""
        if self.log.is_file():
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _logged_step(line) <= step]
            write_atomically(self.log, "".join(f"{line}\n" for line in kept).encode())

    def append_log(self, entry: Mapping[str, object]) -> None:
        """Add a line to the log.

        Raises:
            WorkspaceError: the disk is full or the file is not writable.
        """
        try:
            with self.log.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise WorkspaceError(
                f"cannot write {self.log}: {error.strerror}; run the same command again to go on from the last state"
            ) from error

    def save_metrics(self, metrics: Mapping[str, object]) -> None:
        """Write what the run ended with.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable.
        """
        write_atomically(self.metrics, json.dumps(metrics, indent=1).encode())

    def load_metrics(self) -> dict[str, Any] | None:
        """What the run ended with; None where that is not known yet, or the file is damaged."""
        try:
            content = json.loads(self.metrics.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) and {"validated", "validation"} <= content.keys() else None


def _logged_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut off by the stop
