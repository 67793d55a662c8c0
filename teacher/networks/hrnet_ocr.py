"""HRNet-OCR with scale attention: the teacher of the method, named so that the public weights load as they are.

What it predicts at several scales is fused in `teacher.fusion`.
"""

from torch import Tensor, nn

from teacher.attention import ScaleAttentionHead
from teacher.networks.hrnet import HRNet
from teacher.networks.ocr import OCRHead
from teacher.networks.prediction import ScalePrediction


class HRNetOCR(nn.Module):
    """HRNet trunk, OCR head, and the attention head on the OCR features.

    Args:
        num_classes: classes, 1..255.
        width: channels of the trunk's finest branch.
        modules: fusion modules in the trunk's stages 2, 3 and 4.
        blocks: residual blocks in each.
        ocr_channels: channels of the OCR features, even.
        attention: whether there is an attention head.

    Source: arXiv:2005.10821, section 3.2.
    """

    def __init__(
        self,
        num_classes: int,
        width: int = 48,
        modules: tuple[int, int, int] = (1, 4, 3),
        blocks: int = 4,
        ocr_channels: int = 512,
        *,
        attention: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = HRNet(width, modules, blocks)
        self.ocr = OCRHead(self.backbone.out_channels, num_classes, ocr_channels)
        self.scale_attn = ScaleAttentionHead(ocr_channels, ocr_channels // 2) if attention else None

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict at stride 4.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.
            attend: whether the attention is wanted.

        Returns:
            Logits, attention where there is a head for it, and auxiliary logits at (ceil(height / 4), ceil(width / 4)).
        """
        logits, auxiliary, features = self.ocr(self.backbone(images))
        attention = self.scale_attn(features) if attend and self.scale_attn is not None else None
        return ScalePrediction(logits, attention, auxiliary)
