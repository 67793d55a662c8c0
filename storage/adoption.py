"""Files of one run that become another's as they are: second names of the same files, or copies of them.

What runs write replaces files and never changes them, so that two runs may share a file and neither sees what the other
does. Where files go, and that they appear whole or not at all, is the workspace's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from storage.errors import LabelError
from storage.object_io import file_digest


@dataclass(frozen=True, slots=True)
class Adopted:
    """A file of another run that is to be taken."""

    source: Path
    path: Path
    """Where it goes."""
    sha256: str = ""
    """Of the file that is wanted; empty: whatever is there."""

    def stage(self, target: Path) -> bool:
        """Link the file where the file system can do so, or copy it, under a name for the time being.

        Args:
            target: that name; nothing must be there.

        Returns:
            Whether it is a link.

        Raises:
            LabelError: it is missing, cannot be read, or is not the one that is wanted.
            OSError: the target cannot be written.
        """
        linked = self._link(target) or self._copy(target)
        try:
            found = file_digest(target) if self.sha256 else ""
        except OSError as error:
            raise LabelError(f"{self.source}: cannot be read: {error.strerror or error}") from error
        if found != self.sha256:
            raise LabelError(f"{self.source}: the file is damaged or was replaced, its hash is not the one recorded")
        return linked

    def _link(self, target: Path) -> bool:
        try:
            if not self.source.is_symlink():  # a second name of the link itself would lead astray
                os.link(self.source, target)
                return True
        except (OSError, NotImplementedError):
            pass  # another disk, no such links there, not allowed; or no such file, as reading will tell
        return False

    def _copy(self, target: Path) -> bool:
        try:
            content = self.source.read_bytes()
        except OSError as error:
            raise LabelError(f"{self.source}: cannot be read: {error.strerror or error}") from error
        with target.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return False
