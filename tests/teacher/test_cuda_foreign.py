"""Networks of other libraries on a CUDA device: what they give there, in which arithmetic, and in which order."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.schema import ClassSchema
from teacher import Teacher
from teacher.decision import DecisionRule
from teacher.execution import exact
from teacher.foreign.contract import ModelSettings
from teacher.foreign.exported import open_exported
from teacher.foreign.predictor import ForeignPredictor, Grouping
from tests.teacher.test_foreign_exported import Small, Table, export, script
from tests.teacher.test_scale_head import random_head

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CPU, DEVICE = torch.device("cpu"), torch.device("cuda:0")
SIZES = [(64, 96), (45, 61), (64, 96), (64, 96)]


def noise(size: tuple[int, int], seed: int, batch: int = 2) -> Tensor:
    """Images of 256 values a channel, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, *size), generator=generator).float() / 255


def assert_close(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """On the device, and within a part of the range."""
    assert got.device == DEVICE
    assert got.dtype == torch.float32
    spread = expected.max() - expected.min()
    assert (got.cpu() - expected.cpu()).abs().max() <= tolerance * spread


@pytest.mark.parametrize("name", ["segformer", "upernet_convnext", "mask2former", "eomt"])
def test_models_of_transformers_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    """Of images that no processor resizes, logits on the device are the CPU's up to rounding: no TF32 in fp32."""
    models = pytest.importorskip("tests.teacher.hugging_face_models")
    from teacher.foreign.hugging_face import open_hugging_face

    folder = models.save_model(getattr(models, name), tmp_path)
    here, there = (open_hugging_face(str(folder), ModelSettings(place, native=True)) for place in (CPU, DEVICE))
    assert here.digest == there.digest
    images = noise((64, 64), 1)
    with torch.inference_mode(), exact(DEVICE):
        assert_close(there(images.to(DEVICE), 1.0), here(images, 1.0), 1e-3)
    half = open_hugging_face(str(folder), ModelSettings(DEVICE, "bf16", native=True))
    with torch.inference_mode():
        got = half(images.to(DEVICE), 1.0)
    assert got.dtype == torch.float32
    assert got.isfinite().all()


def test_a_processor_is_run_on_the_device(tmp_path: Path) -> None:
    """Logits are those of the library's own processor and model on the device."""
    models = pytest.importorskip("tests.teacher.hugging_face_models")
    from teacher.foreign.hugging_face import open_hugging_face

    folder = models.save_model(models.segformer, tmp_path)
    images = noise((77, 101), 2).to(DEVICE)
    network, processor = models.pipeline_of(folder)
    given = processor(images=list((images * 255).round().to(torch.uint8)), return_tensors="pt")
    with torch.inference_mode(), exact(DEVICE):
        expected = network.to(DEVICE)(pixel_values=given["pixel_values"].to(DEVICE)).logits
        assert_close(open_hugging_face(str(folder), ModelSettings(DEVICE))(images, 1.0), expected, 1e-5)


@pytest.mark.parametrize(("network", "write"), [(Small, export), (Table, script)])
def test_exported_networks_are_those_of_the_cpu(
    tmp_path: Path, network: Callable[[], nn.Module], write: Callable[[nn.Module], bytes]
) -> None:
    """Exported on the CPU, a program of torch.export and TorchScript predict on the device what they do there."""
    torch.manual_seed(1)
    path = tmp_path / "network"
    path.write_bytes(write(network()))
    here, there = (open_exported(path, ModelSettings(place)) for place in (CPU, DEVICE))
    assert (here.digest, here.weight_bytes) == (there.digest, there.weight_bytes)
    for seed, size in enumerate(SIZES):
        images = noise(size, seed)
        assert_close(there(images.to(DEVICE), 1.0), here(images, 1.0))


def test_a_program_in_half_precision_is_autocast(tmp_path: Path) -> None:
    """In bf16 and fp16 an exported program is near what it gives in float32, and not the same."""
    path = tmp_path / "network"
    path.write_bytes(export(Small()))
    images = noise((64, 96), 1).to(DEVICE)
    whole = open_exported(path, ModelSettings(DEVICE))(images, 1.0)
    for precision in ("bf16", "fp16"):
        half = open_exported(path, ModelSettings(DEVICE, precision))(images, 1.0)
        assert_close(half, whole, 0.05)
        assert not torch.equal(half, whole)


def test_onnx_is_bound_where_it_is(tmp_path: Path) -> None:
    """Scores of a graph are float32's, on the device, of the images that were given, and stay as they were."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime is built for the CPU")
    from teacher.foreign.onnx_model import open_onnx
    from tests.teacher.test_foreign_onnx import convolution, expected

    path = tmp_path / "network.onnx"
    path.write_bytes(convolution().SerializeToString())
    model, kept = open_onnx(path, ModelSettings(DEVICE)), []
    busy = torch.randn(2048, 2048, device=DEVICE)
    for seed, size in enumerate(SIZES):
        images = noise(size, seed)
        for _ in range(10):  # so that the images are still on their way
            busy = (busy @ busy).clamp_(-1, 1)
        kept.append((model(images.to(DEVICE, non_blocking=True), 1.0), expected(images)))
    for got, of_the_cpu in kept:
        assert_close(got, of_the_cpu)


def test_a_fitted_attention_decides_as_on_the_cpu(schema: ClassSchema, tmp_path: Path) -> None:
    """Labels, confidence and weights of the scales are the CPU's but for few pixels, each of its own image."""
    path = tmp_path / "network"
    path.write_bytes(export(Small()))
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(4)]
    rule = DecisionRule((0.3,), "top2", 100)
    decided = []
    for place in (CPU, DEVICE):
        model = open_exported(path, ModelSettings(place))
        predictor = ForeignPredictor(model, Grouping((0, 1, 1, 2, None), len(schema)), place, random_head(4))
        teacher = Teacher(predictor, schema, "1" * 64)
        decided.append([teacher.decide([image], (0.5, 1.0), rule, attention=True)[0] for image in images])
    for here, there in zip(*decided, strict=True):
        assert (here.label == there.label).mean() > 0.995
        assert here.soft is not None
        assert there.soft is not None
        assert (here.soft == there.soft).mean() > 0.98
        assert here.attention is not None
        assert there.attention is not None
        assert np.abs(here.attention.astype(int) - there.attention).max() <= 1
