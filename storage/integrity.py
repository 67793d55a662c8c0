"""Proofs that a file at rest is whole, from the file alone: a label by its PNG checksums, a ledger by SQLite's check.

Whether a whole file is also the one that was meant is asked elsewhere. It never writes.
"""

import contextlib
import io
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.broken_ledger import broken_ledger, is_broken
from storage.errors import ImageError, LabelError, WorkspaceError
from storage.image_reader import check_size
from storage.label_png import GRAY, PALETTE, PROVENANCE_KEYWORD, SIGNATURE, parse_provenance


@dataclass(frozen=True, slots=True, eq=False)
class ProvenLabel:
    """What a whole label file holds."""

    size: tuple[int, int]
    """(height, width)."""
    counts: npt.NDArray[np.int64]
    """Pixels by value, as in the file: (256,) int64."""
    provenance: dict[str, str | float]
    """What it says that it was made with; empty where it does not say."""
    _image: Image.Image

    @property
    def values(self) -> npt.NDArray[np.uint8]:
        """(height, width) uint8, as in the file; made when asked for, as it takes a fifth of the time of decoding."""
        return np.array(self._image, dtype=np.uint8)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of a PNG's chunks, each once its checksum was found right."""
    if not content.startswith(SIGNATURE):
        raise LabelError("is no PNG file")
    view, position, kind = memoryview(content), len(SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise LabelError(f"is cut off after {len(content)} bytes")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            raise LabelError(f"is cut off after {len(content)} bytes, or the length of a chunk has changed")
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            name = kind.decode("ascii", "backslashreplace")
            raise LabelError(f"bytes have changed: the checksum of chunk {name} at byte {position} is wrong")
        yield kind, view[position + 8 : end]
        position = end + 4
    if position != len(content):
        raise LabelError(f"holds {len(content) - position} bytes behind its end")


def _check_header(header: memoryview) -> None:
    if len(header) != 13:
        raise LabelError(f"has a header of {len(header)} bytes, expected 13")
    width, height, depth, color_type = struct.unpack_from(">IIBB", header)
    if color_type not in (GRAY, PALETTE) or (color_type == GRAY and depth != 8):
        raise LabelError(f"is a PNG of colour type {color_type} and {depth} bits, expected 8-bit gray or a palette")
    try:
        check_size(Path("it"), height, width)
    except ImageError as error:
        raise LabelError(str(error)) from error


def read_proven_label(content: bytes) -> ProvenLabel:
    """Decode a label file, once every byte of it has proven to be as it was written.

    Pillow alone does not look at the checksums of the pixels' chunks, nor at what follows the last row.

    Args:
        content: all of the file.

    Raises:
        LabelError: it is cut off, changed, or no label at all; the message does not name the file.
    """
    provenance: dict[str, str | float] = {}
    for position, (kind, chunk) in enumerate(_chunks(content)):
        if (position == 0) != (kind == b"IHDR"):
            raise LabelError("does not start with its header, or has more than one")
        if kind == b"IHDR":
            _check_header(chunk)
        elif kind == b"tEXt":
            keyword, _, text = bytes(chunk).partition(b"\0")
            if keyword == PROVENANCE_KEYWORD.encode():
                provenance = parse_provenance(text)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise LabelError(f"cannot be decoded: {error}") from error
    return ProvenLabel((image.height, image.width), np.array(image.histogram(), np.int64), provenance, image)


def check_ledger(path: Path) -> None:
    """Let SQLite look at every page of a ledger.

    Raises:
        BrokenLedgerError: the ledger is damaged.
        WorkspaceError: it cannot be read.
    """
    if not path.stat().st_size:  # SQLite takes it for a new database, with which all is well
        raise broken_ledger(path, f"the ledger {path} is empty")
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
            problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        what = f"cannot read the ledger {path}: {error}"
        if is_broken(error):
            raise broken_ledger(path, what) from error
        raise WorkspaceError(
            f"{what}; if its run was killed, run the same command again, or verify with --repair"
        ) from error
    if problems != ["ok"]:
        found = " ".join("; ".join(problems).split())
        raise broken_ledger(path, f"the ledger {path} is damaged: {found}")
