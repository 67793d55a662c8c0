"""The scale-attention head: from a network's features to how far its scale is to be trusted, pixel by pixel.

How the attention is used is in `teacher.fusion`.
"""

import torch
from torch import Tensor, nn

from teacher.networks.layers import convolution


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
