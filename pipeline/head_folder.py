"""What a fit of a scale attention leaves on disk: where each thing lies, and what of it is read again.

The fit itself is in `head_fitting`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.atomic_file import as_ours
from storage.errors import WorkspaceError
from storage.json_text import parse_json

DESCRIPTION = "description"
"""The report's entry with the hash of the teacher's description as it was written, sha256 in hexadecimal."""

_TOLD = ("head", "scales", "trained_on", "judged_on", "fusions")
"""What a report says beside the question."""


@dataclass(frozen=True, slots=True)
class HeadFolder:
    """The files of a fit."""

    root: Path

    @property
    def settings(self) -> Path:
        """The settings, by which the folder is known as that of a fit."""
        return self.root / "settings.toml"

    @property
    def head(self) -> Path:
        """The head."""
        return self.root / "attention.safetensors"

    @property
    def teacher(self) -> Path:
        """The description of the teacher with its head."""
        return self.root / "teacher.toml"

    @property
    def report(self) -> Path:
        """What was done, and the figures; it is written last."""
        return self.root / "fit.json"

    @property
    def logits(self) -> Path:
        """Folder of the teacher's logits, as long as they are needed."""
        return self.root / "logits"

    def described(self) -> str | None:
        """Hash of the description that is there, as `DESCRIPTION`; None: there is none.

        Raises:
            WorkspaceError: it cannot be read.
        """
        try:
            return hashlib.sha256(self.teacher.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise as_ours(f"cannot read {self.teacher}", error) from error

    def read_report(self) -> dict[str, Any] | None:
        """What the report says; None: there is none.

        Raises:
            WorkspaceError: it cannot be read, or is something else.
        """
        try:
            found = parse_json(self.report.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise as_ours(f"cannot read {self.report}", error) from error
        except ValueError as error:
            raise WorkspaceError(f"{self.report} is damaged; remove it to fit the head again") from error
        if not isinstance(found, dict) or not isinstance(found.get("question"), dict):
            raise WorkspaceError(f"{self.report} is no report of a fit; choose another --out")
        if lacking := [name for name in _TOLD if name not in found]:
            raise WorkspaceError(f"{self.report} says nothing of {', '.join(lacking)}; remove it to fit the head again")
        return found
