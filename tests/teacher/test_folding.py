import copy
from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import Tensor, nn

from storage.errors import SettingsError
from teacher.folding import find_pairs, fold_batch_norms
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec

FillNetwork = Callable[[NetworkSpec], nn.Module]

SPECS = [
    NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 2, 1), blocks=2, ocr_channels=16),
    default_spec("deeplabv3plus", 5, "tf_efficientnet_lite0"),
    default_spec("deeplabv3plus", 5, "resnet10t"),
    default_spec("deeplabv3plus", 5, "mobilenetv3_small_050"),
    default_spec("deeplabv3plus", 5, "resnext26ts"),
]


class _Small(nn.Module):
    """Whatever is given, between a first convolution and the logits."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = middle
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:  # noqa: ARG002 - a network's
        logits = self.last(self.middle(self.first(images)))
        return ScalePrediction(logits, None, None)


class _ReadTwice(nn.Module):
    """A norm beside a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x) + x
        return y


class _TwoNames(nn.Module):
    """One norm under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(x)
        return y


def _with_statistics(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2),
            ):
                if values is not None:
                    values.data.uniform_(low, high, generator=generator)
    return network.eval()


def _norms(network: nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]


def _departure(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a part of the values' range."""
    return ((one - other).abs().max() / (one.max() - one.min())).item()


def _build(fill_network: FillNetwork, spec: NetworkSpec) -> nn.Module:
    """A network whose norms have seen data, and have weights and biases of their own."""
    built = fill_network(spec)
    generator = torch.Generator().manual_seed(3)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.clamp_(min=0.1)  # of the few pixels of a small image it may be next to nothing
    return built


@pytest.fixture(params=SPECS, ids=lambda spec: spec.encoder or spec.network)
def network(request: pytest.FixtureRequest, fill_network: FillNetwork) -> nn.Module:
    """Each network."""
    return _build(fill_network, request.param)


def test_a_folded_network_predicts_the_same(network: nn.Module, images: Tensor) -> None:
    """Logits and attention are those of the network with its norms, within rounding; no norm is left to be run."""
    with torch.inference_mode():
        expected, folded = network(images), fold_batch_norms(network)(images)
    assert _norms(network) == []
    assert _departure(expected.logits, folded.logits) < 1e-4
    assert (expected.attention - folded.attention).abs().max() < 1e-4


@pytest.mark.parametrize("spec", SPECS[1:], ids=lambda spec: spec.encoder)  # OCR sums in float32 whatever it is given
def test_folding_is_exact(fill_network: FillNetwork, spec: NetworkSpec, images: Tensor) -> None:
    """In float64, where rounding is out of the way, the folded network's function is the network's own."""
    exact = _build(fill_network, spec).double()
    with torch.inference_mode():
        expected, folded = exact(images.double()), fold_batch_norms(exact)(images.double())
    assert _departure(expected.logits, folded.logits) < 1e-11


def test_a_network_in_training_is_refused(network: nn.Module) -> None:
    """A network of which any part is in training mode cannot be folded."""
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).train()
    with pytest.raises(SettingsError, match="eval"):
        fold_batch_norms(network)


@pytest.mark.parametrize(
    "middle",
    [
        _ReadTwice(),
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(StdConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
        nn.Sequential(*[nn.Conv2d(4, 4, 1)] * 2, nn.BatchNorm2d(4)),
        nn.Sequential(nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.BatchNorm2d(4, track_running_stats=False),
    ],
    ids=["shortcut", "no convolution", "standardised weight", "shared convolution", "transposed", "batch's statistics"],
)
def test_what_cannot_be_folded_stays(middle: nn.Module) -> None:
    """A norm that does not alone follow one convolution with kept statistics stays, and the function with it."""
    network = _with_statistics(_Small(middle))
    image = torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norms(copy.deepcopy(network))
    assert _norms(folded) == _norms(network) != []
    with torch.inference_mode():
        assert torch.equal(folded(image).logits, network(image).logits)


@pytest.mark.parametrize(
    "middle",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        BatchNormAct2d(4, act_layer=nn.SiLU),
        BatchNormAct2d(4, apply_act=False),
        _TwoNames(),
        nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(4), nn.Hardswish()),
    ],
    ids=["norm", "no weights", "norm and activation", "norm without activation", "two names", "grouped"],
)
def test_every_kind_of_pair_is_folded(middle: nn.Module) -> None:
    """With or without weights, activation, bias or groups, a norm right after a convolution goes into it."""
    network = _with_statistics(_Small(middle))
    image = torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norms(copy.deepcopy(network))
    assert len(find_pairs(network)) == 1
    assert find_pairs(folded) == []
    assert _norms(folded) == []
    with torch.inference_mode():
        assert _departure(network(image).logits, folded(image).logits) < 1e-5


def test_pairs_are_found_in_inference_mode_too() -> None:
    """Whoever folds within inference mode gets the same pairs."""
    network = _with_statistics(_Small(nn.BatchNorm2d(4)))
    with torch.inference_mode():
        assert [tuple(pair) for pair in find_pairs(network)] == [("first", "middle")]


def test_a_network_of_some_sizes_is_folded_and_one_of_a_single_size_refused() -> None:
    """An encoder that takes multiples of 32 can be a teacher's; of one that is made for one size it is said why not."""
    strict = build_network(default_spec("deeplabv3plus", 2, "dla34", output_stride=32)).eval()
    assert find_pairs(strict)
    single = build_network(default_spec("deeplabv3plus", 2, "coatnet_pico_rw_224", output_stride=32)).eval()
    with pytest.raises(SettingsError, match="takes images of some sizes only, and none of 64x32"):
        find_pairs(single)
