"""Which networks there are: a specification that fits in a checkpoint, and the building of a network from it.

Building sets start values only; weights are loaded in `teacher.weights`. timm and what it needs, 200 MB and two seconds
in a process, are imported where an encoder of timm's is asked for.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from torch import nn

from storage.errors import CheckpointError, SettingsError
from storage.schema import MAX_CLASSES
from teacher.networks.hrnet_ocr import HRNetOCR
from teacher.networks.prediction import Fusion

NetworkName = Literal["deeplabv3plus", "deeperlab", "hrnet-ocr"]
ENCODER_NETWORKS: tuple[NetworkName, ...] = ("deeplabv3plus", "deeperlab")
"""Those that stand on an encoder of any name."""
TRUNK_WIDTHS = {"hrnet_w18": 18, "hrnet_w32": 32, "hrnet_w48": 48}
"""Of hrnet-ocr, by the name of the trunk."""
OUTPUT_STRIDES = (8, 16, 32)
MAX_WIDTH = 256
MAX_REPEATS = 16
MAX_OCR_CHANNELS = 4096
MAX_SCALE = 4
MAX_SCALES = 8
EXPLICIT_SCALES = (0.5, 1.0, 2.0)
"""Of an explicit attention where none are named."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network_names() -> tuple[str, ...]:
    """Names of the networks that can be built."""
    return get_args(NetworkName)


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network and to feed it, apart from its weights.

    Raises:
        SettingsError: a value is unknown or out of range.
    """

    network: NetworkName
    num_classes: int
    encoder: str | None = None
    """timm's name of the encoder, or wide_resnet38; hrnet-ocr has none, all others need one."""
    output_stride: int = 16
    """Of the encoder's coarsest features: 8, 16 or 32; not of hrnet-ocr."""
    width: int = 48
    """Channels of the trunk's finest branch; this and the following: hrnet-ocr only."""
    modules: tuple[int, int, int] = (1, 4, 3)
    """Fusion modules in the trunk's stages 2, 3 and 4."""
    blocks: int = 4
    """Residual blocks in each."""
    ocr_channels: int = 512
    """Channels of the OCR features, even."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from red, green, blue in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """What the difference is divided by."""
    attention: Fusion = "hierarchical"
    """How its predictions at several scales are fused, for which it is trained; explicit is not for hrnet-ocr."""
    attention_scales: tuple[float, ...] = ()
    """Ratios to the image that an explicit attention is over, 1.0 among them; none for the others."""

    def __post_init__(self) -> None:
        if self.network not in network_names():
            raise SettingsError(f"network is {self.network!r}, expected one of {', '.join(network_names())}")
        _check_integer("num_classes", self.num_classes, 1, MAX_CLASSES)
        _check_integer("width", self.width, 1, MAX_WIDTH)
        _check_integer("blocks", self.blocks, 1, MAX_REPEATS)
        _check_integer("ocr_channels", self.ocr_channels, 2, MAX_OCR_CHANNELS)
        if self.ocr_channels % 2:
            raise SettingsError(f"ocr_channels is {self.ocr_channels}, expected an even number")
        if len(self.modules) != 3:
            raise SettingsError(f"modules is {self.modules}, expected three numbers, for stages 2, 3 and 4")
        for repeats in self.modules:
            _check_integer("modules", repeats, 1, MAX_REPEATS)
        if self.output_stride not in OUTPUT_STRIDES:
            raise SettingsError(f"output_stride is {self.output_stride!r}, expected one of {OUTPUT_STRIDES}")
        if self.attention not in get_args(Fusion):
            raise SettingsError(f"attention is {self.attention!r}, expected one of {', '.join(get_args(Fusion))}")
        self._check_attention_scales()
        _check_colours("mean", self.mean, positive=False)
        _check_colours("std", self.std, positive=True)
        if self.network in ENCODER_NETWORKS:
            from teacher.networks.encoders import check_encoder

            check_encoder(self.encoder)
        elif self.encoder is not None:
            raise SettingsError(
                f"{self.network} has a trunk of its own, got the encoder {self.encoder!r}: leave it out"
            )

    def _check_attention_scales(self) -> None:
        scales: tuple[Any, ...] = self.attention_scales
        if self.attention != "explicit":
            if scales:
                raise SettingsError(f"attention_scales are {scales}, and only an explicit attention has any")
            return
        if self.network not in ENCODER_NETWORKS:
            others = ", ".join(ENCODER_NETWORKS)
            raise SettingsError(f"{self.network} has no explicit attention; choose one of {others}")
        numbers = all(isinstance(s, int | float) and not isinstance(s, bool) and 0 < s <= MAX_SCALE for s in scales)
        if not numbers or not 2 <= len(scales) <= MAX_SCALES or len(set(scales)) < len(scales) or 1.0 not in scales:
            raise SettingsError(
                f"attention_scales are {scales}, expected 2 to {MAX_SCALES} different numbers up to {MAX_SCALE}, 1.0 "
                f"among them"
            )

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values, in the form that `from_dict` reads; its digest is part of a teacher's."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        for name in ("attention", "attention_scales"):
            if getattr(self, name) == getattr(type(self), name):
                del values[name]  # so that what is older than these fields keeps its digest
        return values

    @classmethod
    def from_dict(cls, content: Any, where: str) -> "NetworkSpec":  # noqa: ANN401 - whatever a checkpoint holds
        """Read a specification from a checkpoint, which is not to be trusted.

        Args:
            content: what `to_dict` gave.
            where: the checkpoint, for the message.

        Raises:
            CheckpointError: it is no specification of a network that can be built.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or not known >= content.keys() >= {"network", "num_classes"}:
            got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise CheckpointError(
                f"{where}: the network's specification is {got}, expected some of {', '.join(sorted(known))}; "
                f"the file is damaged or of a newer autocoarse"
            )
        try:
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
            return cls(**values)
        except (SettingsError, TypeError) as error:
            raise CheckpointError(f"{where}: the network's specification cannot be used: {error}") from error


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SettingsError(f"{name} is {value!r}, expected a whole number in {low}..{high}")


def _check_colours(name: str, values: tuple[Any, ...], *, positive: bool) -> None:
    numbers = len(values) == 3 and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    if not numbers or (positive and min(values) <= 0):
        raise SettingsError(
            f"{name} is {values!r}, expected three {'positive ' if positive else ''}numbers, one a colour"
        )


def check_trunk(network: NetworkName, encoder: str | None) -> None:
    """Refuse an encoder that is none of the network's.

    Raises:
        SettingsError: hrnet-ocr is to stand on an encoder of another name than its trunk's.
    """
    if network not in ENCODER_NETWORKS and encoder is not None and encoder not in TRUNK_WIDTHS:
        raise SettingsError(
            f"{network} has a trunk of its own, got the encoder {encoder!r}: leave it out, or choose the trunk's width "
            f"by one of {', '.join(TRUNK_WIDTHS)}"
        )


def default_spec(
    network: NetworkName,
    num_classes: int,
    encoder: str | None = None,
    *,
    output_stride: int = 16,
    attention: Fusion = "hierarchical",
    attention_scales: tuple[float, ...] | None = None,
) -> NetworkSpec:
    """The usual form of a network, with the normalisation its pretrained weights expect.

    Args:
        network: one of `network_names()`.
        num_classes: 1..255.
        encoder: timm's name of the encoder, or wide_resnet38; of hrnet-ocr the trunk, hrnet_w48 where none is named.
        output_stride: of the encoder's coarsest features; not of hrnet-ocr.
        attention: how predictions at several scales are fused.
        attention_scales: of an explicit attention; None: 0.5, 1 and 2.

    Raises:
        SettingsError: a value is unknown or out of range.
    """
    check_trunk(network, encoder)
    scales = attention_scales or (EXPLICIT_SCALES if attention == "explicit" else ())
    if network not in ENCODER_NETWORKS:
        width = TRUNK_WIDTHS[encoder or "hrnet_w48"]
        return NetworkSpec(network, num_classes, width=width, attention=attention, attention_scales=scales)
    from teacher.networks.encoders import normalisation_of

    spec = NetworkSpec(network, num_classes, encoder, output_stride, attention=attention, attention_scales=scales)
    return replace(spec, **normalisation_of(str(encoder)))


def build_network(spec: NetworkSpec) -> nn.Module:
    """Build a network with start values.

    Args:
        spec: what to build.

    Returns:
        A module that satisfies `teacher.networks.prediction.Network`, in training mode, on the CPU.

    Raises:
        SettingsError: the encoder cannot give the features at several strides that the decoder needs.
    """
    if spec.network not in ENCODER_NETWORKS:
        has_head = spec.attention == "hierarchical"
        return HRNetOCR(spec.num_classes, spec.width, spec.modules, spec.blocks, spec.ocr_channels, attention=has_head)
    from teacher.networks.deeper import DeeperDecoder
    from teacher.networks.deeplab import DeepLab, DeepLabDecoder

    try:
        return DeepLab(
            str(spec.encoder),
            spec.num_classes,
            spec.output_stride,
            DeeperDecoder if spec.network == "deeperlab" else DeepLabDecoder,
            attention=spec.attention,
            scales=spec.attention_scales,
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        # timm refuses in many ways: each family of encoders checks its own arguments.
        other = "an output_stride of 32, or " if spec.output_stride != 32 else ""
        raise SettingsError(
            f"encoder {spec.encoder!r} cannot be used by {spec.network} at output stride {spec.output_stride} "
            f"({type(error).__name__}: {error}); try {other}a convolutional encoder such as tf_efficientnet_lite0"
        ) from error
