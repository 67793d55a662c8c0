"""The networks that can be trained, each with what it takes: parameters, arithmetic, memory, and terms of its weights.

Any encoder of timm may stand in the place of those that are listed here; nothing is fetched to tell about them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from timm.models import get_pretrained_cfg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.fitting import memory_of
from storage.errors import SettingsError
from storage.schema import load_schema
from teacher import Teacher
from teacher.networks.encoders import OWN_ENCODERS
from teacher.networks.registry import ENCODER_NETWORKS, NetworkName, NetworkSpec, build_network, default_spec
from teacher.networks.shapes import network_of_shapes, refusal

SIZE = (1024, 2048)
"""(height, width) of the image that operations and memory are told for."""

SCHEMA = "cityscapes"
"""The classes of the networks that are told of: 19."""

DEFAULT_ENCODERS: dict[NetworkName, str] = {
    "deeplabv3plus": "resnet50",
    "deeperlab": "xception71",
    "hrnet-ocr": "hrnet_w48",
}
"""Told of where a network is named without an encoder."""

_WIDE_RESNET = "terms of ImageNet, non-commercial (as github.com/mapillary/inplace_abn publishes its own)"


@dataclass(frozen=True, slots=True)
class Choice:
    """A network on an encoder."""

    network: NetworkName
    encoder: str
    output_stride: int | None = 16
    """None: the network has none to choose."""

    def spec(self) -> NetworkSpec:
        """The specification, with 19 classes.

        Raises:
            SettingsError: a value is unknown or out of range.
        """
        return default_spec(
            self.network, len(load_schema(SCHEMA)), self.encoder, output_stride=self.output_stride or 16
        )


RECOMMENDED = (
    Choice("hrnet-ocr", "hrnet_w48", None),
    Choice("hrnet-ocr", "hrnet_w32", None),
    Choice("hrnet-ocr", "hrnet_w18", None),
    Choice("deeplabv3plus", "wide_resnet38", 8),
    Choice("deeplabv3plus", "xception71"),
    Choice("deeplabv3plus", "resnet50", 8),
    Choice("deeplabv3plus", "resnet50"),
    Choice("deeplabv3plus", "tf_efficientnet_b4"),
    Choice("deeplabv3plus", "tf_efficientnet_lite0"),
    Choice("deeperlab", "xception71"),
    Choice("deeperlab", "wide_resnet38", 8),
)
"""Of the papers that the method comes from, and one that is trained without a GPU."""


@dataclass(frozen=True, slots=True)
class Weights:
    """ImageNet weights of an encoder. They always come by a file."""

    name: str
    """What the file is known as."""
    licence: str
    """Its terms, as timm states them or as they are published; "not stated" where nobody says."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What labelling an image of `SIZE` at scale 1 takes, float32, on a CPU."""

    operations: int
    """Floating point operations of a forward with its attention: a multiplication and its addition count as two."""
    memory_bytes: int
    """Planned peak, weights included."""


def choose(network: NetworkName | None, encoder: str | None, output_stride: int | None) -> Choice:
    """The one network that a few words name.

    Args:
        network: None: deeplabv3plus.
        encoder: None: the usual one of the network.
        output_stride: None: 16.

    Raises:
        SettingsError: the network has an output stride of its own.
    """
    network = network or "deeplabv3plus"
    if network in ENCODER_NETWORKS:
        return Choice(network, encoder or DEFAULT_ENCODERS[network], output_stride or 16)
    if output_stride is not None:
        raise SettingsError(f"output_stride is that of an encoder, and {network} has none: leave it out")
    return Choice(network, encoder or DEFAULT_ENCODERS[network], None)


def weights_of(encoder: str) -> Weights:
    """Which ImageNet weights fit an encoder, and under which terms they are."""
    if encoder in OWN_ENCODERS:
        return Weights("wider_resnet38.pth.tar", _WIDE_RESNET)
    # timm has its own copy of HRNet's public weights, and the same names
    published = get_pretrained_cfg(encoder)
    if published is None:
        return Weights("none published", "not stated")
    return Weights(f"timm's {encoder}.{published.tag}", published.license or "not stated")


def parameters_of(choice: Choice) -> int:
    """Numbers that are learned; it takes no memory.

    Raises:
        SettingsError: there is no such network.
    """
    with torch.device("meta"):
        network = build_network(choice.spec())
    return sum(parameter.numel() for parameter in network.parameters())


def measure_demand(choice: Choice) -> Demand:
    """Count operations, and plan memory by the network as it is run; it takes seconds, and the weights' memory twice.

    Raises:
        SettingsError: there is no such network, or it takes no images of that size.
    """
    spec = choice.spec()
    if reason := refusal(spec, SIZE):
        raise SettingsError(
            f"encoder {spec.encoder!r} cannot take an image of {SIZE[1]}x{SIZE[0]} ({reason}), so what one demands "
            f"cannot be measured: leave out --measure, or choose an encoder that takes any size"
        )
    with network_of_shapes(spec) as network:
        operations = count_operations(network.eval(), SIZE)
    teacher = Teacher.of_network(build_network(spec), spec, load_schema(SCHEMA))
    return Demand(operations, memory_of(teacher).peak(SIZE, (1.0,)) + teacher.weight_bytes)


def count_operations(network: nn.Module, size: tuple[int, int]) -> int:
    """Floating point operations of one image's forward; a multiplication and its addition count as two.

    Convolutions and matrix products are counted, as in published figures; norms, activations and resizing are not.

    Args:
        network: of `network_of_shapes`, so that nothing is computed.
        size: (height, width) of the image.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size))
    return int(counter.get_total_flops())


@dataclass(frozen=True, slots=True)
class Listing:
    """A network, and what there is to say of it."""

    choice: Choice
    parameters: int
    weights: Weights
    demand: Demand | None
    """None: it was not asked for."""


def list_networks(choices: tuple[Choice, ...], *, measure: bool) -> Iterator[Listing]:
    """Tell of networks, one after the other.

    Args:
        choices: which.
        measure: also tell what they demand, which takes seconds a network.

    Raises:
        SettingsError: there is no such network.
    """
    for choice in choices:
        demand = measure_demand(choice) if measure else None
        yield Listing(choice, parameters_of(choice), weights_of(choice.encoder), demand)
