"""Tiny models of transformers with weights by chance, saved as their directories are."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

NAMES = ("sky", "road", "tree", "car", "person")
_LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
_EOMT = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    "num_queries": 7, "num_blocks": 1, "num_upscale_blocks": 2, "num_register_tokens": 1, **_LABELS,
}  # fmt: skip
Made = tuple[Any, Any]


def segformer() -> Made:
    """A processor with a size of its own, and reduced labels as ADE20K has them."""
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, **_LABELS
    )
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 96}, do_reduce_labels=True)
    return transformers.SegformerForSemanticSegmentation(config), processor


def upernet_convnext() -> Made:
    """A processor that keeps the ratio of the sides; an auxiliary head."""
    backbone = transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=_STAGES)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_channels=8, auxiliary_in_channels=16, **_LABELS
    )
    processor = transformers.SegformerImageProcessor(size={"shortest_edge": 64})
    return transformers.UperNetForSemanticSegmentation(config), processor


def _swin() -> Any:
    return transformers.SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64, out_features=_STAGES
    )


def upernet_swin() -> Made:
    """A backbone of windows."""
    config = transformers.UperNetConfig(backbone_config=_swin(), hidden_size=16, use_auxiliary_head=False, **_LABELS)
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    return transformers.UperNetForSemanticSegmentation(config), processor


def upernet_dinov2() -> Made:
    """A backbone with patches of 14."""
    backbone = transformers.Dinov2Config(
        **{**_VIT, "image_size": 56, "patch_size": 14}, out_features=_STAGES, reshape_hidden_states=True
    )
    config = transformers.UperNetConfig(backbone_config=backbone, hidden_size=16, use_auxiliary_head=False, **_LABELS)
    processor = transformers.SegformerImageProcessor(size={"height": 70, "width": 98})
    return transformers.UperNetForSemanticSegmentation(config), processor


def beit() -> Made:
    """Tables of relative positions for one size."""
    config = transformers.BeitConfig(
        **_VIT, intermediate_size=16, use_relative_position_bias=True, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
        auxiliary_channels=8, **_LABELS,
    )  # fmt: skip
    processor = transformers.BeitImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    return transformers.BeitForSemanticSegmentation(config), processor


def data2vec() -> Made:
    """A network of one size only."""
    config = transformers.Data2VecVisionConfig(
        **_VIT, intermediate_size=16, out_indices=[1, 2, 3, 4], pool_scales=[1, 2], auxiliary_channels=8, **_LABELS
    )
    processor = transformers.BeitImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    return transformers.Data2VecVisionForSemanticSegmentation(config), processor


def dpt() -> Made:
    """A network of square images only."""
    config = transformers.DPTConfig(
        **_VIT, intermediate_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=16, auxiliary_channels=8, **_LABELS,
    )  # fmt: skip
    return (
        transformers.DPTForSemanticSegmentation(config),
        transformers.DPTImageProcessor(size={"height": 64, "width": 64}),
    )


def mobilenet() -> Made:
    """A processor that cuts out the centre."""
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, **_LABELS)
    processor = transformers.MobileNetV2ImageProcessor(
        size={"shortest_edge": 65}, crop_size={"height": 65, "width": 65}
    )
    return transformers.MobileNetV2ForSemanticSegmentation(config), processor


def mobilevit() -> Made:
    """A processor that turns the colours round and does not normalise."""
    config = transformers.MobileViTV2Config(
        width_multiplier=0.5, base_attn_unit_dims=[16] * 3, n_attn_blocks=[1] * 3, aspp_out_channels=16, **_LABELS
    )
    processor = transformers.MobileViTImageProcessor(size={"shortest_edge": 96}, do_center_crop=False)
    return transformers.MobileViTV2ForSemanticSegmentation(config), processor


def mask2former() -> Made:
    """A processor that resizes to multiples."""
    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(), feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=7, **_LABELS,
    )  # fmt: skip
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}, size_divisor=32)
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def maskformer(pad: int | None = None) -> Made:
    """A processor that may pad."""
    decoder = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=7,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=_swin(), fpn_feature_size=32, mask_feature_size=32, decoder_config=decoder, **_LABELS
    )
    processor = transformers.MaskFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128},
        size_divisor=32,
        pad_size=None if pad is None else {"height": pad, "width": pad},
    )
    return transformers.MaskFormerForInstanceSegmentation(config), processor


def padded_maskformer() -> Made:
    """A processor that pads."""
    return maskformer(128)


def oneformer() -> Made:
    """A network that is told its task."""
    config = transformers.OneFormerConfig(
        backbone_config=_swin(), conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, query_dec_layers=1, num_attention_heads=2,
        num_queries=7, task_seq_len=9, **_LABELS,
    )  # fmt: skip
    processor = transformers.OneFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return transformers.OneFormerForUniversalSegmentation(config), processor


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of letters alone."""
    letters = sorted(set("thetaskissemantic"))
    entries = [*letters, *(f"{letter}</w>" for letter in letters), "the</w>", "th", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")


def eomt() -> Made:
    """A processor that splits images."""
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**_EOMT, mlp_ratio=1)), processor


def eomt_dinov3() -> Made:
    """The same on DINOv3."""
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": None}, do_split_image=True)
    config = transformers.EomtDinov3Config(**_EOMT, intermediate_size=16)
    return transformers.EomtDinov3ForUniversalSegmentation(config), processor


def padded_eomt() -> Made:
    """A processor that pads to the network's only size."""
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    return transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**_EOMT, mlp_ratio=1)), processor


def save_model(make: Callable[[], Made], folder: Path) -> Path:
    """Save a model and its processor, with weights that give logits a spread."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model, processor = make()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(0, 0.3 if weight.ndim > 1 else 0.1)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def noise(height: int, width: int, batch: int = 2) -> Tensor:
    """Images of 256 values a channel, as ours are: RGB in [0, 1]."""
    torch.manual_seed(5)
    return torch.randint(0, 256, (batch, 3, height, width)).float() / 255


def pipeline_of(folder: Path) -> tuple[nn.Module, Any]:
    """The model and the processor as the library itself opens them."""
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    return model_class.from_pretrained(folder).eval(), transformers.AutoImageProcessor.from_pretrained(folder)


def run_pipeline(folder: Path, images: Tensor) -> tuple[Any, Any, Any]:
    """What the library's own pipeline gives, with the processor, and with what the processor gave."""
    model, processor = pipeline_of(folder)
    given = processor(images=list((images * 255).round().to(torch.uint8)), return_tensors="pt")
    inputs = {key: value for key, value in given.items() if key != "patch_offsets"}
    with torch.inference_mode():
        output = model(**inputs)
    if given.get("patch_offsets"):
        output.patch_offsets = given["patch_offsets"]
    return output, processor, given
