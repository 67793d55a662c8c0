"""1x1 convolutions do not depend on the number of threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from teacher.execution import Execution
from teacher.networks.one_dnn import OneDnnConvolution, with_one_dnn
from teacher.networks.registry import NetworkSpec

FillNetwork = Callable[[NetworkSpec], nn.Module]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [True, False])
def test_a_replaced_convolution_is_the_same_function(bias: bool) -> None:
    """In both layouts, within rounding."""
    plain = nn.Conv2d(13, 7, 1, bias=bias)
    (replaced,) = with_one_dnn(nn.Sequential(plain))
    assert isinstance(replaced, OneDnnConvolution)
    image = torch.randn(2, 13, 9, 5)
    with torch.inference_mode():
        for layout in (torch.contiguous_format, torch.channels_last):
            assert torch.allclose(replaced(image.contiguous(memory_format=layout)), plain(image), atol=1e-5)


def test_other_convolutions_stay() -> None:
    """Strides, groups, padding and larger kernels are torch's."""
    others = [nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1)]
    network = nn.Sequential(*others, nn.Conv2d(4, 4, 3))
    assert [type(one) for one in with_one_dnn(network)] == [nn.Conv2d] * 4


def test_a_network_predicts_the_same_with_any_number_of_threads(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, threads: Callable[[int], None]
) -> None:
    """One thread or two: the logits differ by rounding, far below what decides a pixel."""
    execution = Execution(fill_network(narrow_spec), torch.device("cpu"))
    image: Tensor = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(3))
    found = []
    for count in (1, 2):
        threads(count)
        found.append(execution(image).logits)
    assert (found[0] - found[1]).abs().max() <= 1e-5 * found[0].abs().max()
