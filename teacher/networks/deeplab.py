"""DeepLabV3+ with scale attention on any convolutional encoder that timm knows.

Weights are never fetched: see `teacher.encoder_weights`.
"""

import torch
from segmentation_models_pytorch.base import initialization
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from teacher.attention import ScaleAttentionHead
from teacher.networks.layers import convolution, resize
from teacher.networks.prediction import ScalePrediction

DECODER_CHANNELS = 256
ATTENTION_CHANNELS = 64
"""Of the attention head, where the paper has 256 for a trunk of far more cost: with 256 the head took 46 % of a forward
of tf_efficientnet_lite0, for one map."""
ATROUS_RATES = (12, 24, 36)
"""Of the pyramid at output stride 8 in the paper; at 16 and 32 they are divided, so that they span the same pixels."""


class Decoder(DeepLabV3PlusDecoder):  # type: ignore[misc] # the library is untyped
    """The library's decoder, but joining its two inputs at the finer one's size whatever the image's size is."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, finest first -> (batch, 256, h, w), shaped as the map at stride 4."""
        fine = self.block1(features[2])
        coarse = resize(self.aspp(features[-1]), (fine.shape[-2], fine.shape[-1]))
        return self.block2(torch.cat([coarse, fine], dim=1))  # type: ignore[no-any-return] # modules return Any


class DeepLabV3Plus(nn.Module):
    """Encoder, decoder, a 1x1 classifier, and the attention head on the decoder's features.

    Args:
        encoder: timm's name of the encoder.
        num_classes: classes, 1..255.
        output_stride: of the encoder's coarsest features: 8, 16 or 32. Not every encoder can do other than 32.

    Source: arXiv:1802.02611, section 3.1; the attention head as in arXiv:2005.10821.
    """

    def __init__(self, encoder: str, num_classes: int, output_stride: int = 16) -> None:
        super().__init__()
        self.encoder = get_encoder(f"tu-{encoder}", depth=5, weights=None, output_stride=output_stride)
        self.decoder = Decoder(
            encoder_channels=self.encoder.out_channels,
            encoder_depth=5,
            out_channels=DECODER_CHANNELS,
            atrous_rates=tuple(rate * 8 // output_stride for rate in ATROUS_RATES),
            output_stride=output_stride,
            aspp_separable=True,
            aspp_dropout=0.5,
        )
        self.classifier = convolution(DECODER_CHANNELS, num_classes, 1, bias=True)
        self.scale_attn = ScaleAttentionHead(DECODER_CHANNELS, ATTENTION_CHANNELS)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.classifier)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict at stride 4.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.
            attend: whether the attention is wanted; its head has a cost.

        Returns:
            Logits and attention at about a quarter of the size; no auxiliary logits.
        """
        features = self.decoder(self.encoder(images))
        return ScalePrediction(self.classifier(features), self.scale_attn(features) if attend else None, None)
