"""Tiles with overlap: one scale's forward in pieces of bounded size, joined at the network's own stride.

Which images are tiled, and how large the tiles are, is the caller's; see `teacher.memory_plan`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.errors import SettingsError, ShapeError
from teacher.networks.prediction import Network, ScalePrediction
from teacher.tables import table

ALIGN = 32
"""Total stride of the networks of the registry: a tile that starts at a multiple of it is sampled where the whole image
is."""
STRIDE = 4
"""At which the networks of the registry predict."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What neighbouring tiles share, in pixels of the scaled image: a halo on either side, and between them a ramp."""

    halo: int
    """What a tile computes beyond what is taken of it; with the network's receptive field's radius a tile's border
    changes nothing that is taken."""
    ramp: int = 0
    """Width over which one tile's prediction turns into its neighbour's; 0: at a line."""


GLOBAL_CONTEXT = Overlap(halo=64, ramp=64)
"""For networks whose every pixel depends on all others: see `tiled`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one axis."""

    start: int
    stop: int
    """The input, in pixels of the scaled image."""
    first: int
    """Where what is taken of the prediction begins, in pixels of the whole prediction."""
    weights: npt.NDArray[np.float32]
    """Of each pixel that is taken; over all tiles they sum to 1. All are 1 where there is no ramp."""

    def crop(self, stride: int) -> slice:
        """What is taken, in pixels of the tile's own prediction."""
        begin = self.first - self.start // stride
        return slice(begin, begin + len(self.weights))


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the image that is predicted by itself."""

    rows: Span
    columns: Span


def plan_tiles(
    size: tuple[int, int], tile: int, overlap: Overlap, *, align: int = ALIGN, stride: int = STRIDE
) -> list[Tile]:
    """Cut an image into square tiles, as few and as equal as possible, that begin at multiples of the total stride.

    Args:
        size: (height, width) of the scaled image, in pixels.
        tile: side of a tile with its halo, in pixels; it is rounded down to a multiple of `align`. An image that is
            shorter than it has a single tile along that axis.
        overlap: what neighbouring tiles share at least.
        align: the network's total stride; a multiple of `stride`.
        stride: at which the network predicts.

    Returns:
        The tiles, row by row. At every pixel of the prediction their weights sum to 1.

    Raises:
        SettingsError: the tile leaves no room for the overlap.
    """
    if align % stride:
        raise SettingsError(f"align is {align}, expected a multiple of the stride {stride}")
    rows, columns = (_plan_axis(length, tile, overlap, align, stride) for length in size)
    return [Tile(row, column) for row in rows for column in columns]


def smallest_tile(overlap: Overlap, *, align: int = ALIGN, stride: int = STRIDE) -> int:
    """Side of the smallest tile that leaves room for the overlap, in pixels."""
    return _shared(overlap, align, stride) + align


def _shared(overlap: Overlap, align: int, stride: int) -> int:
    """Pixels that two neighbours share at least, a multiple of the total stride."""
    halo, ramp = (math.ceil(part / stride) * stride for part in (overlap.halo, overlap.ramp))
    return math.ceil((2 * halo + ramp) / align) * align


def _plan_axis(length: int, tile: int, overlap: Overlap, align: int, stride: int) -> list[Span]:
    if tile < (least := smallest_tile(overlap, align=align, stride=stride)):
        raise SettingsError(
            f"a tile of {tile} pixels leaves no room for a halo of {overlap.halo} and a ramp of {overlap.ramp}: "
            f"expected at least {least}"
        )
    side, shared = tile // align * align, _shared(overlap, align, stride)
    if length <= side:
        return [Span(0, length, 0, np.ones(math.ceil(length / stride), np.float32))]
    gaps = math.ceil((length - side) / (side - shared))
    # no larger than so many tiles must be: what they share beyond the overlap is computed twice for nothing
    side = math.ceil((length + gaps * shared) / (gaps + 1) / align) * align
    last = math.ceil((length - side) / align)  # starts are counted in `align`
    starts = [i * last // gaps * align for i in range(gaps + 1)]
    stops = [min(start + side, length) for start in starts]
    outputs = np.arange(math.ceil(length / stride))
    # how far each pixel is on its way into the tile, from 0 to 1; a tile is left as its successor is entered
    entered = [np.ones(len(outputs))]
    entered += [
        _ramp(outputs, (start + stop) // (2 * stride), overlap.ramp / stride)
        for start, stop in zip(starts[1:], stops, strict=False)
    ]
    entered.append(np.zeros(len(outputs)))
    spans = []
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        weights = (entered[i] - entered[i + 1]).astype(np.float32)
        taken = np.flatnonzero(weights)
        spans.append(Span(start, stop, int(taken[0]), weights[taken[0] : taken[-1] + 1]))
    return spans


def _ramp(outputs: npt.NDArray[np.int64], centre: int, width: float) -> npt.NDArray[np.float64]:
    """From 0 to 1 over `width` pixels around the border before pixel `centre`; at once where the width is 0."""
    if width == 0:
        return (outputs >= centre).astype(np.float64)
    return np.clip((outputs + 0.5 - centre) / width + 0.5, 0, 1)


def tiled_prediction(
    network: Network, images: Tensor, tiles: Sequence[Tile], *, stride: int = STRIDE, attend: bool = True
) -> ScalePrediction:
    """Predict an image tile by tile and join the predictions, logits and attention alike, by the tiles' weights.

    Args:
        network: what predicts.
        images: normalised RGB of one scale, (batch, 3, height, width), float.
        tiles: as `plan_tiles` gave them for this size and stride.
        stride: at which the network predicts.
        attend: whether the attention is wanted.

    Returns:
        The prediction at the network's stride, float32, as large as that of the whole image; no auxiliary logits.

    Raises:
        ShapeError: the network predicts at another stride.
    """
    logits: Tensor | None = None
    attention: Tensor | None = None
    for tile in reversed(tiles):  # the last one tells how large the whole prediction is
        rows, columns = tile.rows, tile.columns
        part = images[..., rows.start : rows.stop, columns.start : columns.stop]
        prediction = network(part, attend=attend)
        if logits is None:
            _check_stride(part, prediction.logits, stride)
            logits = _zeros(prediction.logits, tile, stride)
            attention = None if prediction.attention is None else _zeros(prediction.attention, tile, stride)
        _add(logits, prediction.logits, tile, stride)
        if attention is not None and prediction.attention is not None:
            _add(attention, prediction.attention, tile, stride)
    assert logits is not None, "there is at least one tile"
    return ScalePrediction(logits, attention, None)


def _check_stride(part: Tensor, maps: Tensor, stride: int) -> None:
    for pixels, got in zip(part.shape[-2:], maps.shape[-2:], strict=True):
        if got not in (pixels // stride, math.ceil(pixels / stride)):
            raise ShapeError(
                f"of a tile of {part.shape[-1]}x{part.shape[-2]} pixels the network predicts "
                f"{maps.shape[-1]}x{maps.shape[-2]}, expected a stride of {stride}: tile it with its own stride"
            )


def _zeros(maps: Tensor, last: Tile, stride: int) -> Tensor:
    """The whole prediction, with nothing in it yet, as large as the last tile's prediction tells."""
    height = last.rows.start // stride + maps.shape[-2]
    width = last.columns.start // stride + maps.shape[-1]
    return torch.zeros((*maps.shape[:2], height, width), dtype=torch.float32, device=maps.device)


def _add(whole: Tensor, maps: Tensor, tile: Tile, stride: int) -> None:
    """Add what is taken of a tile's prediction to the whole."""
    rows, columns = tile.rows, tile.columns
    taken = maps[..., rows.crop(stride), columns.crop(stride)]
    row_weights = table(rows.weights[: taken.shape[-2], None], maps.device)
    column_weights = table(columns.weights[: taken.shape[-1]], maps.device)
    place = whole.narrow(-2, rows.first, taken.shape[-2]).narrow(-1, columns.first, taken.shape[-1])
    place.addcmul_(taken.float(), row_weights * column_weights)


def tiled(
    network: Network, tile: int, overlap: Overlap = GLOBAL_CONTEXT, *, align: int = ALIGN, stride: int = STRIDE
) -> Network:
    """The same network, but images that are larger than a tile are predicted in tiles; it fits wherever a network does.

    With `Overlap(radius)`, the radius being that of the network's receptive field, the prediction equals the whole
    image's to float rounding: a convolution may sum in another order at another size. That needs a network that sees
    the same at a tile's pixel as at the image's: convolutions and poolings with symmetric padding do; a resize inside
    the network does where the image's sides are multiples of `align`.

    No network of the registry has a finite receptive field: OCR gathers its regions from all pixels, DeepLab's pyramid
    has the mean of the image, squeeze-and-excitation the mean of every map. For them a tile's context is the tile's
    own, and where two tiles meet, logits and attention are blended linearly over `overlap.ramp` pixels, weights summing
    to 1. Labels may differ from the whole image's everywhere, and do so where the context decides: on a photograph of
    480x360 at scales 0.5, 1 and 2, with a small DeepLabV3+, 0.4 % did in tiles of 768 pixels and 1.7 % in tiles of 384.

    Args:
        network: what predicts.
        tile: side of a tile, in pixels.
        overlap: what neighbouring tiles share.
        align: the network's total stride.
        stride: at which the network predicts.

    Returns:
        A network; an image that is no larger than a tile has the very prediction that `network` gives.

    Raises:
        SettingsError: the tile leaves no room for the overlap.
    """
    plan_tiles((tile, tile), tile, overlap, align=align, stride=stride)  # refuses before any image does

    def predict(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        tiles = plan_tiles((images.shape[-2], images.shape[-1]), tile, overlap, align=align, stride=stride)
        if len(tiles) == 1:
            return network(images, attend=attend)
        return tiled_prediction(network, images, tiles, stride=stride, attend=attend)

    return predict
