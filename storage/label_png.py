"""Label PNGs: 8-bit files whose values are class indices or source ids, small to write and strict to read.

The bytes depend on the label, its provenance and its form, never on the clock. Files are published by `workspace`.
"""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import deflate
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from zlib_ng import zlib_ng

from storage.errors import LabelError, SettingsError, WorkspaceError
from storage.image_reader import check_size
from storage.json_text import parse_json
from storage.label_map import LabelMap
from storage.object_io import read_file
from storage.paths import is_remote
from storage.schema import ClassSchema, Ids

PROVENANCE_KEYWORD = "autocoarse"
"""Keyword of the text chunk that says what a label was made with."""

PROVENANCE_LIMIT = 4096
"""Largest provenance in bytes; Pillow refuses text chunks above 1 MB, and 20,000 labels must stay small."""

Preset = Literal["fast", "small", "smallest"]
"""How much time a label PNG may take, for fewer bytes; the pixels are the same."""


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """How label maps are written: their bytes, never which class a pixel has.

    Raises:
        SettingsError: there is no such preset.
    """

    preset: Preset = "fast"
    palette: bool = False
    """Write a palette PNG that viewers show in the class colours; its indices are the same values. Readers that turn
    palettes into colours (OpenCV, torchvision) get colours; those that keep indices (Pillow) get the values."""
    ids: Ids = "class"
    """`source` writes the schema's source ids, the first of each class, for the data set's own tools."""

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise SettingsError(
                f"label preset {self.preset!r}: there is none of that name; choose one of {', '.join(get_args(Preset))}"
            )


DEFAULT_FORMAT = LabelFormat()
"""Gray values that are class indices, in the least time."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""What every PNG starts with."""

GRAY, PALETTE = 0, 3
"""The colour types of a PNG that labels may have."""

_FILTER_NONE, _FILTER_UP = 0, 2

_SAMPLED_PIXELS = 1 << 19
"""Maps above this size are sampled to choose their filter; below, both are tried."""
_BAND, _BAND_EVERY = 16, 16
"""A sample is one in 16 bands of 16 rows."""
_SAMPLE_FAVOUR = 0.95
"""The first row of a band has none above to repeat, which makes "none" look about 5 % worse than it is."""


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _filtered(values: npt.NDArray[np.uint8], kind: int) -> npt.NDArray[np.uint8]:
    rows = np.empty((values.shape[0], values.shape[1] + 1), np.uint8)
    rows[:, 0] = kind
    if kind == _FILTER_UP:
        rows[0, 1:] = values[0]
        np.subtract(values[1:], values[:-1], out=rows[1:, 1:])  # modulo 256, as the PNG standard asks
    else:
        rows[:, 1:] = values
    return rows


def _zlib(rows: npt.NDArray[np.uint8], level: int, strategy: int) -> bytes:
    compressor = zlib_ng.compressobj(level, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, 9, strategy)
    return compressor.compress(rows) + compressor.flush()


def _search(rows: npt.NDArray[np.uint8]) -> bytes:
    return _zlib(rows, 9, zlib_ng.Z_DEFAULT_STRATEGY)


def _choose_filter(none: npt.NDArray[np.uint8], up: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The filtered rows that compress better, judged by a sample."""
    if none.size <= _SAMPLED_PIXELS:
        return up if len(_search(up)) < len(_search(none)) else none
    sample = np.arange(len(none)) // _BAND % _BAND_EVERY == _BAND_EVERY // 2
    if not sample.any():  # a few very long rows
        return none
    return up if len(_search(up[sample])) < _SAMPLE_FAVOUR * len(_search(none[sample])) else none


# Measured on maps like a teacher's, 1920x1080, 19 classes, 5 % ignored (benchmarks/label_png.py); bytes and time
# against Pillow's default. Filter "up" with run lengths: 0.86x in 0.15x of the time; zlib-ng gives the bytes that zlib
# gives, in a third of its time. Level 9 of zlib-ng, filter "none": 0.72x in 2.4x; zlib's own is 2 % larger and takes
# 2.5 times as long. Level 12 of libdeflate: 0.65x in 49x. Long matches with the row above make "none" the better filter
# by 10 % where borders are ragged; "up" is better by as much where nothing is ignored. Tried and left out: another
# filter for each band of rows (mostly larger), smaller windows, other strategies and levels, isal (larger), and zopfli
# (3 to 5 % below libdeflate in 3 to 6 times its time). Both libraries release the GIL while they compress.
def _compress(values: npt.NDArray[np.uint8], preset: Preset) -> bytes:
    """The pixels as a zlib stream; each preset's is at most as long as that of the preset before it."""
    up = _filtered(values, _FILTER_UP)
    fast = _zlib(up, 6, zlib_ng.Z_RLE)
    if preset == "fast":
        return fast
    none = _filtered(values, _FILTER_NONE)
    if preset == "small":
        return min(fast, _search(_choose_filter(none, up)), key=len)
    small, rows = min(((_search(rows), rows) for rows in (none, up)), key=lambda pair: len(pair[0]))
    return min(fast, small, bytes(deflate.zlib_compress(rows, 12)), key=len)


def _file_values(
    label: LabelMap, form: LabelFormat, schema: ClassSchema | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    """The values to write, and their colours, (entries, 3) uint8, where a palette is asked for."""
    if form.ids == "class" and not form.palette:
        return label.values, None
    if schema is None:
        wanted = "source ids" if form.ids == "source" else "the class colours"
        raise LabelError(f"cannot write {wanted} of a label map without its class schema; pass schema")
    if label.num_classes != len(schema):
        raise LabelError(
            f"label map of {label.num_classes} classes, expected the {len(schema)} of class schema {schema.name!r}; "
            f"pass the schema that the label was made with"
        )
    values, colors = label.values, schema.palette
    if form.ids == "source":
        values, colors = schema.index_to_source[values], colors[schema.source_to_index]
    return values, colors[: int(values.max()) + 1] if form.palette else None


def encode_label_png(
    label: LabelMap,
    provenance: Mapping[str, str | float] | None = None,
    form: LabelFormat = DEFAULT_FORMAT,
    schema: ClassSchema | None = None,
) -> bytes:
    """Encode a label map as an 8-bit PNG, gray or palette, never interlaced.

    Args:
        label: what to write.
        provenance: what it was made with; stored as JSON in a text chunk.
        form: how it is written; `fast` is smaller than Pillow's default and many times faster, the other presets
            are smaller and slower (see benchmarks/label_png.py).
        schema: the classes of the label; needed for a palette and for source ids.

    Returns:
        The file's bytes, the same for the same arguments and versions of zlib-ng and libdeflate.

    Raises:
        LabelError: the provenance is larger than `PROVENANCE_LIMIT`; or the schema is missing or another label's.
        SchemaError: the schema has no source id for ignore.
    """
    values, colors = _file_values(label, form, schema)
    color_type = GRAY if colors is None else PALETTE
    parts = [
        SIGNATURE,
        _chunk(b"IHDR", struct.pack(">IIBBBBB", label.width, label.height, 8, color_type, 0, 0, 0)),
    ]
    if colors is not None:
        parts.append(_chunk(b"PLTE", colors.tobytes()))
    if provenance:
        text = json.dumps(provenance, sort_keys=True).encode("ascii")  # JSON escapes all but ASCII
        if len(text) > PROVENANCE_LIMIT:
            raise LabelError(f"provenance of {len(text)} bytes, expected at most {PROVENANCE_LIMIT}")
        parts.append(_chunk(b"tEXt", PROVENANCE_KEYWORD.encode() + b"\0" + text))
    parts += [_chunk(b"IDAT", _compress(values, form.preset)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def read_label_values(path: Path) -> npt.NDArray[np.uint8]:
    """Read the raw values of a label file: (height, width) uint8, gray values or palette indices.

    Raises:
        LabelError: it is no PNG of 8-bit values; colours are refused, as are gray files of another depth, whose
            values a reader would stretch.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[npt.NDArray[np.uint8], dict[str, str | float]]:
    """The raw values of a label file, and its provenance."""
    try:
        whole = read_file(path) if is_remote(path) else None  # in one request; on the disk the head may do
        with path.open("rb") if whole is None else io.BytesIO(whole) as file:
            header = file.read(26)
        if len(header) < 26 or header[:8] != SIGNATURE:
            raise LabelError(f"{path}: is no PNG file; labels are 8-bit PNGs of class indices")
        width, height, depth, color_type = struct.unpack(">IIBB", header[16:26])
        check_size(path, height, width)
        if color_type not in (GRAY, PALETTE) or (color_type == GRAY and depth != 8):
            raise LabelError(
                f"{path}: PNG of colour type {color_type} and {depth} bits; expected 8-bit gray, or a palette whose "
                f"indices are the classes. If it holds class colours, turn them into class indices first"
            )
        with Image.open(path if whole is None else io.BytesIO(whole), formats=["PNG"]) as image:
            values = np.array(image, dtype=np.uint8)
            return values, parse_provenance(image.info.get(PROVENANCE_KEYWORD, ""))
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        if isinstance(error, LabelError | FileNotFoundError | WorkspaceError):
            raise
        raise LabelError(
            f"{path}: cannot be read as a label: {error}; if a RUN holds it, `autocoarse verify RUN --repair` returns "
            f"it to the plan"
        ) from error


def read_label_png(
    path: Path, schema: ClassSchema, ids: Ids = "class", size: tuple[int, int] | None = None
) -> LabelMap:
    """Read a label file as class indices.

    Args:
        path: an 8-bit gray or palette PNG.
        schema: the classes it is read as.
        ids: what its values are.
        size: height and width that it must have; any where None.

    Returns:
        The label; source ids that the schema does not know are ignore, and counted in `unknown`.

    Raises:
        LabelError: it cannot be read, holds a value that is no class index, has another size, or says that its source
            ids are of other classes; the message names the file.
    """
    values, provenance = _read(path)
    if size is not None and values.shape != size:
        raise LabelError(
            f"{path}: is {values.shape[1]}x{values.shape[0]}, expected {size[1]}x{size[0]}; "
            f"a label must have the size of its image"
        )
    if ids == "source" and provenance.get("classes", schema.digest) != schema.digest:
        raise LabelError(
            f"{path}: holds source ids of other classes than those of {schema.name!r}; a RUN keeps its own in "
            f"classes.json: give that as --classes"
        )
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
    file = io.BytesIO(read_file(path))
    try:
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            return parse_provenance(image.info.get(PROVENANCE_KEYWORD, ""))
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise LabelError(f"{path}: cannot be read as a PNG: {error}") from error


def parse_provenance(text: str | bytes) -> dict[str, str | float]:
    """What a label was made with, from the content of its text chunk; empty where that says nothing."""
    try:
        content = parse_json(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
