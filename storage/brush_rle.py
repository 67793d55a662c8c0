"""Label Studio's run lengths of a brush: a stream of bits that holds the four channels of a picture of one region.

Source: the format of `rle-pack` (thi.ng/umbrella), as label-studio-converter writes and reads it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError
from storage.run_lengths import Mask, count_runs

_CHANNELS = 4
_WORD = 8
"""Bits of a value."""
_SIZES = (3, 4, 8, 16)
"""Bits that a run's length may take."""
_LONGEST = 1 << 16
_OPAQUE = 128
"""A pixel is in the region from this alpha on; brushes have soft borders."""


def encode_brush(mask: Mask) -> list[int]:
    """A mask as Label Studio holds it: bytes, all four channels 255 inside and 0 outside.

    Args:
        mask: (height, width) bool.
    """
    runs = count_runs(mask.ravel()) * _CHANNELS
    values = np.arange(runs.size) % 2 * 255
    pieces = -(-runs // _LONGEST)
    lengths = np.full(int(pieces.sum()), _LONGEST)
    filled = pieces > 0
    lengths[np.cumsum(pieces)[filled] - 1] = (runs - (pieces - 1) * _LONGEST)[filled]
    # a run of one value: 1, the fourth size, length - 1 in 16 bits, the value in 8: 27 bits
    words = (0b111 << 24) | (lengths - 1 << _WORD) | np.repeat(values, pieces)
    codes = np.unpackbits(words.astype(">u4").view(np.uint8)).reshape(-1, 32)[:, 5:]
    header = f"{mask.size * _CHANNELS:032b}{_WORD - 1:05b}" + "".join(f"{size - 1:04b}" for size in _SIZES)
    bits = np.concatenate([np.frombuffer(header.encode(), np.uint8) - ord("0"), codes.ravel()])
    return np.packbits(bits).tolist()


class _Bits:
    """A stream of bits, read from its start."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def read(self, count: int) -> int:
        """The next bits as a number, the highest first."""
        end = self._at + count
        last = (end + 7) // 8
        if last > len(self._content):
            raise LabelError("a brush's run lengths end before its last pixel; it was cut off")
        word = int.from_bytes(self._content[self._at // 8 : last], "big")
        self._at = end
        return word >> (last * 8 - end) & ((1 << count) - 1)

    def read_values(self, count: int) -> npt.NDArray[np.uint8]:
        """The next values of 8 bits: (count,) uint8."""
        end = self._at + count * _WORD
        last = (end + 7) // 8
        if last > len(self._content):
            raise LabelError("a brush's run lengths end before its last pixel; it was cut off")
        bits = np.unpackbits(np.frombuffer(self._content, np.uint8, last - self._at // 8, self._at // 8))
        start = self._at % 8
        self._at = end
        return np.packbits(bits[start : start + count * _WORD])


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> Mask:
    """The mask of a brush that is not to be trusted: (height, width) bool, where alpha is at least 128.

    Args:
        rle: bytes, 0..255 each.
        size: (height, width) that it must have. Nothing of that size is made before the stream claims it.

    Raises:
        LabelError: it is of another size, of other words than bytes, or ends too early.
    """
    bits = _Bits(bytes(rle))
    total, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in _SIZES]
    if total != size[0] * size[1] * _CHANNELS or word != _WORD:
        raise LabelError(
            f"a brush holds {total} values of {word} bits, expected {size[0] * size[1] * _CHANNELS} of {_WORD}: four "
            f"channels of {size[1]}x{size[0]} pixels"
        )
    out = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        repeats = bits.read(1)
        stop = at + 1 + bits.read(sizes[bits.read(2)])
        if stop > total:
            raise LabelError(f"a brush's run lengths go on after its last value, {total}; it is damaged")
        out[at:stop] = bits.read(_WORD) if repeats else bits.read_values(stop - at)
        at = stop
    alpha = out[_CHANNELS - 1 :: _CHANNELS].reshape(size)
    return alpha >= _OPAQUE
