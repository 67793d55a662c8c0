"""Intervals of shares whose independent units are images."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.intervals import RatioSums


def _sums(images: list[tuple[int, int]]) -> RatioSums:
    total = RatioSums.of_image(np.array([0]), np.array([0]))
    for part, whole in images:
        total += RatioSums.of_image(np.array([part]), np.array([whole]))
    return total


_IMAGES = st.lists(
    st.integers(0, 2_000_000).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))), max_size=30
)


@given(_IMAGES, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_sums_do_not_depend_on_the_order_of_the_images(images: list[tuple[int, int]], order: random.Random) -> None:
    """The same images in another order give the same interval, to the bit."""
    shuffled = list(images)
    order.shuffle(shuffled)
    assert np.array_equal(_sums(images).interval(), _sums(shuffled).interval(), equal_nan=True)


@given(_IMAGES)
@settings(deadline=None)
def test_an_interval_holds_its_share(images: list[tuple[int, int]]) -> None:
    """The share lies within its bounds, which lie within [0, 1]; of nothing neither is known."""
    sums = _sums(images)
    (share,), ((low,), (high,)) = sums.share(), sums.interval()
    if sums.whole[0] == 0:
        assert np.isnan([share, low, high]).all()
    else:
        assert 0 <= low <= share + 1e-12
        assert share - 1e-12 <= high <= 1


def test_pixels_of_one_image_do_not_make_an_interval_narrow() -> None:
    """A hundred times as many pixels an image leave the interval as it is; four times as many images halve it."""
    few = [(80, 100), (95, 100), (70, 100), (99, 100), (85, 100)] * 4
    (low,), (high,) = _sums(few).interval()
    (low_large,), (high_large,) = _sums([(100 * part, 100 * whole) for part, whole in few]).interval()
    assert (low_large, high_large) == pytest.approx((low, high))
    (low_many,), (high_many,) = _sums(few * 4).interval()
    assert high_many - low_many == pytest.approx((high - low) / 2, rel=0.15)


def test_one_image_tells_nothing() -> None:
    """What one image alone holds has the whole of [0, 1] for its interval."""
    (low,), (high,) = _sums([(900_000, 1_000_000)]).interval()
    assert (low, high) == (0, 1)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 95 % intervals of sets of 25 images of very different share and size, 92 to 98 % hold the true share."""
    generator = np.random.default_rng(0)
    held, sets = 0, 2000
    for _ in range(sets):
        whole = generator.lognormal(8, 0.8, 25).astype(np.int64) + 1
        share = generator.beta(18, 2, 25)  # independent of the size, so that the true share is 0.9
        sums = _sums([(int(s * w), int(w)) for s, w in zip(share, whole, strict=True)])
        (low,), (high,) = sums.interval()
        held += bool(low <= 0.9 <= high)
    assert 0.92 * sets <= held <= 0.98 * sets


def test_where_all_are_right_few_images_stay_few() -> None:
    """Ten images without an error do not prove a precision of 0.95; three hundred do."""
    (low_few,), _ = _sums([(1000, 1000)] * 10).interval()
    (low_many,), _ = _sums([(1000, 1000)] * 300).interval()
    assert low_few < 0.8
    assert low_many > 0.98
