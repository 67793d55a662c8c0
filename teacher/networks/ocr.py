"""Object-contextual representations: describe each pixel also by the class regions it resembles.

Works at the trunk's stride and resizes nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from teacher.networks.layers import convolution, norm_relu

DROPOUT = 0.05


class OCRPrediction(NamedTuple):
    """Output of the head, all at the trunk's stride."""

    logits: Tensor
    """(batch, class, h, w)."""
    auxiliary: Tensor
    """Logits of the soft regions, (batch, class, h, w)."""
    features: Tensor
    """What the logits are computed from, (batch, channels, h, w)."""


def gather_regions(features: Tensor, auxiliary: Tensor) -> Tensor:
    """Describe each class by the mean of the pixel features, weighted by a softmax over the pixels.

    Args:
        features: pixel features, (batch, channel, h, w).
        auxiliary: logits of the soft regions, (batch, class, h, w).

    Returns:
        Region features, (batch, channel, class, 1), float32.

    Source: arXiv:1909.11065, section 3.2, equation 2.
    """
    # A weight is about 1 / (h * w), below what half precision resolves: this sum stays in float32 under autocast.
    with torch.autocast(features.device.type, enabled=False):
        weights = auxiliary.float().flatten(2).softmax(dim=2)
        regions = weights @ features.float().flatten(2).transpose(1, 2)
    return regions.transpose(1, 2).unsqueeze(3)


class RegionAttention(nn.Module):
    """Each pixel's mixture of region features, weighted by its similarity to the regions."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.f_pixel = _two_rounds(channels, key_channels)
        self.f_object = _two_rounds(channels, key_channels)
        self.f_down = nn.Sequential(convolution(channels, key_channels, 1), norm_relu(key_channels))
        self.f_up = nn.Sequential(convolution(key_channels, channels, 1), norm_relu(channels))

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Features (batch, channel, h, w), regions (batch, channel, class, 1) -> context, shaped as the features.

        Source: arXiv:1909.11065, section 3.2, equations 3 to 5.
        """
        query = self.f_pixel(features).flatten(2).transpose(1, 2)
        key = self.f_object(regions).flatten(2).transpose(1, 2)
        value = self.f_down(regions).flatten(2).transpose(1, 2)
        mixture = functional.scaled_dot_product_attention(query, key, value)
        context = mixture.transpose(1, 2).reshape(features.shape[0], -1, *features.shape[-2:])
        return self.f_up(context)  # type: ignore[no-any-return] # modules return Any


def _two_rounds(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs, 1), norm_relu(outputs), convolution(outputs, outputs, 1), norm_relu(outputs)
    )


class ContextFusion(nn.Module):
    """Region attention, and the joining of its context with the pixel features."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.object_context_block = RegionAttention(channels, key_channels)
        self.conv_bn_dropout = nn.Sequential(
            convolution(2 * channels, channels, 1), norm_relu(channels), nn.Dropout2d(DROPOUT)
        )

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Features (batch, channel, h, w), regions (batch, channel, class, 1) -> shaped as the features."""
        context = self.object_context_block(features, regions)
        return self.conv_bn_dropout(torch.cat([context, features], dim=1))  # type: ignore[no-any-return] # modules return Any


class OCRHead(nn.Module):
    """The head.

    Args:
        inputs: channels of the trunk's features.
        num_classes: classes, 1..255.
        channels: channels of pixel and region features; query and key have half as many.

    Source: arXiv:1909.11065, section 3.3.
    """

    def __init__(self, inputs: int, num_classes: int, channels: int = 512) -> None:
        super().__init__()
        self.conv3x3_ocr = nn.Sequential(convolution(inputs, channels, 3, bias=True), norm_relu(channels))
        self.ocr_distri_head = ContextFusion(channels, channels // 2)
        self.cls_head = convolution(channels, num_classes, 1, bias=True)
        self.aux_head = nn.Sequential(
            convolution(inputs, inputs, 1, bias=True), norm_relu(inputs), convolution(inputs, num_classes, 1, bias=True)
        )

    def forward(self, trunk: Tensor) -> OCRPrediction:
        """Trunk features (batch, inputs, h, w), float -> logits, auxiliary logits and features."""
        return self.relate(self.conv3x3_ocr(trunk), self.aux_head(trunk))

    def relate(self, pixels: Tensor, auxiliary: Tensor) -> OCRPrediction:
        """Pixel features (batch, channels, h, w) and auxiliary logits (batch, class, h, w) -> all the head gives."""
        features = self.ocr_distri_head(pixels, gather_regions(pixels, auxiliary))
        return OCRPrediction(self.cls_head(features), auxiliary, features)
