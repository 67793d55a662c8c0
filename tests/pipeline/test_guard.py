"""The guard against judging a network on images it was trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.guard import hash_images, refuse_trained_images
from pipeline.samples import Sample, collect_samples
from storage.errors import LeakError


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, ...]:
    """Three images with labels."""
    for number in range(3):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 5), number, np.uint8)).save(tmp_path / folder / f"{number}.png")
    return collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False).samples


def test_images_that_were_trained_on_are_named(samples: tuple[Sample, ...]) -> None:
    """An image that was trained on is refused by content, whatever it is called now."""
    first, second, _ = hash_images(samples)
    with pytest.raises(LeakError, match=r"2 of 3 images .*0\.png, .*1\.png \(trained on as town/x\)"):
        refuse_trained_images(samples, {first: "0", second: "town/x"}, "this network")


def test_other_images_pass(samples: tuple[Sample, ...]) -> None:
    """Images that were not trained on pass, and so do all where nothing is known of the training."""
    refuse_trained_images(samples, {"0" * 64: "0"}, "this network")
    refuse_trained_images(samples, {}, "this network")
