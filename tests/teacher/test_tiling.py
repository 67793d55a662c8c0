"""Tiles: the interior is the whole image's, the weights are a partition, and nothing is left out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from storage.errors import SettingsError, ShapeError
from teacher.fusion import hierarchical_logits
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network
from teacher.tiling import GLOBAL_CONTEXT, Overlap, Tile, plan_tiles, smallest_tile, tiled, tiled_prediction

SIZES = [(64, 96), (61, 97), (33, 130), (127, 40), (200, 31), (99, 101), (4, 5)]


class Convolutions(nn.Module):
    """Stride 4 and a finite receptive field: an output at (i, j) sees 15 pixels around (4 i, 4 j)."""

    RADIUS = 1 + 2 + 4 + 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, padding=2, dilation=2),
        )
        self.calls: list[tuple[int, int]] = []

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict, and remember the size."""
        self.calls.append((images.shape[-2], images.shape[-1]))
        maps = self.body(images)
        return ScalePrediction(maps[:, :5], maps[:, 5:].sigmoid() if attend else None, maps[:, :5])


class TwoResolutions(Convolutions):
    """A branch of total stride 8, enlarged inside the network, as HRNet does."""

    RADIUS = 64

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(3, 6, 9, 8, 4)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict."""
        fine = self.body(images)
        maps = fine + functional.interpolate(self.coarse(images), fine.shape[-2:], mode="bilinear")
        return ScalePrediction(maps[:, :5], maps[:, 5:].sigmoid() if attend else None, None)


def noise(size: tuple[int, int], batch: int = 1) -> Tensor:
    """Images that look like noise, the same for the same size."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(size[0]))


def assert_same(got: ScalePrediction, expected: ScalePrediction) -> None:
    """Equal but for the order of sums: a few units in the last place."""
    assert expected.attention is not None
    assert got.attention is not None
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=2e-6)
    torch.testing.assert_close(got.attention, expected.attention, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tile", [48, 64, 80])
@torch.inference_mode()
def test_tiles_of_a_finite_receptive_field_give_the_whole_images_prediction(size: tuple[int, int], tile: int) -> None:
    """With its receptive field's radius for a halo, a network predicts in tiles what it predicts whole, to rounding."""
    network = Convolutions().eval()
    whole = network(noise(size, 2))
    network.calls.clear()
    got = tiled(network, tile, Overlap(network.RADIUS), align=4)(noise(size, 2))
    assert_same(got, whole)
    assert max(map(max, network.calls)) <= tile
    assert (len(network.calls) > 1) == (max(size) > tile)


@torch.inference_mode()
def test_a_halo_that_is_too_small_shows() -> None:
    """The halo is needed: with less than the radius the borders of tiles show."""
    network = Convolutions().eval()
    whole = network(noise((61, 97))).logits
    got = tiled(network, 48, Overlap(0), align=4)(noise((61, 97))).logits
    assert (got - whole).abs().max() > 0.01


@pytest.mark.parametrize("size", [(256, 320), (8, 400), (264, 136)])
@torch.inference_mode()
def test_a_resize_inside_the_network_is_the_same_where_sides_are_multiples_of_the_total_stride(
    size: tuple[int, int],
) -> None:
    """Tiles start where the coarser branch has a pixel, so that its enlargement has the whole image's phase."""
    network = TwoResolutions().eval()
    assert_same(tiled(network, 200, Overlap(network.RADIUS), align=8)(noise(size)), network(noise(size)))


@settings(deadline=None, max_examples=200)
@given(
    size=st.tuples(st.integers(4, 700), st.integers(4, 700)),
    halo=st.integers(0, 70),
    ramp=st.integers(0, 70),
    form=st.sampled_from([(1, 1), (4, 4), (16, 4), (32, 4), (32, 8)]),
    more=st.integers(0, 300),
)
def test_weights_are_a_partition_and_halos_are_kept(
    size: tuple[int, int], halo: int, ramp: int, form: tuple[int, int], more: int
) -> None:
    """For any size each pixel's weights sum to 1, no weight is negative, and tiles are aligned and bounded.

    What is taken of a tile is a halo away from every border that is not the image's.
    """
    align, stride = form
    overlap = Overlap(halo, ramp)
    tile = smallest_tile(overlap, align=align, stride=stride) + more
    tiles = plan_tiles(size, tile, overlap, align=align, stride=stride)
    total = np.zeros([math.ceil(n / stride) for n in size])
    for one in tiles:
        rows, columns = one.rows, one.columns
        total[rows.first :, columns.first :][: len(rows.weights), : len(columns.weights)] += (
            rows.weights[:, None] * columns.weights
        )
        for span, length in zip((rows, columns), size, strict=True):
            assert span.start % align == 0
            assert 0 < span.stop - span.start <= tile
            assert span.weights.min() >= 0
            crop = span.crop(stride)
            assert crop.start * stride >= (halo if span.start else 0)
            assert span.stop == length or (crop.stop - 1) * stride + halo < span.stop - span.start
    np.testing.assert_allclose(total, 1, atol=1e-6)


@torch.inference_mode()
def test_a_ramp_blends_linearly() -> None:
    """Between two tiles a constant that each gives for itself goes over linearly, at the middle of what they share."""
    constants = iter([8.0, 0.0])  # the last tile is predicted first

    def network(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        maps = torch.full((1, 1, images.shape[-2] // 4, images.shape[-1] // 4), next(constants))
        return ScalePrediction(maps, maps if attend else None, None)

    tiles = plan_tiles((32, 96), 64, Overlap(0, 32))
    assert [(t.columns.start, t.columns.stop) for t in tiles] == [(0, 64), (32, 96)]
    row = tiled_prediction(network, noise((32, 96)), tiles).logits[0, 0, 0]
    assert row.tolist() == [0.0] * 8 + [0.5 + i for i in range(8)] + [8.0] * 8


@torch.inference_mode()
def test_a_network_in_tiles_takes_its_place_in_the_fusion() -> None:
    """A network in tiles is a network: fused over scales, only what is larger than a tile is cut."""
    network = Convolutions().eval()
    whole = hierarchical_logits(network, noise((70, 90)), (0.5, 1, 2))
    network.calls.clear()
    joint = hierarchical_logits(tiled(network, 96, Overlap(network.RADIUS), align=4), noise((70, 90)), (0.5, 1, 2))
    torch.testing.assert_close(joint, whole, rtol=0, atol=5e-6)
    assert network.calls[-2:] == [(70, 90), (35, 45)]
    assert len(network.calls) > 4


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16),
        NetworkSpec("deeplabv3plus", 3, "mobilenetv3_small_050"),
    ],
    ids=lambda spec: spec.network,
)
@torch.inference_mode()
def test_networks_with_global_context_are_tiled_to_the_same_shape(spec: NetworkSpec) -> None:
    """Of the registry's networks a tiled image has a prediction of the whole image's shape, finite everywhere."""
    torch.manual_seed(1)
    network = build_network(spec).eval()
    image = noise((261, 355))
    whole, got = network(image), tiled(network, smallest_tile(GLOBAL_CONTEXT))(image)
    assert got.logits.shape == whole.logits.shape
    assert got.attention is not None
    assert got.attention.shape == whole.attention.shape
    assert got.auxiliary is None
    assert torch.isfinite(got.logits).all()


def test_an_image_no_larger_than_a_tile_is_predicted_whole() -> None:
    """Such an image's prediction is the network's own, auxiliary logits and all."""
    network = Convolutions().eval()
    images = noise((96, 80))
    assert tiled(network, 96, Overlap(15), align=4)(images).auxiliary is not None
    assert network.calls == [(96, 80)]


def test_half_precision_is_joined_in_float32() -> None:
    """What a network says in half precision is summed and kept in float32."""

    def network(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:  # noqa: ARG001 - the protocol's
        return ScalePrediction(images[:, :1, ::4, ::4].to(torch.bfloat16), None, None)

    got = tiled(network, 96, Overlap(0))(noise((128, 128)))
    assert got.logits.dtype == torch.float32
    assert got.attention is None


def test_the_smallest_tile() -> None:
    """One total stride beyond the overlap is the least; below that there is an error that says so."""
    overlap = Overlap(64, 64)
    assert smallest_tile(overlap) == 192 + 32
    tiles: list[Tile] = plan_tiles((1000, 200), 224, overlap)
    assert [t.rows.start for t in tiles] == list(range(0, 801, 32))
    with pytest.raises(SettingsError, match="at least 224"):
        plan_tiles((1000, 1000), 223, overlap)
    with pytest.raises(SettingsError, match="at least 224"):
        tiled(Convolutions(), 100, overlap)
    with pytest.raises(SettingsError, match="multiple of the stride"):
        plan_tiles((100, 100), 64, overlap, align=6)


def test_another_stride_is_refused() -> None:
    """A network that predicts at another stride than was said is an error, not a shifted prediction."""
    with pytest.raises(ShapeError, match="stride of 8"):
        tiled(Convolutions(), 64, Overlap(15), align=8, stride=8)(noise((100, 100)))
