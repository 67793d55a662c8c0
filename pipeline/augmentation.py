"""Augmentation: a random piece of an image and of its label, changed together.

All randomness comes from the generator that is passed in. No label value arises that was not there, except ignore.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from storage.schema import IGNORE

SCALE_RANGE = (0.5, 2.0)
"""How much larger the piece may become; drawn so that halving is as likely as doubling. Source: arXiv:1802.02611."""

JITTER = 0.25
"""Brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER. Source: the public training code of
arXiv:2005.10821."""

HUE_JITTER = 0.05
"""Hue is turned by up to this share of the colour circle: enough for other cameras, too little for another material."""


def augment(
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    crop: tuple[int, int],
    generator: np.random.Generator,
    pixel: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Cut a random window out of an image and its label, scale it to the crop's size, mirror it, change its colours.

    Args:
        image: (height, width, 3) uint8 RGB, of any size.
        label: (height, width) uint8, class indices or 255.
        crop: (height, width) of the result.
        generator: the only source of randomness.
        pixel: (row, column) that the window must contain; anywhere by default.

    Returns:
        Image (3, crop height, crop width) uint8, and label (crop height, crop width) uint8. Outside of the image the
        result has the image's mean colour and the label 255.
    """
    window = _draw_window((image.shape[0], image.shape[1]), crop, generator, pixel)
    picture, mask = _cut(image, label, window)
    picture = transforms.resize(picture, list(crop), InterpolationMode.BILINEAR, antialias=True)
    # NEAREST would take the lower neighbour and so shift the label against the image by half a pixel
    mask = transforms.resize(mask, list(crop), InterpolationMode.NEAREST_EXACT)
    if generator.random() < 0.5:
        picture, mask = transforms.horizontal_flip(picture), transforms.horizontal_flip(mask)
    return _jitter(picture, generator).as_subclass(Tensor), mask.as_subclass(Tensor)[0]


def _draw_window(
    size: tuple[int, int], crop: tuple[int, int], generator: np.random.Generator, pixel: tuple[int, int] | None
) -> tuple[int, int, int, int]:
    """A window (top, left, height, width) of the image that becomes the crop; it may be larger than the image."""
    low, high = np.log(SCALE_RANGE)
    scale = np.exp(generator.uniform(low, high))
    # The window is cut first and then scaled: the same crop as the other way round, without scaling what is cut off.
    height, width = (max(1, round(side / scale)) for side in crop)
    row, column = pixel or (None, None)
    return _draw_start(size[0], height, row, generator), _draw_start(size[1], width, column, generator), height, width


def _draw_start(length: int, window: int, position: int | None, generator: np.random.Generator) -> int:
    """Where a window starts along one axis: inside the image, or around it where it is larger; over the position."""
    low, high = min(0, length - window), max(0, length - window)
    if position is not None:
        low, high = max(low, position - window + 1), min(high, position)
    return int(generator.integers(low, high + 1))


def _cut(
    image: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8], window: tuple[int, int, int, int]
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    top, left, height, width = window
    rows = slice(max(top, 0), min(top + height, image.shape[0]))
    columns = slice(max(left, 0), min(left + width, image.shape[1]))
    # Contiguous copies: the arrays may be read-only, and the resizing would make them anyway.
    picture = tv_tensors.Image(torch.from_numpy(image[rows, columns].transpose(2, 0, 1).copy()))
    mask = tv_tensors.Mask(torch.from_numpy(label[None, rows, columns].copy()))
    margins = [columns.start - left, rows.start - top, left + width - columns.stop, top + height - rows.stop]
    if any(margins):
        mean = image.mean(axis=(0, 1)).round().tolist()
        picture = transforms.pad(picture, margins, fill=mean)
        mask = transforms.pad(mask, margins, fill=IGNORE)
    return picture, mask


def _jitter(picture: Tensor, generator: np.random.Generator) -> Tensor:
    brightness, contrast, saturation = 1 + generator.uniform(-JITTER, JITTER, 3)
    picture = transforms.adjust_brightness(picture, brightness)
    picture = transforms.adjust_contrast(picture, contrast)
    picture = transforms.adjust_saturation(picture, saturation)
    turn = generator.uniform(-HUE_JITTER, HUE_JITTER)
    return transforms.adjust_hue(picture, turn)  # type: ignore[no-any-return] # torchvision is untyped
