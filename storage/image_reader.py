"""Reading photographs: size checked before decoding, every failure one kind of error with the file's name.

Pixels are taken as they are stored; an EXIF rotation is not applied, so that labels fit the stored pixels.
"""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from storage.errors import ImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Files that are taken for images, in any case."""

MAX_PIXELS = 178_956_970
"""Largest image that is decoded; a compressed header may claim far more than memory holds."""

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


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow's own limit is replaced by MAX_PIXELS, which refuses before anything is decoded
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path, formats=_FORMATS)


def read_image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) from an image's header, without decoding it.

    Raises:
        ImageError: the file is missing, no image, or claims to be too large.
    """
    try:
        with _open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: header claims too many pixels: {error}; cut it into pieces first") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from error
    check_size(path, height, width)
    return height, width


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode an image: (height, width, 3) uint8, red green blue.

    Raises:
        ImageError: the file is missing, truncated, no image, of more than 8 bits, or claims to be too large.
    """
    read_image_size(path)
    try:
        with _open(path) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise ImageError(
                    f"{path}: pixels are of mode {image.mode}; expected 8 bits a channel, convert it first"
                )
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: cannot be decoded, the file is damaged or cut off: {error}") from error
