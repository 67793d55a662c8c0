"""The DeepLab family with scale attention: an encoder, a decoder to stride 4, a classifier.

Which encoders there are is in `teacher.networks.encoders`; the other decoder is in `teacher.networks.deeper`.
"""

from collections.abc import Callable, Sequence

import torch
from segmentation_models_pytorch.base import initialization
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor, nn

from teacher.attention import ExplicitAttentionHead, ScaleAttentionHead
from teacher.fusion import size_at_scale
from teacher.networks.encoders import make_encoder
from teacher.networks.layers import convolution, resize
from teacher.networks.prediction import Fusion, ScalePrediction

DECODER_CHANNELS = 256
ATTENTION_CHANNELS = 64
"""Of the attention head, where the paper has 256 for a trunk of far more cost: with 256 the head took 46 % of a forward
of tf_efficientnet_lite0, for one map."""
ATROUS_RATES = (12, 24, 36)
"""Of the pyramid at output stride 8 in the paper; at 16 and 32 they are divided, so that they span the same pixels."""

MakeDecoder = Callable[[Sequence[int], int, tuple[int, ...]], nn.Module]
"""From the encoder's channels, its output stride, and the pyramid's rates."""


class DeepLabDecoder(DeepLabV3PlusDecoder):  # type: ignore[misc] # the library is untyped
    """The library's decoder, but joining its two inputs at the finer one's size whatever the image's size is.

    Args:
        channels: of the encoder's features, finest first.
        output_stride: of the coarsest of them: 8, 16 or 32.
        atrous_rates: of the pyramid.

    Source: arXiv:1802.02611, section 3.1.
    """

    def __init__(self, channels: Sequence[int], output_stride: int, atrous_rates: tuple[int, ...]) -> None:
        super().__init__(
            encoder_channels=channels,
            encoder_depth=5,
            out_channels=DECODER_CHANNELS,
            atrous_rates=atrous_rates,
            output_stride=output_stride,
            aspp_separable=True,
            aspp_dropout=0.5,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> (batch, 256, h, w), shaped as the map at stride 4."""
        fine = self.block1(features[2])
        coarse = resize(self.aspp(features[-1]), (fine.shape[-2], fine.shape[-1]))
        return self.block2(torch.cat([coarse, fine], dim=1))  # type: ignore[no-any-return] # modules return Any


class DeepLab(nn.Module):
    """Encoder, decoder, a 1x1 classifier, and the attention head on the decoder's features.

    Args:
        encoder: its name.
        num_classes: classes, 1..255.
        output_stride: of the encoder's coarsest features: 8, 16 or 32. Not every encoder can do other than 32.
        make_decoder: `DeepLabDecoder` or `teacher.networks.deeper.DeeperDecoder`.
        attention: how scales are fused; hierarchical and explicit have a head for it.
        scales: that an explicit attention is over, ratios to the images, 1.0 among them; empty for the others.

    Source: arXiv:1802.02611, section 3.1; the attention heads as in arXiv:2005.10821 and arXiv:1511.03339.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        output_stride: int = 16,
        make_decoder: MakeDecoder = DeepLabDecoder,
        *,
        attention: Fusion = "hierarchical",
        scales: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, output_stride)
        rates = tuple(rate * 8 // output_stride for rate in ATROUS_RATES)
        self.decoder = make_decoder(self.encoder.out_channels, output_stride, rates)  # type: ignore[arg-type] # a list
        self.classifier = convolution(DECODER_CHANNELS, num_classes, 1, bias=True)
        self.scales = scales
        self.scale_attn: nn.Module | None = None
        if attention == "hierarchical":
            self.scale_attn = ScaleAttentionHead(DECODER_CHANNELS, ATTENTION_CHANNELS)
        elif attention == "explicit":
            self.scale_attn = ExplicitAttentionHead(DECODER_CHANNELS, len(scales), ATTENTION_CHANNELS)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.classifier)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict at stride 4.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.
            attend: whether the attention is wanted; the head of the hierarchy has a cost.

        Returns:
            Logits and, where there is a head for it, attention at about a quarter of the size; no auxiliary logits.
            With an explicit attention the logits are the fused ones of all its scales, and it tells what each counts.

        Raises:
            ImageError: the images are too small for the lowest scale of an explicit attention.
        """
        if self.scales:
            logits, weights = self._fused(images)
            return ScalePrediction(logits, weights if attend else None, None)
        features = self.decoder(self.encoder(images))
        attention = self.scale_attn(features) if attend and self.scale_attn is not None else None
        return ScalePrediction(self.classifier(features), attention, None)

    def _fused(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of all scales, weighed by the explicit attention where scale 1 has its features; and the weights.

        Those are (batch, scale, h, w), the smallest scale first.
        """
        sizes = [size_at_scale((images.shape[-2], images.shape[-1]), scale) for scale in self.scales]
        features = [self.decoder(self.encoder(resize(images, size))) for size in sizes]
        own = features[self.scales.index(1.0)]
        size = (own.shape[-2], own.shape[-1])
        assert self.scale_attn is not None, "made for the scales"
        weights = self.scale_attn(features, size).split(1, dim=1)
        logits = [resize(self.classifier(each).float(), size) for each in features]
        fused = torch.stack([w * each for w, each in zip(weights, logits, strict=True)]).sum(dim=0)
        ascending = sorted(range(len(self.scales)), key=self.scales.__getitem__)
        return fused, torch.cat([weights[number] for number in ascending], dim=1)
