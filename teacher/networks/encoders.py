"""The encoders of the DeepLab family: timm's by name, and those that timm does not have.

Weights are never fetched: see `teacher.encoder_weights`.
"""

import difflib
from collections.abc import Callable
from typing import Any

import timm
from segmentation_models_pytorch.encoders import TimmUniversalEncoder, get_encoder
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg, is_model_in_modules
from torch import Tensor, nn

from storage.errors import SettingsError
from teacher.networks.wide_resnet import WideResNet

OWN_ENCODERS: dict[str, Callable[[int], nn.Module]] = {"wide_resnet38": WideResNet}
"""By name, what makes them from an output stride. They give a list of features as timm's do, and say `out_channels`."""

_SWIN = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
"""timm's modules of encoders that take the one size they are named for, unless they are told otherwise."""
_PATCH = 4
"""Pixels of a side of their patches."""


class SwinEncoder(TimmUniversalEncoder):  # type: ignore[misc] # the library is untyped
    """A Swin transformer that takes images of any size, filled up with zeros to whole patches.

    At the size it is named for it computes what it does otherwise.

    Args:
        name: timm's.
        output_stride: of its coarsest features: 32.

    Source: arXiv:2103.14030, section 4.3, whose segmentation is trained and judged on other sizes than the encoder was.
    """

    def __init__(self, name: str, output_stride: int) -> None:
        super().__init__(name, pretrained=False, depth=5, output_stride=output_stride, strict_img_size=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """As `make_encoder` says."""
        below, right = (-side % _PATCH for side in images.shape[-2:])
        return super().forward(nn.functional.pad(images, (0, right, 0, below)))  # type: ignore[no-any-return] # untyped


def check_encoder(name: object) -> str:
    """Refuse what is no encoder; nothing is looked up on the network.

    Returns:
        The name.

    Raises:
        SettingsError: no such encoder; the message names similar ones.
    """
    if not isinstance(name, str) or not name:
        raise SettingsError(f"an encoder is needed by name (say tf_efficientnet_lite0), got {name!r}")
    if name in OWN_ENCODERS:
        return name
    similar = difflib.get_close_matches(name, [*timm.list_models(), *OWN_ENCODERS], n=3)
    advice = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists them"
    if not timm.is_model(name):
        raise SettingsError(f"timm {timm.__version__} has no encoder {name!r}; {advice}")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        raise SettingsError(f"encoder {name!r}: {error} Leave out what follows the dot.") from error
    return name


def make_encoder(name: str, output_stride: int) -> nn.Module:
    """Build an encoder with start values.

    Args:
        name: as `check_encoder` allows it.
        output_stride: of its coarsest features: 8, 16 or 32.

    Returns:
        A module from images (batch, 3, height, width) to a list of maps: the images, then features at strides 2, 4 and
        on, the coarsest last. It has `out_channels`, the channels of each.

    Raises:
        Exception: timm refuses in many ways; see `teacher.networks.registry.build_network`.
    """
    if name in OWN_ENCODERS:
        return OWN_ENCODERS[name](output_stride)
    if is_model_in_modules(name, _SWIN):
        return SwinEncoder(name, output_stride)
    encoder: nn.Module = get_encoder(f"tu-{name}", depth=5, weights=None, output_stride=output_stride)
    return encoder


def normalisation_of(name: str) -> dict[str, Any]:
    """Mean and standard deviation of the colours, as the encoder's published weights expect them."""
    published = None if name in OWN_ENCODERS else get_pretrained_cfg(name)
    if published is None:
        return {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return {"mean": published.mean, "std": published.std}
