"""From an image's bytes to what a network takes.

Reads no files; the numbers come from the network's specification.
"""

import torch
from torch import Tensor


def normalise(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Scale bytes to [0, 1], subtract the mean and divide by the standard deviation, colour by colour.

    Args:
        images: RGB, (batch, height, width, 3), uint8, on any device.
        mean: of red, green, blue in [0, 1].
        std: of red, green, blue in [0, 1], positive.

    Returns:
        (batch, 3, height, width), float32, on the images' device.
    """
    return shift_and_scale(images.permute(0, 3, 1, 2).to(torch.float32).div_(255), mean, std)


def shift_and_scale(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Subtract the mean and divide by the standard deviation, colour by colour.

    Args:
        images: RGB in [0, 1], (batch, 3, height, width), float32; not of use afterwards, as it is changed in place.
        mean: of red, green, blue.
        std: of red, green, blue, positive.
    """
    # not waited for; and not kept for the next call, which may be one without content, by which training's cost is told
    shift, spread = (torch.tensor(each).to(images.device, non_blocking=True).view(1, 3, 1, 1) for each in (mean, std))
    return images.sub_(shift).div_(spread)
