"""The few layers that trunk and heads share.

No network is defined here.
"""

from torch import Tensor, nn
from torch.nn import functional


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps height and width at stride 1: padding is half the kernel."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)


def norm_relu(channels: int) -> nn.Sequential:
    """Batch norm and ReLU as a pair of its own: the public weights number the two inside their parent (`1.0`)."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly to an exact size, corners not aligned, without antialiasing.

    Args:
        maps: (batch, channel, h, w), float.
        size: (height, width) to reach.

    Returns:
        (batch, channel, height, width); the tensor itself where it already has that size.
    """
    if (maps.shape[-2], maps.shape[-1]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=False)
