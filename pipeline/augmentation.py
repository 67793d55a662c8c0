"""Augmentation: a random piece of an image and of its label, changed together.

All randomness comes from the generator that is passed in. No label value arises that was not there, except ignore.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pipeline.training_settings import TrainingRecipe
from storage.schema import IGNORE

HUE_JITTER = 0.05
"""Hue is turned by up to this share of the colour circle: enough for other cameras, too little for another material."""

BLUR_SIGMA = (0.15, 1.3)
"""Standard deviation of the blur, pixels of the crop. Source: the public training code of arXiv:2005.10821."""

STRONG_COLOUR, STRONG_JITTER, STRONG_HUE = 0.8, 0.5, 0.25
STRONG_GREY, STRONG_BLUR = 0.2, 0.5
"""Strong augmentation: share of the crops whose colours change, and by how much; shares of grey and of blurred ones.
Source: the public training code of arXiv:2208.09910."""

_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""From RGB to luma and two colour differences. Source: NTSC."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How crops are changed; see `TrainingRecipe`."""

    scale_range: tuple[float, float] = (0.5, 2.0)
    """How much smaller or larger a piece becomes; drawn so that halving is as likely as doubling."""
    long_edge: int | None = None
    """Length of an image's longer side before that, pixels."""
    jitter: float = 0.25
    """Brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter; 0: colours stay."""
    blur: float = 0.0
    """Share of the crops that are blurred."""
    strong: bool = False
    """Whether auto samples are changed more."""
    cutmix: float = 0.0
    """Share of the auto crops that get a rectangle of another."""

    @classmethod
    def of(cls, recipe: TrainingRecipe) -> "Augmentation":
        """The augmentation of a recipe."""
        return cls(recipe.scale_range, recipe.long_edge, recipe.jitter, recipe.blur, recipe.strong, recipe.cutmix)


def augment(
    image: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    crop: tuple[int, int],
    generator: np.random.Generator,
    augmentation: Augmentation,
    anchor: tuple[int, int] | None = None,
    *,
    strong: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cut a random window out of an image and its label, scale it to the crop's size, mirror it, change its colours.

    The window contains the anchor. So does the crop where it is not scaled down; where it is, every second or third
    pixel is left out, and the anchor's class is in the crop if it fills the pixels within 1 / scale of the anchor.

    Args:
        image: (height, width, 3) uint8 RGB, of any size.
        label: (height, width) uint8, class indices or 255.
        crop: (height, width) of the result.
        generator: the only source of randomness.
        augmentation: what is done; `strong` and `cutmix` are the caller's to decide.
        anchor: (row, column) that the window must contain; anywhere by default.
        strong: change the colours more, and blur more often.

    Returns:
        Image (3, crop height, crop width) uint8, and label (crop height, crop width) uint8. Outside of the image the
        result has the mean colour of what is seen of the image, and the label 255.
    """
    window = _draw_window((image.shape[0], image.shape[1]), crop, generator, augmentation, anchor)
    picture, mask = _cut(image, label, window)
    picture = transforms.resize(picture, list(crop), InterpolationMode.BILINEAR, antialias=True)
    # NEAREST would take the lower neighbour and so shift the label against the image by half a pixel
    mask = transforms.resize(mask, list(crop), InterpolationMode.NEAREST_EXACT)
    if generator.random() < 0.5:
        picture, mask = transforms.horizontal_flip(picture), transforms.horizontal_flip(mask)
    picture = _jitter(picture.as_subclass(Tensor), generator, augmentation, strong=strong)
    if generator.random() < (max(augmentation.blur, STRONG_BLUR) if strong else augmentation.blur):
        sigma = generator.uniform(*BLUR_SIGMA)
        size = 2 * math.ceil(3 * sigma) + 1  # beyond three standard deviations a pixel counts for nothing
        picture = transforms.gaussian_blur(picture, [size, size], [sigma, sigma])
    return picture, mask.as_subclass(Tensor)[0]


def _draw_window(
    size: tuple[int, int],
    crop: tuple[int, int],
    generator: np.random.Generator,
    augmentation: Augmentation,
    anchor: tuple[int, int] | None,
) -> tuple[int, int, int, int]:
    """A window (top, left, height, width) of the image that becomes the crop; it may be larger than the image."""
    low, high = np.log(augmentation.scale_range)
    scale = np.exp(generator.uniform(low, high))
    if augmentation.long_edge is not None:
        scale *= augmentation.long_edge / max(size)
    # The window is cut first and then scaled: the same crop as the other way round, without scaling what is cut off.
    height, width = (max(1, round(side / scale)) for side in crop)
    row, column = anchor or (None, None)
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
        # of the piece, not of the image: on 2048x1024 pixels the mean alone would take longer than all the rest
        mean = picture.as_subclass(Tensor).float().mean(dim=(1, 2)).round().tolist()
        picture = transforms.pad(picture, margins, fill=mean)
        mask = transforms.pad(mask, margins, fill=IGNORE)
    return picture, mask


def _jitter(picture: Tensor, generator: np.random.Generator, augmentation: Augmentation, *, strong: bool) -> Tensor:
    jitter, hue, grey = augmentation.jitter, HUE_JITTER, False
    if strong:
        changed, grey = generator.random(2) < (STRONG_COLOUR, STRONG_GREY)
        jitter, hue = (max(jitter, STRONG_JITTER), STRONG_HUE) if changed else (0.0, 0.0)
    if not jitter and not grey:
        return picture
    brightness, contrast, saturation = 1 + generator.uniform(-jitter, jitter, 3)
    turn = generator.uniform(-hue, hue)
    return change_colours(picture, brightness, contrast, 0.0 if grey else saturation, turn)


def change_colours(picture: Tensor, brightness: float, contrast: float, saturation: float, turn: float) -> Tensor:
    """Change brightness, then contrast, saturation and hue, as one affine map of the colours; round and clip once.

    Brightness scales all colours; contrast scales their distance from the picture's mean luma. In YIQ, where grey is
    the axis, saturation is the distance from it and hue the angle around it, so that luma stays. torchvision turns the
    hue in HSV, where brightness stays and luma does not; its four changes take eleven times as long.

    Args:
        picture: (3, height, width) uint8 RGB; left as it is.
        brightness: factor, at least 0; 1 changes nothing.
        contrast: the same; 0 is the mean luma everywhere.
        saturation: the same; 0 is grey.
        turn: of the hue, share of the colour circle; positive turns red to yellow.

    Returns:
        (3, height, width) uint8 RGB.

    Source: P. Haeberli, Matrix Operations for Image Processing, 1993 (the changes as one matrix); NTSC (YIQ).
    """
    angle = 2 * math.pi * turn
    in_yiq = np.eye(3)
    in_yiq[1:, 1:] = saturation * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    matrix = brightness * contrast * np.linalg.inv(_YIQ) @ in_yiq @ _YIQ
    mean = picture.sum(dim=(1, 2)).numpy() / picture[0].numel()  # of integers: exact
    shift = brightness * (1 - contrast) * (_YIQ[0] @ mean)
    # not a matrix product, which may round otherwise on another number of threads: crops must not depend on that
    of_red, of_green, of_blue = torch.from_numpy(matrix.T[..., None, None]).float().unbind()
    red, green, blue = picture.float().unbind()
    changed = red * of_red
    changed += green * of_green
    changed += blue * of_blue
    changed += shift + 0.5  # the conversion to bytes rounds down
    return changed.clamp_(0, 255).to(torch.uint8)


def paste_rectangle(
    onto: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor], generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Replace a rectangle of a crop by the same rectangle of another one, in image and label alike.

    Its share of the area is uniform in [0, 1], its shape that of the crop, and it lies inside, so that the share is
    what was drawn.

    Args:
        onto: image (3, height, width) uint8 and label (height, width) uint8; left as they are.
        source: the same of the other crop, of the same size.
        generator: the only source of randomness.

    Returns:
        Image and label of the mixed crop.

    Source: CutMix, arXiv:1905.04899, section 3.1, with alpha 1.
    """
    height, width = onto[1].shape
    side = math.sqrt(generator.random())
    rows, columns = round(height * side), round(width * side)
    top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
    mixed = onto[0].clone(), onto[1].clone()
    for target, other in zip(mixed, source, strict=True):
        target[..., top : top + rows, left : left + columns] = other[..., top : top + rows, left : left + columns]
    return mixed
