"""Samples and data sets on disk, as small as a test needs them; and one thread, for all of these tests."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.samples import Kind, Sample, collect_samples
from storage.schema import ClassSchema


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: small tensors are quickest so, and sums come out in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path: Path, schema: ClassSchema, make_image: Callable[..., object]) -> Path:
    """Three fine samples, two extra images with partial human labels, two to validate on, and their classes.

    The folders are fine, extra and val, fine_labels and so on, and classes.json.
    """
    for name, count in (("fine", 3), ("extra", 2), ("val", 2)):
        for number in range(count):
            make_image(tmp_path / name / f"{number}.png", (40, 48), 10 * len(name) + number)
            values = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (5, 6))
            (tmp_path / f"{name}_labels").mkdir(exist_ok=True)
            Image.fromarray(values.repeat(8, 0).repeat(8, 1)).save(tmp_path / f"{name}_labels/{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    return tmp_path


@pytest.fixture
def make_samples(tmp_path: Path) -> Callable[..., list[Sample]]:
    """Write labels with these values, and noise images of their size, and pair them; the same for the same labels."""

    def make(labels: Sequence[object], kind: Kind = "fine") -> list[Sample]:
        images, folder = tmp_path / f"images_{kind}", tmp_path / f"labels_{kind}"
        for path in (images, folder):
            path.mkdir(exist_ok=True)
        for number, values in enumerate(labels):
            label = np.array(values, np.uint8)
            pixels = np.random.default_rng(number).integers(0, 256, (*label.shape, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{kind}{number}.png")
            Image.fromarray(label).save(folder / f"{kind}{number}.png")
        return list(collect_samples(images, folder, kind, partial=False).samples)

    return make
