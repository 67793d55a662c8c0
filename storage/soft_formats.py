"""What soft labels would take, in the formats that people keep them in; none of them is written by this project.

It counts bytes of probabilities; where these come from is another's business.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numcodecs
import numpy as np
import numpy.typing as npt

_ZSTD_LEVEL = 3
"""What zstd's and zarr's own default is."""


@dataclass(frozen=True, slots=True)
class SoftFormat:
    """One way of keeping probabilities."""

    name: str
    dtype: str
    top: int | None = None
    """Keep this many of the most likely classes, each an index and a probability in 8 bits; None: all classes."""

    def raw_bytes(self, pixels: int, classes: int) -> int:
        """Bytes without compression: exact."""
        if self.top is None:
            return pixels * classes * np.dtype(self.dtype).itemsize
        return pixels * min(self.top, classes) * 2

    def compressed_bytes(self, probabilities: npt.NDArray[np.float32]) -> int:
        """Bytes of one image with zstd, each class a chunk: whole images of many classes are more than zstd takes.

        Args:
            probabilities: (class, height, width), in [0, 1].
        """
        zstd = numcodecs.Zstd(level=_ZSTD_LEVEL)
        return sum(len(zstd.encode(np.ascontiguousarray(plane))) for plane in self._planes(probabilities))

    def _planes(self, probabilities: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.generic]]:
        if self.top is None:
            for plane in probabilities:
                yield _in_eight_bits(plane) if self.dtype == "uint8" else plane.astype(self.dtype)
            return
        left = probabilities.copy()
        for _ in range(min(self.top, len(left))):
            index = left.argmax(0)[None]
            yield index[0].astype(np.uint8)
            yield _in_eight_bits(np.take_along_axis(left, index, 0)[0])
            np.put_along_axis(left, index, np.float32(-1), 0)


def _in_eight_bits(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.round(plane * np.float32(255)).astype(np.uint8)


SOFT_FORMATS = (
    SoftFormat("fp32", "float32"),
    SoftFormat("fp16", "float16"),
    SoftFormat("uint8", "uint8"),
    SoftFormat("top3", "uint8", 3),
    SoftFormat("top2", "uint8", 2),
)
"""Probabilities of all classes in 32, 16 and 8 bits, and of the three or two most likely classes in 8."""
