"""Which networks there are: a specification that fits in a checkpoint, and the building of a network from it.

Building sets start values only; weights are loaded in `teacher.weights`. timm and what it needs, 200 MB and two seconds
in a process, are imported where an encoder of timm's is asked for.
"""

import difflib
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from torch import nn

from storage.errors import CheckpointError, SettingsError
from storage.schema import MAX_CLASSES
from teacher.networks.hrnet_ocr import HRNetOCR

NetworkName = Literal["deeplabv3plus", "hrnet-ocr"]
OUTPUT_STRIDES = (8, 16, 32)
MAX_WIDTH = 256
MAX_REPEATS = 16
MAX_OCR_CHANNELS = 4096
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
    """timm's name of the encoder; deeplabv3plus only, and needed there."""
    output_stride: int = 16
    """Of the encoder's coarsest features: 8, 16 or 32; deeplabv3plus only."""
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
        _check_colours("mean", self.mean, positive=False)
        _check_colours("std", self.std, positive=True)
        if self.network == "deeplabv3plus":
            check_encoder(self.encoder)
        elif self.encoder is not None:
            raise SettingsError(
                f"{self.network} has a trunk of its own, got the encoder {self.encoder!r}: leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values, in the form that `from_dict` reads."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

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


def check_encoder(name: object) -> str:
    """Refuse what is no encoder of timm; nothing is looked up on the network.

    Returns:
        The name.

    Raises:
        SettingsError: no such encoder; the message names similar ones.
    """
    if not isinstance(name, str) or not name:
        raise SettingsError(f"deeplabv3plus needs an encoder of timm by name (say tf_efficientnet_lite0), got {name!r}")
    import timm

    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        advice = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists them"
        raise SettingsError(f"timm {timm.__version__} has no encoder {name!r}; {advice}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise SettingsError(f"encoder {name!r}: {error} Leave out what follows the dot.") from error
    return name


def default_spec(network: NetworkName, num_classes: int, encoder: str | None = None) -> NetworkSpec:
    """The usual form of a network, with the normalisation its pretrained weights expect.

    Args:
        network: one of `network_names()`.
        num_classes: 1..255.
        encoder: timm's name of the encoder; deeplabv3plus only.

    Raises:
        SettingsError: a value is unknown or out of range.
    """
    if network != "deeplabv3plus":
        return NetworkSpec(network, num_classes, encoder)
    name = check_encoder(encoder)
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(name)
    normalisation: dict[str, Any] = {"mean": published.mean, "std": published.std} if published else {}
    return replace(NetworkSpec(network, num_classes, encoder), **normalisation)


def build_network(spec: NetworkSpec) -> nn.Module:
    """Build a network with start values.

    Args:
        spec: what to build.

    Returns:
        A module that satisfies `teacher.networks.prediction.Network`, in training mode, on the CPU.

    Raises:
        SettingsError: the encoder cannot give the features at several strides that DeepLabV3+ needs.
    """
    if spec.network == "hrnet-ocr":
        return HRNetOCR(spec.num_classes, spec.width, spec.modules, spec.blocks, spec.ocr_channels)
    from teacher.networks.deeplab import DeepLabV3Plus

    try:
        return DeepLabV3Plus(str(spec.encoder), spec.num_classes, spec.output_stride)
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError, AttributeError) as error:
        # timm refuses in many ways: each family of encoders checks its own arguments.
        other = "an output_stride of 32, or " if spec.output_stride != 32 else ""
        raise SettingsError(
            f"encoder {spec.encoder!r} cannot be used by deeplabv3plus at output stride {spec.output_stride} "
            f"({type(error).__name__}: {error}); try {other}a convolutional encoder such as tf_efficientnet_lite0"
        ) from error
