"""Which sizes a model of transformers takes, and maps cut to where an image lies in what the model saw."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from storage.errors import ImageError
from teacher.foreign.hf_files import Config

_OWN_SIZE = {"eomt", "eomt_dinov3", "data2vec-vision"}
"""Types whose network arranges patches on the grid of its training, whatever came in."""
_SQUARE = {"dpt"}
"""Types whose network takes the root of the number of patches for both sides."""
_STRIDE = 32
_SMALLEST_PATCH = 7
"""Smaller patches are the first stage of a pyramid, whose last stage has the usual stride."""


@dataclass(frozen=True, slots=True)
class InputShape:
    """The sizes (height, width) that a network takes."""

    multiple: int
    """Both sides are best multiples of this."""
    fixed: tuple[int, int] | None = None
    """The only size there is."""
    square: bool = False

    def check(self, height: int, width: int, name: str) -> None:
        """Raise an error for images that the network would take for others.

        Raises:
            ImageError: the network takes images of other sizes only.
        """
        if self.fixed and (height, width) != self.fixed:
            takes = f"images of {self.fixed[1]}x{self.fixed[0]} only"
        elif self.square and height != width:
            takes = "square images only"
        elif min(height, width) < self.multiple:
            takes = f"images of at least {self.multiple}x{self.multiple}"
        else:
            return
        raise ImageError(
            f"{name} takes {takes}, and would get {width}x{height}: give scale 1 alone, let its processor resize the "
            f"images (no native size), or take images of that size"
        )

    @staticmethod
    def covers(map_height: int, map_width: int, height: int, width: int) -> bool:
        """Whether a map has the proportions of what the network saw, up to a cell or two.

        A network that arranges patches on a grid of its own gives another map for an image of as many patches.
        """
        return map_width <= (map_height + 1) * width / height + 1 and map_height <= (map_width + 1) * height / width + 1

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The next size from this one on that the network takes."""
        if self.fixed:
            return max(self.fixed[0], height), max(self.fixed[1], width)
        if self.square:
            height = width = max(height, width)
        return math.ceil(height / self.multiple) * self.multiple, math.ceil(width / self.multiple) * self.multiple


def shape_of(config: Config) -> InputShape:
    """What the settings of a network say of the sizes it takes."""
    inner = config.get("backbone_config")
    seen = inner if isinstance(inner, dict) else config
    patch = seen.get("patch_size")
    multiple = patch if isinstance(patch, int) and _SMALLEST_PATCH <= patch <= _STRIDE else _STRIDE
    kind, size = config.get("model_type"), config.get("image_size")
    edges = size if isinstance(size, list) else [size]
    whole = [edge for edge in edges if isinstance(edge, int)]
    own = (whole[0], whole[-1]) if whole and kind in _OWN_SIZE else None
    return InputShape(multiple, own, square=kind in _SQUARE)


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a larger one, in pixels."""

    top: int
    left: int
    height: int
    width: int
    of_height: int
    of_width: int


def cut_map(scores: Tensor, region: Region) -> Tensor:
    """The part of a map over what the model saw that lies over the image.

    Cells that lie over image and padding alike at its edge make it no slice: then the cells are laid anew over the
    image alone, with values between those of the old cells.

    Args:
        scores: (batch, label, h, w).
        region: of the image in what the model saw.

    Returns:
        (batch, label, h', w'), of about the same cells.
    """
    rows = _cut_axis(scores, 2, region.top, region.height, region.of_height)
    return _cut_axis(rows, 3, region.left, region.width, region.of_width)


def _cut_axis(scores: Tensor, axis: int, start: int, length: int, of: int) -> Tensor:
    cells = scores.shape[axis]
    if start * cells % of == 0 and length * cells % of == 0:
        return scores.narrow(axis, start * cells // of, length * cells // of)
    first, span = start * cells / of, length * cells / of
    count = math.ceil(span)
    centres = first + (torch.arange(count, device=scores.device, dtype=torch.float32) + 0.5) * (span / count) - 0.5
    low, high = math.floor(first), math.ceil(first + span) - 1
    below = centres.floor()
    share = (centres - below).reshape([-1 if dimension == axis else 1 for dimension in range(scores.ndim)])
    under = scores.index_select(axis, below.long().clamp(low, high))
    over = scores.index_select(axis, (below.long() + 1).clamp(low, high))
    return under + (over - under) * share
