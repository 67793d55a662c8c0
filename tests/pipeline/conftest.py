"""Samples on disk, as small as a test needs them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.samples import Kind, Sample, collect_samples


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
