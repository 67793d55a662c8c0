"""Reading photographs: size checked before decoding, every failure one kind of error with the file's name.

Pixels are taken as they are stored; an EXIF rotation is not applied, so that labels fit the stored pixels.
"""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from storage.errors import ImageError, WorkspaceError
from storage.object_io import FileInfo, file_info, read_file, read_head
from storage.paths import is_remote

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Files that are taken for images, in any case."""

MAX_PIXELS = 178_956_970
"""Largest image that is decoded; a compressed header may claim far more than memory holds."""

MAX_BYTES = 1_100_000_000
"""Largest image file that is read: `MAX_PIXELS` without compression take less, and what takes more is no image."""

_HEAD = 65536
"""Bytes that are read of an image in a store to learn its size."""

_FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF"]
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


def check_size(path: Path, height: int, width: int) -> None:
    """Refuse an image whose header claims no pixels, or more than `MAX_PIXELS`.

    Raises:
        ImageError: it does.
    """
    if not 0 < height * width <= MAX_PIXELS:
        raise ImageError(
            f"{path}: header says {width}x{height} = {height * width / 1e6:.0f} million pixels, "
            f"at most {MAX_PIXELS / 1e6:.0f} million are decoded; cut it into pieces first"
        )


def _open(source: Path | IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow's own limit is replaced by MAX_PIXELS, which refuses before anything is decoded
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=_FORMATS)


def read_content(path: Path) -> tuple[bytes, FileInfo]:
    """The bytes of an image file, on the disk or in a store, for `decode_image`; and its size and time before them.

    Raises:
        ImageError: the file is missing, cannot be read, or is too large.
        WorkspaceError: it is in a store that does not answer, or refuses.
    """
    try:
        info = file_info(path)
        if info.size > MAX_BYTES:
            raise ImageError(
                f"{path}: has {info.size / 1e6:.0f} MB, at most {MAX_BYTES / 1e6:.0f} MB are read as an image"
            )
        return read_file(path), info
    except WorkspaceError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: cannot be read as an image: {error.strerror or error}") from error


def read_image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) from an image's header, without decoding it.

    Raises:
        ImageError: the file is missing, no image, or claims to be too large.
        WorkspaceError: it is in a store that does not answer, or refuses.
    """
    if not is_remote(path):
        return _size_of(path, path)
    with suppress(ImageError):  # the head of a file has its size, but for photographs with much told before it
        return _size_of(path, io.BytesIO(read_head(path, _HEAD)))
    return _size_of(path, io.BytesIO(read_content(path)[0]))


def is_turned_by_exif(path: Path) -> bool:
    """Whether a readable image on the disk says by EXIF that it is to be turned or mirrored before it is shown.

    Only headers are read; PNGs are not asked, as theirs may stand behind the pixels.
    """
    with _open(path) as image:
        return image.format != "PNG" and image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _size_of(path: Path, source: Path | IO[bytes]) -> tuple[int, int]:
    try:
        with _open(source) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: header claims too many pixels: {error}; cut it into pieces first") from error
    except UnidentifiedImageError as error:  # its own message names the object in memory
        size = source.stat().st_size if isinstance(source, Path) else source.seek(0, io.SEEK_END)
        problem = f"it is none of {', '.join(_FORMATS)}" if size else "the file is empty"
        raise ImageError(f"{path}: cannot be read as an image: {problem}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from error
    check_size(path, height, width)
    return height, width


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image: (height, width, 3) uint8, red green blue.

    Raises:
        ImageError: the file is missing, truncated, no image, of more than 8 bits, or claims to be too large.
    """
    return decode_image(path, read_content(path)[0])


def decode_image(path: Path, content: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image that was read: (height, width, 3) uint8, red green blue.

    Args:
        path: where it is from, for messages.
        content: all of its file.

    Raises:
        ImageError: it is truncated, no image, of more than 8 bits, or claims to be too large.
    """
    _size_of(path, io.BytesIO(content))
    return _decode(path, content)


def _decode(path: Path, content: bytes, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image whose size is checked, made smaller to `size`, (height, width), where one is given."""
    try:
        with _open(io.BytesIO(content)) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise ImageError(
                    f"{path}: pixels are of mode {image.mode}; expected 8 bits a channel, convert it first"
                )
            if size is None:
                return np.array(image.convert("RGB"))
            image.draft(None, (2 * size[1], 2 * size[0]))  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size
            return np.array(image.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: cannot be decoded, the file is damaged or cut off: {error}") from error


def read_reduced(path: Path, longest: int) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Read an image made smaller; of a large JPEG at a fraction of the cost of the whole image.

    Args:
        path: of the image.
        longest: pixels of the longer side of what is returned; a smaller image stays as it is.

    Returns:
        (height, width, 3) uint8 RGB, of `reduced_size`; and the (height, width) of the whole image.

    Raises:
        ImageError: as `read_image`.
        WorkspaceError: it is in a store that does not answer, or refuses.
    """
    content = read_content(path)[0]
    size = _size_of(path, io.BytesIO(content))
    return _decode(path, content, reduced_size(size, longest)), size


def reduced_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """The (height, width) of an image made smaller, so that its longer side has at most so many pixels."""
    height, width = size
    ratio = min(1.0, longest / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))
