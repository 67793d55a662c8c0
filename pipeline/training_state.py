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
from pipeline.training_settings import YOUNGER
from storage.atomic_file import as_ours
from storage.errors import CheckpointError, ForeignSettingsError
from storage.json_text import parse_json
from storage.workspace import remove_partial_files, write_atomically


class TrainingFolder:
    """The paths of a training run, and the reading and writing of what is there.

    Args:
        root: the run's folder; it exists.
        keep: saved states that stay.
    """

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root = root
        self._keep = keep
        self.settings = root / "settings.toml"
        self.checkpoint = root / "checkpoint.pt"
        self.raw_checkpoint = root / "raw.pt"
        self.best_checkpoint = root / "best.pt"
        self.states = root / "states"
        self.index = root / "index.npz"
        self.validation_index = root / "validation.npz"
        self.log = root / "log.jsonl"
        self.tensorboard = root / "tensorboard"
        self.metrics = root / "metrics.json"

    def has_state(self) -> bool:
        """Whether an earlier run has saved a state."""
        return bool(self._saved())

    def load_state(self, decisive: Mapping[str, object]) -> tuple[dict[str, Any] | None, list[str]]:
        """The latest state of an earlier run with the same settings that can be read.

        Returns:
            The state, None where there is none; and what is worth saying about states that cannot be read.

        Raises:
            ForeignSettingsError: it was made with other settings, or from other labels.
            CheckpointError: there are states, and none can be read.
        """
        found = self._saved()
        if not found and self.checkpoint.is_file():
            raise ForeignSettingsError(
                f"{self.checkpoint} is there but not the state of the run that made it; choose another --out"
            )
        damaged = []
        for path in reversed(found):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                before = state["settings"]
            except Exception as error:  # noqa: BLE001 - a torn file makes torch raise nearly anything
                damaged.append(f"{path} cannot be read ({type(error).__name__})")
                continue
            if difference := settings_difference({**YOUNGER, **before}, {**YOUNGER, **decisive}):
                # no flag has that name
                difference = difference.replace("crops_together:", "crops_together (--batch x --devices x --nodes):")
                raise ForeignSettingsError(
                    f"{self.root} holds a training run with other settings:\n{difference}\n"
                    f"choose another --out, or repeat the settings that are there"
                )
            return dict(state), damaged
        if damaged:
            raise CheckpointError(f"{'; '.join(damaged)}; remove {self.states} to train from the start")
        return None, []

    def _saved(self) -> list[Path]:
        """The saved states, earliest first."""
        return sorted(self.states.glob("step-*.pt"))

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all, and remove all but the last few.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable; the earlier states are still there.
        """
        content = io.BytesIO()
        torch.save(dict(state), content)
        try:
            self.states.mkdir(exist_ok=True)
        except OSError as error:
            raise as_ours(f"cannot make {self.states}", error) from error
        latest = self.states / f"step-{state['step']:09d}.pt"
        write_atomically(latest, content.getvalue())
        # a state beyond this one is left of a run that went back to an earlier one
        outdated = [path for path in self._saved() if path <= latest][: -self._keep]
        for path in outdated:
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Throw away what a killed process left half written; only the process that has the folder may do this."""
        for folder in (self.root, self.states):
            remove_partial_files(folder)

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
            raise as_ours(f"cannot write {self.log}", error) from error

    def save_metrics(self, metrics: Mapping[str, object]) -> None:
        """Write what the run ended with.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable.
        """
        write_atomically(self.metrics, json.dumps(metrics, indent=1).encode())

    def load_metrics(self) -> dict[str, Any] | None:
        """What the run ended with; None where that is not known yet, or the file is damaged."""
        try:
            content = parse_json(self.metrics.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) and {"validated", "validation"} <= content.keys() else None


def _logged_step(line: str) -> float:
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut off by the stop
