"""The decoder of DeeperLab: detail is moved into channels, mixed at a coarse stride by large kernels, and moved back.

The network around it is in `teacher.networks.deeplab`.
"""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP, SeparableConv2d
from torch import Tensor, nn
from torch.nn import functional

from teacher.networks.layers import convolution, norm_relu, resize

CHANNELS = 256
"""Of the decoder's result."""
FINE_CHANNELS = 32
"""To which the features at stride 4 are reduced before they become channels."""
KERNEL = 7


class DeeperDecoder(nn.Module):
    """Pyramid on the coarsest features; joined with the finer ones by space-to-depth; two mixings; depth-to-space.

    It works at the encoder's output stride, and at 16 where that is 32: the channels would become too many.

    Args:
        channels: of the encoder's features, finest first.
        output_stride: of the coarsest of them: 8, 16 or 32.
        atrous_rates: of the pyramid.

    Source: arXiv:1902.05093, section 3.1 (the decoder). The pyramid is DeepLabV3+'s.
    """

    def __init__(self, channels: Sequence[int], output_stride: int, atrous_rates: tuple[int, ...]) -> None:
        super().__init__()
        self.block = min(output_stride, 16) // 4
        self.aspp = ASPP(channels[-1], CHANNELS, atrous_rates, separable=True, dropout=0.5)
        self.fine = nn.Sequential(convolution(channels[2], FINE_CHANNELS, 1), norm_relu(FINE_CHANNELS))
        wide = CHANNELS * self.block**2
        self.mix = nn.Sequential(_mixing(CHANNELS + FINE_CHANNELS * self.block**2, wide), _mixing(wide, wide))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> (batch, 256, h, w), shaped as the map at stride 4."""
        fine = self.fine(features[2])
        height, width = fine.shape[-2:]
        # sides that the block does not divide are filled up at the end, and cut again
        fine = functional.pad(fine, (0, -width % self.block, 0, -height % self.block))
        fine = functional.pixel_unshuffle(fine, self.block)
        coarse = resize(self.aspp(features[-1]), (fine.shape[-2], fine.shape[-1]))
        mixed = functional.pixel_shuffle(self.mix(torch.cat([coarse, fine], dim=1)), self.block)
        return mixed[..., :height, :width]


def _mixing(inputs: int, outputs: int) -> nn.Sequential:
    separable = SeparableConv2d(inputs, outputs, KERNEL, padding=KERNEL // 2, bias=False)
    return nn.Sequential(separable, norm_relu(outputs))
