"""Fixtures that every floor's tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from storage.schema import ClassInfo, ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec

MakeImage = Callable[..., npt.NDArray[np.uint8]]


@pytest.fixture
def schema() -> ClassSchema:
    """Three classes whose source ids are not their indices."""
    return ClassSchema(
        "three",
        (
            ClassInfo("road", (128, 64, 128), (7,)),
            ClassInfo("pole", (153, 153, 153), (17, 18)),
            ClassInfo("sky", (70, 130, 180), (23,)),
        ),
        frozenset({0, 1}),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def make_image() -> MakeImage:
    """Write a noise image of (height, width), the same for the same seed, and return its pixels."""

    def make(path: Path, size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return make


@pytest.fixture
def tiny_teacher(tmp_path: Path, schema: ClassSchema) -> Path:
    """A checkpoint of a small network with random weights, sharp enough to be sure of some pixels and not of others."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    torch.manual_seed(3)
    network = build_network(spec)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("classifier"):
                parameter.mul_(20)
    path = tmp_path / "tiny_teacher.pt"
    save_checkpoint(path, network, spec, schema, {})
    return path
