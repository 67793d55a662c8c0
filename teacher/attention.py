"""The scale-attention heads: from a network's features to how far its scale is to be trusted, pixel by pixel.

How the attention of the hierarchy is used is in `teacher.fusion`, how the explicit one is, in the network that has it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from teacher.networks.layers import convolution, resize


class ScaleAttentionHead(nn.Module):
    """Two 3x3 convolutions and a 1x1 convolution to one map, shared by all classes and all scales.

    Args:
        inputs: channels of the features.
        channels: channels in between.

    Source: arXiv:2005.10821, section 3.1 and figure 2.
    """

    def __init__(self, inputs: int, channels: int = 256) -> None:
        super().__init__()
        self.conv0 = convolution(inputs, channels, 3)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = convolution(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, inputs, h, w), float -> attention (batch, 1, h, w), float32 in [0, 1]."""
        x = self.relu(self.bn0(self.conv0(features)))
        x = self.relu(self.bn1(self.conv1(x)))
        # In float32 also under autocast: 1 - attention has to stay exact where the attention is near 1.
        return torch.sigmoid(self.conv2(x).float())


class ExplicitAttentionHead(nn.Module):
    """A 3x3 and a 1x1 convolution on the features of all scales to a weight for each: the scales are fixed.

    Args:
        inputs: channels of the features of one scale.
        scales: how many there are.
        channels: channels in between.

    Source: arXiv:1511.03339, section 3.1.
    """

    def __init__(self, inputs: int, scales: int, channels: int = 256) -> None:
        super().__init__()
        self.conv0 = convolution(scales * inputs, channels, 3)
        self.bn0 = nn.BatchNorm2d(channels)
        self.conv1 = convolution(channels, scales, 1, bias=True)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Weigh the scales.

        Args:
            features: of each scale, (batch, inputs, h, w), float, of any sizes.
            size: (height, width) to which they are resized.

        Returns:
            Weights (batch, scale, height, width), float32, which sum to 1 over the scales.
        """
        together = torch.cat([resize(each, size) for each in features], dim=1)
        scores = self.conv1(self.relu(self.bn0(self.conv0(together))))
        return scores.float().softmax(dim=1)  # type: ignore[no-any-return] # modules return Any
