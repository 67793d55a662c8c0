"""Networks in row stripes are the same function, whatever the size of image and stripe."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import Tensor, nn

from teacher.execution import Execution
from teacher.networks import striped
from teacher.networks.deeplab import DeepLab
from teacher.networks.layers import resize
from teacher.networks.prediction import Fusion
from teacher.networks.registry import NetworkName, NetworkSpec, default_spec
from teacher.networks.striped import StripedBlock, stripes, with_stripes
from teacher.networks.striped_deeplab import StripedDeepLabV3Plus, SummedPyramid, enlarged_rows, in_stripes

FillNetwork = Callable[[NetworkSpec], nn.Module]


@given(height=st.integers(1, 200), rows=st.integers(0, 250))
def test_stripes_are_the_map(height: int, rows: int) -> None:
    """Together they are all rows in order, and none has more than asked, or more than one where none was asked."""
    cut = list(stripes(height, rows))
    assert np.concatenate([np.arange(height)[one] for one in cut]).tolist() == list(range(height))
    assert all(one.stop - one.start <= max(1, rows) for one in cut)


@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 17)),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    same=st.booleans(),
    wide=st.sampled_from([1, 2000, 5000]),
    channels_last=st.booleans(),
)
@settings(deadline=None)
def test_a_block_in_stripes_is_the_block(
    size: tuple[int, int], kernel: int, stride: int, dilation: int, same: bool, wide: int, channels_last: bool
) -> None:
    """In float64 and for any size, kernel, padding and stripe, what stripes give is what the whole map gives."""
    torch.manual_seed(0)
    before, after = (nn.Sequential(nn.Conv2d(*pair, 1), nn.ReLU(inplace=True)).double() for pair in ((4, 6), (6, 4)))
    kind, padding = (Conv2dSame, 0) if same else (nn.Conv2d, dilation * (kernel // 2))
    convolution = kind(6, 6, kernel, stride, padding, dilation, groups=6).double()
    shortcut = stride == 1
    image = torch.randn(2, 4, *size, dtype=torch.float64)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    kept = image.clone()
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(striped, "WIDE_BYTES", wide)
        expected = after(convolution(before(image))) + (image if shortcut else 0)
        got = StripedBlock(before, convolution, after, shortcut=shortcut)(image)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert torch.equal(image, kept)


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(deadline=None)
def test_enlarged_rows_are_rows_of_the_enlarged_map(
    size: tuple[int, int], target: tuple[int, int], cut: tuple[float, float]
) -> None:
    """Any run of rows of a resized map is what resizing the whole gives there."""
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    first, last = sorted(round(one * (target[0] - 1)) for one in cut)
    rows = slice(first, last + 1)
    assert torch.allclose(enlarged_rows(maps, target, rows), resize(maps, target)[:, :, rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("encoder", "blocks"),
    [("tf_efficientnet_lite0", 16), ("mobilenetv3_small_050", 2), ("resnet10t", 0)],  # v3's others look at whole maps
)
def test_the_network_in_stripes_predicts_the_same(
    fill_network: FillNetwork, encoder: str, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, DeepLabV3+ in stripes of some rows predicts as it does whole, with and without attention."""
    monkeypatch.setattr(striped, "WIDE_BYTES", 5000)
    network = fill_network(default_spec("deeplabv3plus", 5, encoder)).double()
    in_stripes = StripedDeepLabV3Plus(copy.deepcopy(network))
    assert sum(isinstance(module, StripedBlock) for module in in_stripes.modules()) == blocks
    for size in ((45, 61), (17, 16)):
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.inference_mode():
            expected, got = network(image), in_stripes(image)
            alone = in_stripes(image, attend=False)
        spread = expected.logits.abs().max()
        assert (got.logits - expected.logits).abs().max() < 1e-12 * spread
        assert (alone.logits - expected.logits).abs().max() < 1e-12 * spread
        assert (got.attention - expected.attention).abs().max() < 1e-7  # which is float32
        assert alone.attention is None


@pytest.mark.parametrize(("network", "attention"), [("deeperlab", "hierarchical"), ("deeplabv3plus", "explicit")])
def test_other_forms_of_the_network_have_their_encoder_in_stripes(
    fill_network: FillNetwork, network: NetworkName, attention: Fusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another decoder, or scales of its own, the network predicts in float64 as it does whole."""
    monkeypatch.setattr(striped, "WIDE_BYTES", 5000)
    whole = fill_network(default_spec(network, 5, "tf_efficientnet_lite0", attention=attention)).double()
    taken = copy.deepcopy(whole)
    assert isinstance(taken, DeepLab)
    cut = in_stripes(taken)
    assert _blocks(cut) == 16
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected, got = whole(image).logits, cut(image).logits
    assert (got - expected).abs().max() < 1e-6 * expected.abs().max()  # the explicit fusion is in float32


def test_only_the_cpu_in_full_precision_has_stripes(fill_network: FillNetwork) -> None:
    """A network for the CPU is computed in stripes, one in half precision is not, and the given one is left."""
    network = fill_network(default_spec("deeplabv3plus", 5, "tf_efficientnet_lite0"))
    full, half = (Execution(network, torch.device("cpu"), kind) for kind in (None, torch.bfloat16))
    counts = [_blocks(one._runner.module) for one in (full, half)] + [_blocks(network)]
    assert counts == [16, 0, 0]


def test_other_networks_are_left(fill_network: FillNetwork, narrow_spec: NetworkSpec) -> None:
    """A network without inverted residuals has no block replaced."""
    assert _blocks(with_stripes(fill_network(narrow_spec))) == 0


def test_the_pyramid_is_the_sum_of_its_branches(fill_network: FillNetwork) -> None:
    """In float64, mixing the pyramid's branches one after the other gives what mixing them joined does."""
    network = fill_network(default_spec("deeplabv3plus", 5, "resnet10t")).double()
    pyramid = network.decoder.aspp[0]
    features: Tensor = torch.randn(2, 512, 5, 7, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(SummedPyramid(pyramid)(features), pyramid(features), rtol=0, atol=1e-12)


def _blocks(network: nn.Module) -> int:
    return sum(isinstance(module, StripedBlock) for module in network.modules())
