"""Networks small enough for tests, with weights that give scores and attention a spread."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from teacher.networks.registry import NetworkSpec, build_network

FillNetwork = Callable[[NetworkSpec], nn.Module]


@pytest.fixture
def narrow_spec() -> NetworkSpec:
    """A narrow HRNet-OCR for three classes."""
    return NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)


@pytest.fixture
def fill_network() -> FillNetwork:
    """Build a network in evaluation mode whose norms have seen data, so that outputs are neither constant nor huge."""

    def build(spec: NetworkSpec) -> nn.Module:
        torch.manual_seed(11)
        network = build_network(spec)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # plain averages
        with torch.no_grad():
            network.train()(torch.randn(2, 3, 96, 64))
        return network.eval()

    return build


@pytest.fixture
def images() -> Tensor:
    """Two images of odd size: (2, 3, 45, 61) float32, normalised."""
    return torch.randn(2, 3, 45, 61, generator=torch.Generator().manual_seed(5))
