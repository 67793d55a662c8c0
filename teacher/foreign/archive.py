"""The archives that torch writes, zip files of few kinds of members, read with limits and without unpickling anything.

What the members mean is not known here.
"""

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from storage.errors import CheckpointError, MissingFileError

MAX_MEMBERS = 100_000
MAX_TEXT_BYTES = 256 * 2**20
"""Of all members that are compressed, together, once they are not: torch compresses source text only."""


class Archive:
    """An archive in memory, its members without the folder around them.

    Args:
        path: the file.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no archive, is damaged, or would become far larger than it is.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingFileError(f"no exported network at {path}; check the path")
        self.path = path
        try:
            # read once: what is checked is what is used
            self._zip = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f"{path} is no exported network ({error}): expected what torch.export.save or torch.jit.save wrote. If "
                f"it was cut short, copy it again; a file of weights alone is no network"
            ) from error
        members = [info for info in self._zip.infolist() if not info.is_dir()]
        self._check(members)
        root = members[0].filename.partition("/")[0] + "/"
        if not all(info.filename.startswith(root) for info in members):
            raise CheckpointError(f"{path} is no exported network: its members are not in one folder")
        self._members = {info.filename.removeprefix(root): info for info in members}

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        if not 0 < len(members) <= MAX_MEMBERS or len({info.filename for info in members}) < len(members):
            raise CheckpointError(
                f"{self.path} is no exported network: it has {len(members)} members, or one of them twice"
            )
        expanded = sum(info.file_size for info in members if info.compress_type != zipfile.ZIP_STORED)
        stored = sum(info.file_size for info in members if info.compress_type == zipfile.ZIP_STORED)
        held = self.path.stat().st_size
        if expanded > MAX_TEXT_BYTES or stored > held:
            raise CheckpointError(
                f"{self.path} has {held} bytes, and would become {expanded + stored}: no export of torch does, so it "
                f"is not opened"
            )
        for info in members:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                raise CheckpointError(
                    f"{self.path}: {info.filename!r} is packed as torch packs nothing; it is not read"
                )

    def names(self, prefix: str = "") -> list[str]:
        """Names of the members that begin so, in the archive's order."""
        return [name for name in self._members if name.startswith(prefix)]

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes of a member.

        Raises:
            CheckpointError: there is none of that name.
        """
        return self._member(name).file_size

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            CheckpointError: there is none of that name, or it is damaged.
        """
        try:
            return self._zip.read(self._member(name))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise CheckpointError(
                f"{self.path}: its member {name!r} is damaged ({error}); copy the file again"
            ) from error

    def read_text(self, name: str) -> str:
        """The content of a member that is text.

        Raises:
            CheckpointError: as `read`, or it is no UTF-8.
        """
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: its member {name!r} is no text; it is damaged") from error

    def rebuilt(self, wanted: Callable[[str], bool]) -> io.BytesIO:
        """An archive made anew of some of the members, so that no other reader can see in it what was not seen here."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as made:
            for name in filter(wanted, self._members):
                made.writestr(f"archive/{name}", self.read(name))
        file.seek(0)
        return file

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise CheckpointError(f"{self.path} is no exported network, or is damaged: {name!r} is missing in it")
        return self._members[name]
