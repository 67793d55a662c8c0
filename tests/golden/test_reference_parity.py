"""The full HRNet-OCR against data that the public reference computed, where that data is at hand.

float16 rounding of the stored values apart, logits agree within LOGIT_TOLERANCE; labels agree on 99.9 % of the pixels
whose top probability is not within MARGIN of the threshold.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from storage.schema import load_schema
from teacher import Teacher
from teacher.decision import decide
from teacher.fusion import predict_at_scale
from teacher.networks.registry import build_network, default_spec
from teacher.normalisation import normalise
from teacher.weights import load_strictly, read_state_dict

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
NAME = "0001TP_008550"
SCALES = (0.5, 1.0, 2.0)
THRESHOLD = 0.5
MARGIN = 0.002
LOGIT_TOLERANCE = 1e-3
PROBE_TOLERANCE = 1e-4
"""Relative to the spread of the layer's values."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference's data is not at hand"),
]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The full network with the reference's synthetic weights, read from a checkpoint in the public layout."""
    path = tmp_path_factory.mktemp("reference") / "fill.pth"
    subprocess.run([sys.executable, str(REFERENCE / "fill.py"), "--out", str(path)], check=True, capture_output=True)
    built = build_network(default_spec("hrnet-ocr", 19))
    load_strictly(built, read_state_dict(path), str(path))
    path.unlink()
    return built.eval()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """(360, 480, 3) uint8."""
    with Image.open(REFERENCE / "images" / f"{NAME}.png") as image:
        return np.array(image.convert("RGB"))


@pytest.fixture(scope="module")
def joint(network: nn.Module, photograph: np.ndarray) -> Tensor:
    """Fused logits of the photograph, (1, 19, 360, 480)."""
    teacher = Teacher.of_network(network, default_spec("hrnet-ocr", 19), load_schema("cityscapes"))
    return teacher.logits(photograph, SCALES)[None]


def _stored(kind: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "expected" / f"{NAME}.s0.5_1_2{kind}.npz") as file:
        return dict(file)


def test_layers_are_the_references(network: nn.Module, photograph: np.ndarray) -> None:
    """Sampled values of every probed layer at scale 1 are the reference's; the message names the first that departs."""
    probes = json.loads((REFERENCE / "probes.json").read_text())["tensors"]
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | list[Tensor]) -> None:
            parts = {name: output} if isinstance(output, Tensor) else {f"{name}[{i}]": o for i, o in enumerate(output)}
            # Copied, for a later layer may work in place.
            seen.update({key: value.clone() for key, value in parts.items() if key in probes})

        module.register_forward_hook(hook)

    for name, module in network.named_modules():
        public = {
            "backbone": "backbone.high_level",
            "ocr.ocr_distri_head.object_context_block": "ocr.object_context_block",
        }
        if name.partition(".")[0] in ("backbone", "scale_attn", "ocr"):
            keep(public.get(name, name), module)
    spec = default_spec("hrnet-ocr", 19)
    images = normalise(torch.from_numpy(photograph)[None], spec.mean, spec.std)
    seen["input"] = images
    with torch.inference_mode():
        network(images.contiguous(memory_format=torch.channels_last))
    compared = [name for name in probes if name in seen]
    assert len(compared) >= len(probes) - 1  # the gather step is a function here and has no layer to hook
    for name in compared:
        probe = probes[name]
        assert list(seen[name].shape) == probe["shape"], name
        values = seen[name].contiguous().flatten()[probe["flat_index"]]
        departure = (values - torch.tensor(probe["value"])).abs().max().item()
        assert departure <= PROBE_TOLERANCE * probe["std"], f"{name} departs by {departure}"


def test_attention_is_the_references(network: nn.Module, photograph: np.ndarray) -> None:
    """The attention at scales 0.5 and 1 is the reference's, each at its own scale's size."""
    spec = default_spec("hrnet-ocr", 19)
    images = normalise(torch.from_numpy(photograph)[None], spec.mean, spec.std)
    stored = _stored(".attn_f16")
    with torch.inference_mode():
        for scale in (0.5, 1.0):
            attention = predict_at_scale(network, images, scale).attention[0, 0].numpy()
            np.testing.assert_allclose(attention, stored[f"attn_{scale}x"].astype(np.float32), rtol=0, atol=5e-4)


def test_fused_logits_are_the_references(joint: Tensor) -> None:
    """The joint logits are the reference's, up to the rounding of the stored ones."""
    stored = _stored(".logits_f16")["logits"]
    rounding = np.spacing(np.abs(stored)).astype(np.float32) / 2
    departure = np.abs(joint[0].numpy() - stored.astype(np.float32)) - rounding
    assert departure.max() <= LOGIT_TOLERANCE


def test_labels_are_the_references(joint: Tensor) -> None:
    """Labels and confidence are the reference's wherever the confidence is not next to the threshold."""
    stored = _stored("")
    confidence = stored["maxprob_u16"].astype(np.float32) / 65535
    judged = np.abs(confidence - THRESHOLD) > MARGIN
    label, own_confidence = decide(joint, THRESHOLD)
    assert judged.mean() > 0.95
    assert (label[0].numpy() == stored["label"])[judged].mean() >= 0.999
    assert np.abs(own_confidence[0].numpy() - confidence).max() < 1e-3
