"""Bilinear resampling in parts: of a whole map, only the rows, or only the blocks, that are asked for.

A part knows its grid and from which part of another grid it is interpolated, so that one formula over whole maps
(`teacher.late_fusion`) also serves for parts. All is as `teacher.networks.layers.resize` has it: corners not aligned,
no antialiasing, borders repeated. Nothing is decided here.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from teacher.tables import table

Positions = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Part(Protocol):
    """Part of a grid."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the whole grid."""
        ...

    def on(self, size: tuple[int, int]) -> Self:
        """The part of a grid of another size from which this part is interpolated."""
        ...

    def interpolate(self, values: Tensor, source: Self) -> Tensor:
        """Values on this part, from those on the part of another grid that `on` gave."""
        ...

    def sample(self, maps: Tensor) -> Tensor:
        """Values on this part, from whole maps (class, h, w) of any size."""
        ...


def positions(targets: Indices, length: int, target_length: int) -> Positions:
    """Where the pixels of one axis lie on another: half-pixel centres, kept within the axis.

    Args:
        targets: pixels of the axis of `target_length`; those beyond its ends are taken for the last within.
        length: pixels of the axis on which the positions are.
        target_length: pixels of the targets' axis.

    Returns:
        Positions in [0, length - 1], exact but for rounding in float64.
    """
    within = np.clip(targets, 0, target_length - 1)
    return np.clip((within + 0.5) * (length / target_length) - 0.5, 0, length - 1)


def is_one_step(length: int, middle: int, target: int) -> bool:
    """Whether resizing an axis in two steps, length -> middle -> target, is the same as length -> target.

    Interpolation is linear between two neighbouring pixels. So the steps are one where both pixels of the middle that
    a target lies between are themselves between the same two pixels of the first axis. Doubled or trebled sizes, from
    a quarter of them, are such; 1.5 is not.
    """
    targets = np.arange(target)
    on_middle = positions(targets, middle, target)
    below, above = (positions(f(on_middle).astype(np.int64), length, middle) for f in (np.floor, np.ceil))
    # a target on a pixel of the middle needs only that one
    part = on_middle - np.floor(on_middle)
    between = (1 - part) * below + part * above
    slack = 1e-9  # positions that are whole numbers may miss them by rounding
    one_cell = np.ceil(above - slack) - np.floor(below + slack) <= 1
    return bool(one_cell.all() and np.allclose(between, positions(targets, length, target), rtol=0, atol=slack))


@lru_cache(maxsize=64)
def _taps(length: int, target_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels that each target lies between, int64, and the weight of the second, float32.

    As torch's own kernels compute them, so that a part equals the whole but for the order of rounding: the scale is
    rounded to float32, and the position once, as a fused multiply-add does.
    """
    scale = np.float64(np.float32(length) / np.float32(target_length))
    at = np.maximum(scale * (np.arange(target_length) + 0.5) - 0.5, 0).astype(np.float32)
    below = np.minimum(at.astype(np.int64), length - 1)
    above = np.minimum(below + 1, length - 1)
    part = (at - below.astype(np.float32)).clip(0, 1)
    # kept for later: who asks first may be in inference mode, and the next one may train, which takes no such tensors
    with torch.inference_mode(mode=False):
        return table(below, device), table(above, device), table(part, device)


@dataclass(frozen=True, slots=True)
class Stripe:
    """Whole rows of a grid, next to each other. Values on it are (..., row, width)."""

    size: tuple[int, int]
    start: int
    stop: int

    def on(self, size: tuple[int, int]) -> "Stripe":
        """As `Part.on`."""
        if size[0] == self.size[0]:
            return Stripe(size, self.start, self.stop)
        below, above, _ = _taps(size[0], self.size[0], torch.device("cpu"))
        return Stripe(size, int(below[self.start]), int(above[self.stop - 1]) + 1)

    def interpolate(self, values: Tensor, source: "Stripe") -> Tensor:
        """As `Part.interpolate`."""
        # across first: the source often has fewer rows
        if source.size[1] != self.size[1]:
            below, above, part = _taps(source.size[1], self.size[1], values.device)
            values = _mix(taken(values, below), taken(values, above), part)
        if source.size[0] != self.size[0]:
            below, above, part = (t[self.start : self.stop] for t in _taps(source.size[0], self.size[0], values.device))
            first, second = (values.index_select(-2, rows - source.start) for rows in (below, above))
            values = _mix(first, second, part[:, None])
        return values

    def sample(self, maps: Tensor) -> Tensor:
        """As `Part.sample`; maps may have further axes in front."""
        source = self.on((maps.shape[-2], maps.shape[-1]))
        return self.interpolate(maps[..., source.start : source.stop, :], source)


def _mix(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    # not torch.lerp, whose difference makes NaN of two scores that are both -inf; `first` is a fresh copy
    return first.mul_(1 - part).addcmul_(second, part)


class Runs:
    """Runs of `count` neighbouring pixels of an axis, and what they are interpolated from on other axes.

    Args:
        length: pixels of the axis.
        starts: the first pixel of each run, (run,); a run may reach beyond the ends, where the last pixel is repeated.
        count: pixels of a run.
        device: where the tables go.
        dtype: of the weights.
    """

    def __init__(self, length: int, starts: Indices, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self.length = length
        self.count = count
        self._starts = starts
        self._device, self.dtype = device, dtype
        self._sources: dict[int, tuple[Runs, Tensor]] = {}
        pixels = np.clip(starts + np.arange(count)[:, None], 0, length - 1)
        self.pixels = table(pixels, device)
        """(count, run) int64, within the axis."""

    def on(self, length: int) -> tuple["Runs", Tensor]:
        """The runs on another axis that these are interpolated from, and the weights.

        Returns:
            The source's runs, of k pixels, and the weights (k, count, run): of each source pixel in each pixel.
        """
        if length not in self._sources:
            at = positions(self._starts + np.arange(self.count)[:, None], length, self.length)
            starts = np.floor(at[0]).astype(np.int64)
            count = int((np.ceil(at[-1]).astype(np.int64) - starts).max()) + 1
            offsets = at - starts - np.arange(count)[:, None, None]
            weights = np.maximum(1 - np.abs(offsets), 0)  # bilinear: of a neighbour, what the distance leaves of 1
            source = Runs(length, starts, count, self._device, self.dtype)
            self._sources[length] = (source, table(weights, self._device, self.dtype))
        return self._sources[length]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a grid, all of one size, anywhere. Values on it are (class, row, column, block).

    The block comes last, so that a vector instruction works on as many blocks, each with weights of its own.
    Values that are not finite spread to the whole block: use stripes for those.
    """

    rows: Runs
    columns: Runs
    row: Tensor
    """Which of the runs of rows each block has, (block,) int64."""
    column: Tensor
    """As `row`, of the runs of columns."""

    @property
    def size(self) -> tuple[int, int]:
        """As `Part.size`."""
        return self.rows.length, self.columns.length

    def on(self, size: tuple[int, int]) -> "Blocks":
        """As `Part.on`."""
        if size == self.size:
            return self
        rows = self.rows if size[0] == self.rows.length else self.rows.on(size[0])[0]
        columns = self.columns if size[1] == self.columns.length else self.columns.on(size[1])[0]
        return Blocks(rows, columns, self.row, self.column)

    def interpolate(self, values: Tensor, source: "Blocks") -> Tensor:
        """As `Part.interpolate`."""
        if source.columns is not self.columns:
            weights = taken(self.columns.on(source.columns.length)[1], self.column)
            values = _weigh(values.unsqueeze(3), weights, 2)
        if source.rows is not self.rows:
            weights = taken(self.rows.on(source.rows.length)[1], self.row)
            values = _weigh(values.unsqueeze(2), weights.unsqueeze(2), 1)
        return values

    def sample(self, maps: Tensor) -> Tensor:
        """As `Part.sample`, in the precision of the runs."""
        source = self.on((maps.shape[-2], maps.shape[-1]))
        places = source.places()
        values = taken(maps.reshape(len(maps), -1), places.view(-1)).view(len(maps), *places.shape)
        return self.interpolate(values.to(self.rows.dtype), source)

    def places(self) -> Tensor:
        """Where the blocks' pixels are in the grid, its rows one after the other: (row, column, block) int64."""
        return taken(self.rows.pixels, self.row)[:, None] * self.size[1] + taken(self.columns.pixels, self.column)


def taken(values: Tensor, index: Tensor) -> Tensor:
    """Values (..., n) at an index (m,) of the last axis: (..., m)."""
    # several times as fast on a CPU as a selection by index along the last axis
    return values.gather(-1, index.expand(*values.shape[:-1], -1))


def _weigh(values: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Sum over an axis of values by weights (k, ...), which have the pixels that come instead of it."""
    total = values.select(axis, 0) * weights[0]
    for k in range(1, len(weights)):
        total.addcmul_(values.select(axis, k), weights[k])
    return total
