import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from teacher.folding import fold_batch_norms
from teacher.networks import branchwise
from teacher.networks.branchwise import BranchConvolution, BranchwiseHRNetOCR
from teacher.networks.hrnet_ocr import HRNetOCR
from teacher.networks.layers import convolution, resize
from teacher.networks.registry import NetworkSpec

FillNetwork = Callable[[NetworkSpec], nn.Module]


@given(
    kernel=st.sampled_from([1, 3, 5]),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=4),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_branches_apart_give_what_they_give_joined(
    kernel: int, sizes: list[tuple[int, int]], bias: bool, seed: int
) -> None:
    """In float64, maps of any sizes convolved apart and added up are the convolution of the enlarged, joined maps."""
    torch.manual_seed(seed)
    channels = [2 + i for i in range(len(sizes))]
    maps = [torch.randn(2, c, *size, dtype=torch.float64) for c, size in zip(channels, sizes, strict=True)]
    joined = convolution(sum(channels), 3, kernel, bias=bias).double()
    apart = BranchConvolution(joined, channels)
    with torch.inference_mode():
        expected = joined(torch.cat([resize(m, sizes[0]) for m in maps], dim=1))
        assert torch.allclose(apart(maps), expected, rtol=0, atol=1e-12)


def test_maps_are_left_as_they_were() -> None:
    """What is added up in place is never one of the maps."""
    maps = [torch.randn(1, 2, 4, 6), torch.randn(1, 3, 2, 3), torch.randn(1, 4, 4, 6)]
    before = copy.deepcopy(maps)
    with torch.inference_mode():
        BranchConvolution(convolution(9, 5, 3), [2, 3, 4])(maps)
    assert all(torch.equal(one, other) for one, other in zip(maps, before, strict=True))


@pytest.mark.parametrize("size", [(45, 61), (64, 96), (4, 5), (33, 130)])
@pytest.mark.parametrize("split", [False, True])
def test_the_network_predicts_the_same(
    fill_network: FillNetwork,
    narrow_spec: NetworkSpec,
    size: tuple[int, int],
    split: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HRNet-OCR with its branches apart predicts what it does with them joined, also in groups and rows."""
    if split:
        monkeypatch.setattr(branchwise, "_TOGETHER", 7)
        monkeypatch.setattr(branchwise, "_STRIPE", 1)
    network = cast(HRNetOCR, fold_batch_norms(fill_network(narrow_spec)))
    image: Tensor = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(image)
        got = BranchwiseHRNetOCR(copy.deepcopy(network))(image)
    for one, other in zip(got, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()
