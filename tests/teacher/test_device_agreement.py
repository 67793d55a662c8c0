"""All that predicts and decides keeps its tensors on the device that it is told, and seldom waits for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from teacher.decision import DecisionRule
from teacher.ensemble import EnsemblePredictor
from teacher.execution import Execution
from teacher.foreign.contract import ModelSettings
from teacher.foreign.exported import open_exported
from teacher.foreign.factory import open_factory
from teacher.foreign.predictor import ForeignPredictor, Grouping
from teacher.fusion import ScaledPrediction
from teacher.joint_decision import decide_jointly
from teacher.late_fusion import View, joint_logits
from teacher.network_predictor import NetworkPredictor, predict_views
from teacher.networks.registry import NetworkSpec, default_spec
from teacher.scale_weights import scale_weights
from teacher.tiling import tiled
from tests.claimed_device import CUDA, ClaimedDevice, claimed_device, held
from tests.teacher.test_foreign_exported import BATCH_AND_SIDES, export
from tests.teacher.test_joint_decision import make_view
from tests.teacher.test_scale_head import random_head

FillNetwork = Callable[[NetworkSpec], nn.Module]
CPU = torch.device("cpu")
SIZE = (45, 61)
DEEPLAB = default_spec("deeplabv3plus", 3, "mobilenetv3_small_050")
SPECS = [
    NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16),
    DEEPLAB,
    replace(DEEPLAB, attention="explicit", attention_scales=(0.5, 1.0)),
    default_spec("deeperlab", 3, "mobilenetv3_small_050"),
]
FACTORY = """
import torch

def make(device):
    shift = torch.linspace(0, 1, 5, device=device).view(1, 5, 1, 1)
    return lambda images: {"out": images.mean(1, keepdim=True) * 9 * (shift - 0.5)}
"""


class OfTheHost(nn.Module):
    """Makes tensors as it goes, of the CPU where it is exported there: tables, indices, constants, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, padding=1)
        self.plain = torch.linspace(0, 1, 5).view(1, 5, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (batch, 5, h, w)."""
        scores = self.convolution(functional.avg_pool2d(images, 4)) + self.plain
        height, width = scores.shape[-2:]
        scores = scores + torch.arange(height).view(1, 1, -1, 1) / height + torch.zeros(1, 1, height, width)
        scores = scores[:, torch.tensor([4, 3, 2, 1, 0])] * torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).view(1, 5, 1, 1)
        scores = torch.where(scores > 0, scores, torch.tensor(0.1)) + torch.eye(5).sum(0).view(1, 5, 1, 1)
        rows = scores.flatten(2).transpose(1, 2).unsqueeze(1)
        attended = functional.scaled_dot_product_attention(rows, rows, rows).squeeze(1)
        return scores + attended.transpose(1, 2).reshape(scores.shape)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimedDevice]:
    """A device that tensors claim to be on."""
    with claimed_device(monkeypatch) as claimed:
        yield claimed


@pytest.fixture
def pictures() -> Tensor:
    """An image, (1, 45, 61, 3) uint8."""
    return torch.randint(0, 256, (1, 45, 61, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def assert_same(got: list[View], expected: list[View], tolerance: float = 1e-4) -> None:
    """Predictions of the claimed device are those of the CPU."""
    for claimed, view in zip(got, expected, strict=True):
        for there, here in zip(claimed, view, strict=True):
            assert there.size == here.size
            assert torch.allclose(
                held(there.logits), here.logits, rtol=0, atol=tolerance * float(here.logits.abs().max())
            )
            assert (there.attention is None) == (here.attention is None)
            if there.attention is not None and here.attention is not None:
                assert torch.allclose(held(there.attention), here.attention, atol=tolerance)


@pytest.mark.parametrize(
    "rule", [DecisionRule((0.5,)), DecisionRule((0.3, 0.4, 0.5, 0.6)), DecisionRule((0.4,), "top2", 100)]
)
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 2.0)])
def test_fusion_and_decision(device: ClaimedDevice, rule: DecisionRule, scales: tuple[float, ...]) -> None:
    """Labels, what is kept, weights and logits are made on the device, with five waits an image at most."""
    view = make_view(6, SIZE, scales, smooth=2, batch=1)
    there = tuple(
        ScaledPrediction(p.logits.to(CUDA), None if p.attention is None else p.attention.to(CUDA), p.size) for p in view
    )
    decide_jointly([there, there], SIZE, rule)  # so that tables are there
    device.waits.clear()
    made, expected = decide_jointly([there, there], SIZE, rule), decide_jointly([view, view], SIZE, rule)
    assert 1 <= len(device.waits) <= 5, device.waits
    assert torch.equal(held(made.labels), expected.labels)
    assert (made.soft is None) == (expected.soft is None)
    if made.soft is not None and expected.soft is not None:
        assert torch.equal(held(made.soft), expected.soft)
    device.waits.clear()
    assert torch.equal(held(scale_weights([there], SIZE)), scale_weights([view], SIZE))
    assert torch.allclose(held(joint_logits([there], SIZE)), joint_logits([view], SIZE), atol=1e-5)
    assert device.waits == []


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.network}-{spec.attention}")
def test_networks(device: ClaimedDevice, fill_network: FillNetwork, spec: NetworkSpec) -> None:
    """Whole and in tiles, mirrored too, a network predicts on its device alone and never waits for it."""
    network = fill_network(spec)
    images = torch.rand(1, 3, 96, 256, generator=torch.Generator().manual_seed(3))
    here, there = Execution(network, CPU), Execution(network, CUDA)
    sent = images.to(CUDA)
    device.waits.clear()
    for tile in (None, 224):
        expected, got = (
            predict_views(one if tile is None else tiled(one, tile), given, (0.5, 1.0), spec.attention, flip=True)
            for one, given in ((here, images), (there, sent))
        )
        assert_same(got, expected, 2e-3)  # large logits decide between scales
    assert device.waits == []


@pytest.fixture(scope="module", params=[False, True], ids=["as-written", "decomposed"])
def program(request: pytest.FixtureRequest) -> bytes:
    """A network exported on the CPU, as it is and taken apart into core operators."""
    torch.manual_seed(1)
    return export(OfTheHost(), axes=BATCH_AND_SIDES, decomposed=request.param)


def test_exported_programs(program: bytes, device: ClaimedDevice, tmp_path: Path, pictures: Tensor) -> None:
    """A program exported on the CPU makes its tensors on the teacher's device; so do classes and a fitted attention."""
    path = tmp_path / "network.pt2"
    path.write_bytes(program)

    def opened(place: torch.device) -> ForeignPredictor:
        model = open_exported(path, ModelSettings(place))
        return ForeignPredictor(model, Grouping((0, 1, 1, 2, None), 3), place, random_head(4))

    expected = opened(CPU).predict(pictures, (0.5, 1.0), "hierarchical", flip=True)
    predictor = opened(CUDA)
    sent = pictures.to(CUDA)
    device.waits.clear()
    assert_same(predictor.predict(sent, (0.5, 1.0), "hierarchical", flip=True), expected)
    assert [wait for wait in device.waits if wait != "index"] == []  # that of the program is its own


def test_factories_and_teachers_together(
    device: ClaimedDevice, tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch, fill_network: FillNetwork
) -> None:
    """A user's own network and one of ours, by agreement, give the CPU's joint prediction on the device."""
    (tmp_path / "made_anywhere.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = fill_network(DEEPLAB)

    def together(place: torch.device) -> EnsemblePredictor:
        foreign = ForeignPredictor(
            open_factory("made_anywhere:make", ModelSettings(place)), Grouping((0, 1, 1, 2, None), 3), place
        )
        return EnsemblePredictor([foreign, NetworkPredictor(network, DEEPLAB, place, None)], 3, "agreement")

    expected = together(CPU).predict(pictures, (0.5, 1.0), "hierarchical")
    predictor = together(CUDA)
    sent = pictures.to(CUDA)
    predictor.predict(sent, (0.5, 1.0), "hierarchical")
    device.waits.clear()
    assert_same(predictor.predict(sent, (0.5, 1.0), "hierarchical"), expected)
    assert device.waits == []


class SaysPrecision:
    """A foreign model that looks at how it is to compute."""

    name, digest, labels, weight_bytes = "says precision", "0" * 64, None, 0

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool, str]] = []

    def facts(self) -> dict[str, str]:
        """Nothing to tell."""
        return {}

    def __call__(self, images: Tensor, _scale: float, /) -> Tensor:
        """Three logits a pixel."""
        flags = torch.backends.cudnn
        self.seen.append((flags.allow_tf32, flags.deterministic, torch.get_float32_matmul_precision()))
        return images


@pytest.mark.usefixtures("device")
def test_foreign_teachers_are_float32_throughout(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA no foreign model, nor a fitted attention, is computed in TF32, whatever torch was told before."""
    model, attention, seen = SaysPrecision(), random_head(3), []
    attention.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    predictor = ForeignPredictor(model, Grouping((0, 1, 2), 3), CUDA, attention)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        predictor.predict(pictures.to(CUDA), (0.5, 1.0), "hierarchical")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert model.seen == [(False, True, "highest")] * 2
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32
