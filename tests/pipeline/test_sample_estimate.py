"""What a set will take, from a sample: totals with intervals, failures told, and the budget's verdict."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.sample_estimate import Sample, SampleEstimate, conclude, draw_sample, measure_sample
from pipeline.sample_measure import Measurement
from storage.account import MARGIN
from storage.errors import ImageError, LayoutError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.layouts import Item

CLASSES = 5
SIZE = (96, 128)


def label_map(index: int, speckle: float) -> npt.NDArray[np.uint8]:
    """A street-like label: bands of classes, boxes in front of them, and a share of pixels of any class or ignore."""
    rng = np.random.default_rng(index)
    height, width = SIZE
    rows = np.arange(height)[:, None] + np.cumsum(rng.integers(-1, 2, width))[None]
    values = (rows > height // 3).astype(np.uint8) + (rows > height // 2)
    for _ in range(1 + index % 7):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        values[top : top + rng.integers(4, 20), left : left + rng.integers(4, 20)] = rng.integers(0, CLASSES)
    noise = rng.random(SIZE) < speckle * (0.5 + index % 5 / 4)
    return np.where(noise, rng.choice([0, 1, 2, 3, 4, 255], SIZE), values).astype(np.uint8)


def measurement(label_bytes: int, **changes: object) -> Measurement:
    """A measurement of which the label's bytes alone matter."""
    values = {
        "labels": {"fast": label_bytes, "small": label_bytes // 2, "smallest": label_bytes // 4},
        "stores": {"none": 0, "confidence": 10 * label_bytes, "top2": 12 * label_bytes},
        "soft": dict.fromkeys(("fp32", "fp16", "uint8", "top3", "top2"), 7),
        "pixels": 100,
        "covered": 80,
        "seconds": 0.5,
    }
    return Measurement(**(values | changes))  # type: ignore[arg-type] # the fields are listed above


def items(count: int) -> list[Item]:
    """Items whose images are never opened."""
    return [Item(f"street/{i:04d}", Path(f"{i}.png")) for i in range(count)]


def sample_of(count: int, sample: int = 20, seed: int = 0) -> Sample:
    """A sample of images of one size."""
    return draw_sample(items(count), sample, seed, lambda _: SIZE)


def estimate(sample: Sample, measure: Callable[[Item], Measurement]) -> SampleEstimate:
    """Measure and conclude."""
    return conclude(sample, list(measure_sample(sample, measure)), CLASSES, "fast")


def bytes_of(item: Item, speckle: float) -> int:
    """Bytes of the label that would be made of an item."""
    return len(encode_label_png(LabelMap(label_map(int(item.image.stem), speckle), CLASSES)))


def test_a_clean_and_a_speckled_set_are_told_apart_and_each_total_is_in_its_interval() -> None:
    """What a model cannot know: labels of the same images take several times as much where they are speckled."""
    sample = sample_of(200)
    found = {}
    for speckle in (0.0, 0.15):
        found[speckle] = estimate(sample, lambda item, speckle=speckle: measurement(bytes_of(item, speckle)))
        truth = sum(bytes_of(item, speckle) for item in sample.items)
        labels = found[speckle].labels["fast"]
        assert labels.low < truth < labels.high
        assert abs(labels.total / truth - 1) < 0.15
    assert found[0.15].labels["fast"].total > 3 * found[0.0].labels["fast"].total


def test_a_sample_is_sorted_by_size_and_key_and_leaves_unreadable_images_out() -> None:
    """Images of one size lie together, then by key; one without a header is told and stands for nothing."""

    def read_size(path: Path) -> tuple[int, int]:
        if path.stem == "3":
            raise ImageError("3.png: cannot be read as an image")
        return (10, 10) if int(path.stem) % 2 else (5, 5)

    sample = draw_sample(items(6), 20, 0, read_size)
    assert [item.image.stem for item in sample.items] == ["0", "2", "4", "1", "5"]
    assert sample.drawn == sample.items
    assert sample.pixels == (25, 25, 25, 100, 100)
    assert sample.unreadable == ("3.png: cannot be read as an image",)
    with pytest.raises(LayoutError, match="none of 6 images can be read"):
        draw_sample(items(6), 20, 0, lambda _: read_size(Path("3")))


def test_the_whole_set_gives_exact_figures() -> None:
    """A sample of all: no interval, sums of what was measured, and soft labels without compression from the sizes."""
    found = estimate(sample_of(4), lambda item: measurement(100 + int(item.image.stem)))
    labels = found.labels["fast"]
    assert (labels.low, labels.total, labels.high) == (406, 406, 406)
    assert found.stores["none"].total == 0
    assert found.stores["confidence"].total == 4060
    assert found.together["fast", "confidence"].total == 4466 + found.ledger
    assert found.seconds.total == 2
    assert found.coverage == 0.8
    pixels = 4 * SIZE[0] * SIZE[1]
    assert found.soft_raw == {
        "fp32": 20 * pixels,
        "fp16": 10 * pixels,
        "uint8": 5 * pixels,
        "top3": 6 * pixels,
        "top2": 4 * pixels,
    }


def test_images_of_the_sample_that_cannot_be_labelled_are_left_out_and_told() -> None:
    """Damaged images and those too large for the memory cost themselves; what is left is what the totals are of."""

    def measure(item: Item) -> Measurement:
        if item.image.stem == "1":
            raise ImageError("1.png: damaged")
        if item.image.stem == "2":
            raise RuntimeError("out of memory")
        return measurement(100)

    found = estimate(sample_of(5), measure)
    assert (found.count, found.sampled) == (3, 3)
    assert found.left_out == ("1.png: damaged", "2.png: out of memory")
    assert found.labels["fast"].total == 300
    assert found.soft_raw["uint8"] == 3 * CLASSES * SIZE[0] * SIZE[1]


def test_where_too_few_can_be_labelled_there_is_no_estimate() -> None:
    """None at all is an error with the reason, and so is one that stands for many."""

    def measure(item: Item) -> Measurement:
        if item != lucky:
            raise ImageError("damaged")
        return measurement(100)

    sample, lucky = sample_of(50, 4), None
    with pytest.raises(LayoutError, match="none of 4 images of the sample can be labelled: damaged"):
        estimate(sample, measure)
    lucky = sample.drawn[2]
    with pytest.raises(LayoutError, match="only one of 4 images"):
        estimate(sample, measure)


def test_what_the_clean_up_saves_is_told_beside_it() -> None:
    """Bytes and coverage come without the clean-up, too."""
    found = estimate(sample_of(3), lambda _: measurement(100, uncleaned_bytes=150, uncleaned_covered=90))
    assert found.uncleaned["fast"].total == 450
    assert (found.coverage, found.uncleaned_coverage) == (0.8, 0.9)


def test_the_verdict_is_the_centres_and_the_interval_makes_it_uncertain() -> None:
    """Over what `label --budget` gives out is over; within it, but not with the whole interval, is uncertain."""
    found = estimate(sample_of(1000), lambda item: measurement(1000 + 900 * (int(item.image.stem) % 2)))
    run = found.together["fast", "none"]
    assert run.low < run.total < run.high
    assert found.verdict(MARGIN + round(run.high) + 1, "fast", "none") == "fits"
    assert found.verdict(MARGIN + round(run.total) + 1, "fast", "none") == "uncertain"
    assert found.verdict(MARGIN + round(run.total) - 1, "fast", "none") == "over"
    assert found.verdict(MARGIN + round(run.low) - 1, "fast", "none") == "over"


def test_what_would_fit_keeps_the_most() -> None:
    """Offered are, for each kind that could be kept and no more than was asked for, the quickest preset that fits."""
    found = estimate(sample_of(1000), lambda _: measurement(1000))
    assert found.fitting(5_000_000, "fast", "confidence") == (("fast", "none"),)
    fits_small_store = MARGIN + round(found.together["small", "confidence"].high)
    assert found.fitting(fits_small_store, "fast", "confidence") == (("small", "confidence"), ("fast", "none"))
    assert found.fitting(fits_small_store, "fast", "none") == (("small", "none"),)
    assert found.fitting(1000, "fast", "top2") == ()
