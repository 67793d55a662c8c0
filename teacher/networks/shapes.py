"""A network of which only shapes are computed: for counting what it takes, and for asking which images it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode  # documented by torch, though its module has an underscore

from teacher.networks.encoders import OWN_ENCODERS
from teacher.networks.registry import ENCODER_NETWORKS, NetworkSpec, build_network

_ANY_SIZE = (731, 1237)
"""(height, width) that no encoder is made for: one that takes it takes all, down to a few cells of its own."""


@contextmanager
def network_of_shapes(spec: NetworkSpec) -> Iterator[nn.Module]:
    """While this lasts no tensor that is made has content, as the network's own have none.

    It takes neither memory nor random numbers.

    Args:
        spec: what to build.

    Yields:
        The network, in training mode, as if on the CPU.

    Raises:
        SettingsError: it cannot be built.
    """
    # not built within the mode: encoders with stochastic depth ask for the values of a tensor, as numbers for layers
    with torch.device("meta"):
        network = build_network(spec)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield network.to_empty(device="cpu")


@lru_cache(maxsize=64)
def refusal(spec: NetworkSpec, size: tuple[int, int]) -> str:
    """Why a network's encoder takes no images of a size; empty where it does.

    Only shapes are computed: what an encoder would notice by the content of its tensors is not found.

    Args:
        spec: of the network.
        size: (height, width), in pixels, as the encoder is given it.

    Raises:
        SettingsError: the network cannot be built.
    """
    if spec.network not in ENCODER_NETWORKS or spec.encoder in OWN_ENCODERS:
        return ""
    with torch.device("meta"), torch.no_grad():
        encoder = build_network(spec).eval().get_submodule("encoder")
        try:
            encoder(torch.empty(1, 3, *size))
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:  # each family of encoders has its own
            return str(error) or type(error).__name__
    return ""


def takes_any_size(spec: NetworkSpec) -> bool:
    """Whether a network takes images whatever their size is."""
    return not refusal(spec, _ANY_SIZE)
