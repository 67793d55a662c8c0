"""What a teacher is called by: a kind and a place, as in `onnx:FILE`, or the path of a file of ours.

Nothing here opens anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from storage.errors import SettingsError

Kind = Literal["hf", "onnx", "exported", "python"]

FORMS = "hf:FOLDER, hf:NAME@COMMIT, onnx:FILE, exported:FILE, python:MODULE:FACTORY"
"""How teachers of other libraries are called."""


_ENDINGS = frozenset({".toml", ".json", ".pt", ".pth", ".safetensors"})
"""Of files that are read without a kind; the name of a schema may hold a dot, too."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A teacher of another library."""

    kind: Kind
    where: str
    """A folder, a file, a name with its revision, or a module with the name of a function of it."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a reference.

        Returns:
            None: it is of no kind, and so a path or the name of a network.

        Raises:
            SettingsError: it is of a kind, and nothing follows.
        """
        kind, colon, where = text.partition(":")
        known = next((each for each in get_args(Kind) if each == kind), None)
        if not colon or known is None:
            return None
        if not where:
            raise SettingsError(f"teacher {text!r} does not say which; expected one of {FORMS}")
        return cls(known, where)

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"

    def beside(self, folder: Path) -> "Reference":
        """The same with its path, if it is one, taken from a folder."""
        is_folder = self.kind == "hf" and ("@" not in self.where or (folder / self.where).is_dir())
        is_path = is_folder or self.kind in ("onnx", "exported")
        return Reference(self.kind, str(folder / self.where)) if is_path else self


def resolved(teacher: str, folder: Path) -> str:
    """What a teacher or a schema is called by, with its path, if it has one, taken from a folder.

    A file that is not there is looked for in no other folder. A folder of the name of a network or a schema is not
    meant by it.

    Args:
        teacher: a reference, a path, or the name of a network or of a schema.
        folder: where it was said, absolute.
    """
    reference = Reference.parse(teacher)
    if reference is not None:
        return str(reference.beside(folder))
    path = folder / teacher
    is_path = path.is_file() or path.suffix in _ENDINGS or path.parent != folder
    return str(path) if is_path else teacher
