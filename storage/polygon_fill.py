"""Polygons as masks: the pixels whose centres lie inside, by the even-odd rule.

Labels are written as exact masks; people who correct them draw polygons too.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError
from storage.run_lengths import Mask

MAX_CORNERS = 100_000
"""Of one polygon; no hand draws more."""


def fill_polygon(coordinates: Sequence[float], size: tuple[int, int]) -> Mask:
    """The pixels of a polygon: (height, width) bool.

    Args:
        coordinates: x0, y0, x1, y1, ... in pixels; the first pixel's centre is at 0.5, 0.5. Not to be trusted.
        size: (height, width) of the image; what lies outside of it is cut off.

    Raises:
        LabelError: these are no corners of a polygon.
    """
    height, width = size
    if len(coordinates) % 2 or not 6 <= len(coordinates) <= 2 * MAX_CORNERS:
        raise LabelError(
            f"a polygon has {len(coordinates)} coordinates, expected x and y of 3 to {MAX_CORNERS} corners"
        )
    corners = np.asarray(coordinates, np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise LabelError("a polygon has a corner that is no number; draw it again")
    crossings = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = _rows_between(y0, y1, height)
        if rows.size:
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            # the first pixel whose centre is not left of the edge
            columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.intp)
            crossings[rows, columns] += 1  # an edge crosses a row once
    inside: Mask = np.cumsum(crossings[:, :width], axis=1) % 2 == 1
    return inside


def _rows_between(y0: float, y1: float, height: int) -> npt.NDArray[np.intp]:
    """Rows whose centres an edge passes; of two edges that meet on a centre only one has it."""
    low, high = sorted((y0, y1))
    first, stop = (int(np.clip(np.ceil(y - 0.5), 0, height)) for y in (low, high))
    return np.arange(first, stop)
