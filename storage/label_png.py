"""Label PNGs: 8-bit gray files whose values are class indices, small to write and strict to read.

The bytes depend on the label and its provenance alone, never on the clock. Files are published by `workspace`.
"""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from storage.errors import LabelError
from storage.image_reader import check_size
from storage.label_map import LabelMap
from storage.schema import ClassSchema, Ids

PROVENANCE_KEYWORD = "autocoarse"
"""Keyword of the text chunk that says what a label was made with."""

PROVENANCE_LIMIT = 4096
"""Largest provenance in bytes; Pillow refuses text chunks above 1 MB, and 20,000 labels must stay small."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE, _FILTER_UP = 0, 3, 2


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def encode_label_png(label: LabelMap, provenance: Mapping[str, str | float] | None = None) -> bytes:
    """Encode a label map as an 8-bit gray PNG.

    Rows are filtered with "up" and compressed with run lengths only: vertical class boundaries vanish, and what is
    left is runs of zeros. On label maps this is smaller than adaptive filtering at the default level and several
    times faster (see benchmarks/label_size.py).

    Args:
        label: what to write.
        provenance: what it was made with; stored as JSON in a text chunk.

    Returns:
        The file's bytes.

    Raises:
        LabelError: the provenance is larger than `PROVENANCE_LIMIT`.
    """
    values = label.values
    filtered = np.empty((label.height, label.width + 1), np.uint8)
    filtered[:, 0] = _FILTER_UP
    filtered[0, 1:] = values[0]
    np.subtract(values[1:], values[:-1], out=filtered[1:, 1:])  # modulo 256, as the PNG standard asks
    compressor = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    pixels = compressor.compress(filtered.tobytes()) + compressor.flush()

    parts = [
        _SIGNATURE,
        _chunk(b"IHDR", struct.pack(">IIBBBBB", label.width, label.height, 8, _GRAY, 0, 0, 0)),
    ]
    if provenance:
        text = json.dumps(provenance, sort_keys=True).encode("ascii")  # JSON escapes all but ASCII
        if len(text) > PROVENANCE_LIMIT:
            raise LabelError(f"provenance of {len(text)} bytes, expected at most {PROVENANCE_LIMIT}")
        parts.append(_chunk(b"tEXt", PROVENANCE_KEYWORD.encode() + b"\0" + text))
    parts += [_chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"".join(parts)


def read_label_values(path: Path) -> npt.NDArray[np.uint8]:
    """Read the raw values of a label file: (height, width) uint8, gray values or palette indices.

    Raises:
        LabelError: it is no PNG of 8-bit values; colours are refused, as are gray files of another depth, whose
            values a reader would stretch.
    """
    try:
        with path.open("rb") as file:
            header = file.read(26)
        if len(header) < 26 or header[:8] != _SIGNATURE:
            raise LabelError(f"{path}: is no PNG file; labels are 8-bit PNGs of class indices")
        width, height, depth, color_type = struct.unpack(">IIBB", header[16:26])
        check_size(path, height, width)
        if color_type not in (_GRAY, _PALETTE) or (color_type == _GRAY and depth != 8):
            raise LabelError(
                f"{path}: PNG of colour type {color_type} and {depth} bits; expected 8-bit gray, or a palette whose "
                f"indices are the classes. If it holds class colours, turn them into class indices first"
            )
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        if isinstance(error, LabelError | FileNotFoundError):
            raise
        raise LabelError(f"{path}: cannot be read as a label: {error}") from error


def read_label_png(path: Path, schema: ClassSchema, ids: Ids = "class") -> LabelMap:
    """Read a label file as class indices.

    Args:
        path: an 8-bit gray or palette PNG.
        schema: the classes it is read as.
        ids: what its values are.

    Returns:
        The label; source ids that the schema does not know are ignore, and counted in `unknown`.

    Raises:
        LabelError: it cannot be read, or holds a value that is no class index; the message names the file.
    """
    values = read_label_values(path)
    unknown = int(np.count_nonzero(schema.unknown_source_ids[values])) if ids == "source" else 0
    try:
        return LabelMap(schema.to_indices(values, ids), len(schema), unknown)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def read_provenance(path: Path) -> dict[str, str | float]:
    """What a label was made with, as written by `encode_label_png`; empty where the file does not say.

    Raises:
        LabelError: it is no whole PNG.
        OSError: the file cannot be read at all.
    """
    file = io.BytesIO(path.read_bytes())
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            text = image.info.get(PROVENANCE_KEYWORD, "")
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise LabelError(f"{path}: cannot be read as a PNG: {error}") from error
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
