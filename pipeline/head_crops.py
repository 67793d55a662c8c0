"""Crops that a scale head learns from: joint logits at a lattice of an image's pixels, and the truth there.

Every fourth pixel of every fourth row is fused, from a random first one: a sixteenth of the work of all pixels, and no
pixel's truth is touched. The logits there are those of `teacher.fusion.hierarchical_logits`, but that a scale is
enlarged to the pixel in one step, and that attention and logits are multiplied there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.logit_cache import KeptImage, Window
from storage.schema import IGNORE
from teacher.foreign.scale_head import REACH, ScaleHead
from teacher.resampling import positions
from teacher.tables import table

EVERY = 4
"""Pixels from one of the lattice to the next."""

HOPELESS = 45.0
"""A truth so far below the highest logit is none that an attention could bring about: as a rule the teacher has no
label of that class, which is then at 1e-22 of the highest."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Where on an image is looked."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    mirrored: bool

    @classmethod
    def draw(cls, size: tuple[int, int], side: int, rng: np.random.Generator) -> "Crop":
        """Draw a crop.

        Args:
            size: (height, width) of the image.
            side: longest side of a crop; an image that is smaller is taken whole.
            rng: where the place, the lattice's first pixel and the mirroring come from.
        """
        rows, columns = (_lattice(length, side, rng) for length in size)
        return cls(rows, columns, bool(rng.random() < 0.5))

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "Crop":
        """All pixels of an image."""
        return cls(np.arange(size[0]), np.arange(size[1]), mirrored=False)


def _lattice(length: int, side: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    taken = min(length, side)
    start = int(rng.integers(0, length - taken + 1))
    return np.arange(start + int(rng.integers(0, min(EVERY, taken))), start + taken, EVERY)


def fused_at(head: ScaleHead, image: KeptImage, scales: int, crop: Crop, device: torch.device) -> Tensor:
    """Joint logits of all scales at a crop's pixels; only the head's attention has a gradient.

    Args:
        head: says how far each scale but the largest is trusted.
        image: what the teacher says.
        scales: how many there are.
        crop: where.
        device: of the head.

    Returns:
        (1, class, row, column), float32; less a value that is the same for all classes.

    Source: arXiv:2005.10821, section 3.1.
    """
    size = image.size()
    joint: Tensor | None = None
    for number in range(scales):
        shape = image.size(number)
        places = [
            positions(targets, length, target)
            for targets, length, target in zip((crop.rows, crop.columns), shape, size, strict=True)
        ]
        window = _window(places, shape)
        logits = image.logits(number, window).to(device)
        by_row, by_column = (
            _mixing(place - part.start, part.stop - part.start, device)
            for place, part in zip(places, window, strict=True)
        )
        values = _at(logits, by_row, by_column)
        if joint is None:
            joint = values
            continue
        # the mirrored logits stand for those of the mirrored image; its attention is turned back
        attention = head(logits.flip(-1), number).flip(-1) if crop.mirrored else head(logits, number)
        weight = _at(attention, by_row, by_column)
        joint = weight * values + (1 - weight) * joint
    assert joint is not None, "there are scales"
    return joint


def truth_at(image: KeptImage, crop: Crop, logits: Tensor) -> Tensor:
    """The truth at a crop's pixels; ignore where it is a class that the teacher cannot say.

    Args:
        image: has the truth.
        crop: where.
        logits: the joint logits there, as `fused_at` gives them.

    Returns:
        (1, row, column), int64, on the logits' device.
    """
    rows = slice(int(crop.rows[0]), int(crop.rows[-1]) + 1)
    columns = slice(int(crop.columns[0]), int(crop.columns[-1]) + 1)
    truth = image.truth((rows, columns)).numpy()[crop.rows - rows.start][:, crop.columns - columns.start]
    values = torch.from_numpy(truth.astype(np.int64)).to(logits.device).unsqueeze(0)
    below = (logits - logits.amax(dim=1, keepdim=True)).detach()
    said = below.gather(1, values.clamp(max=logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return values.masked_fill(said <= -HOPELESS, IGNORE)


def _window(places: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> Window:
    """What is to be read for values at these places, with what the head looks at around."""
    rows, columns = (
        slice(max(0, int(place[0]) - REACH), min(length, int(place[-1]) + 2 + REACH))
        for place, length in zip(places, shape, strict=True)
    )
    return rows, columns


def _mixing(places: npt.NDArray[np.float64], length: int, device: torch.device) -> Tensor:
    """The matrix (place, length) of bilinear interpolation; a product has gradients that come in one order."""
    distance = np.abs(places[:, None] - np.arange(length)[None])
    return table(np.maximum(1 - distance, 0), device, torch.float32)


def _at(maps: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Maps (1, channel, h, w) at rows and columns."""
    return torch.matmul(torch.matmul(by_row, maps), by_column.T)
