"""What trains keeps its tensors on the device that it is told, and does not wait for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.head_training import batch_loss
from pipeline.logit_cache import KeptImage
from pipeline.losses import Normaliser, count_for_normaliser, training_loss
from pipeline.training_settings import Loss as LossName
from pipeline.two_scale import TwoScale
from storage.label_map import LabelMap
from storage.schema import IGNORE
from teacher.fusion import ScaledPrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from tests.claimed_device import CUDA, ClaimedDevice, claimed_device, held
from tests.teacher.test_joint_decision import make_view
from tests.teacher.test_scale_head import random_head

NARROW = NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)
SPECS = [NARROW, replace(NARROW, attention="average"), default_spec("deeplabv3plus", 3, "mobilenetv3_small_050")]
SIZE, SCALES = (48, 64), (0.5, 1.0, 2.0)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimedDevice]:
    """A device that tensors claim to be on."""
    with claimed_device(monkeypatch) as claimed:
        yield claimed


def _network(spec: NetworkSpec) -> nn.Module:
    """One that trains, without dropout, of which a device draws other numbers."""
    torch.manual_seed(2)
    network = build_network(spec).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return network


@pytest.mark.parametrize("loss", ["ce", "rmi"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.network}-{spec.attention}")
def test_a_training_forward_and_its_loss(device: ClaimedDevice, spec: NetworkSpec, loss: LossName) -> None:
    """Images in bytes become the CPU's loss on the device, and nothing on the way waits for it."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 3, (2, 64, 96), dtype=torch.uint8, generator=generator)
    target[:, :8] = IGNORE
    weight = torch.tensor([1.0, 0.5])
    counted = count_for_normaliser(target.long(), weight)
    made = []
    for place in (torch.device("cpu"), CUDA):
        two_scale = TwoScale(_network(spec).to(place), spec, "fp32", checkpointing=False)
        device.waits.clear()
        sent, labels, weights, pixels, count = (
            values.to(place, non_blocking=True) for values in (images, target, weight, *counted)
        )
        norm = Normaliser(pixels, count)
        prediction = two_scale(sent)
        made.append(
            training_loss(prediction, labels.long(), weights, norm, loss=loss, auxiliary_weight=0.4, scale_weight=0.05)
        )
        assert device.waits == []
    here, there = made
    assert torch.allclose(held(there.value.detach()), here.value.detach(), rtol=1e-4)
    assert torch.allclose(held(there.by_image), here.by_image, rtol=1e-4)


def test_the_loss_of_a_fitted_attention(device: ClaimedDevice, tmp_path: Path) -> None:
    """A step's loss of a scale head, from logits on the disk, is the CPU's; the host waits for nothing but copies."""
    images = [KeptImage(tmp_path / f"{number}.safetensors") for number in range(2)]
    rng = np.random.default_rng(0)
    for number, image in enumerate(images):
        view = make_view(number, SIZE, SCALES, classes=3, batch=1)
        sent = [ScaledPrediction(p.logits.to(CUDA), None, p.size) for p in view]  # as a teacher gives them
        image.write(sent, LabelMap(rng.integers(0, 3, SIZE, dtype=np.uint8), 3))
    how = SimpleNamespace(scales=SCALES, crop=32)
    made = []
    for place in (torch.device("cpu"), CUDA):
        head, sharpness = random_head(3).to(place), torch.ones((), device=place)
        device.waits.clear()
        loss = batch_loss(head, sharpness, images, how, np.random.default_rng(1))  # type: ignore[arg-type] # all it reads
        assert set(device.waits) <= {"to", "_to_copy"}
        made.append(loss.detach())
    assert torch.allclose(held(made[1]), made[0], rtol=1e-5)
