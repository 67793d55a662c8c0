"""A stratified sample stands for its set: every item has its chance, and the intervals hold what they promise."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stratified import Interval, Stratum, draw, estimate_total
from storage.errors import SettingsError, ShapeError


@given(count=st.integers(1, 400), sample=st.integers(2, 60), seed=st.integers(0, 1000))
def test_a_draw_covers_the_set_in_order_and_draws_what_was_asked_for(count: int, sample: int, seed: int) -> None:
    """Strata are neighbourhoods of nearly equal size; each gives at least two of its own items, together the sample."""
    strata = draw(count, sample, seed)
    assert sum(one.size for one in strata) == count
    assert sum(len(one.drawn) for one in strata) == min(sample, count)
    assert max(one.size for one in strata) - min(one.size for one in strata) <= 1
    start = 0
    for one in strata:
        assert len(set(one.drawn)) == len(one.drawn) >= min(2, one.size)
        assert list(one.drawn) == sorted(one.drawn)
        assert all(start <= place < start + one.size for place in one.drawn)
        start += one.size
    assert draw(count, sample, seed) == strata


def test_another_seed_draws_another_sample() -> None:
    """The draw depends on its seed, and over the seeds every item comes up."""
    drawn = [{place for one in draw(50, 10, seed) for place in one.drawn} for seed in range(60)]
    assert drawn[0] != drawn[1]
    assert set().union(*drawn) == set(range(50))


def test_a_sample_of_the_whole_set_is_the_whole_set() -> None:
    """A sample as large as the set, or larger, is all of it."""
    assert draw(3, 20, 0) == (Stratum(3, (0, 1, 2)),)
    assert draw(1, 2, 0) == (Stratum(1, (0,)),)


@pytest.mark.parametrize(("count", "sample"), [(0, 20), (5, 1), (5, 0)])
def test_what_cannot_be_drawn_is_refused(count: int, sample: int) -> None:
    """One image shows no spread, and of none nothing is drawn."""
    with pytest.raises(SettingsError, match="cannot be drawn"):
        draw(count, sample, 0)


@given(st.lists(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), min_size=1, max_size=6))
def test_of_a_set_that_was_looked_at_whole_the_total_is_exact(values: list[list[float]]) -> None:
    """Where every item was measured the interval is the sum itself."""
    found = estimate_total([len(drawn) for drawn in values], values)
    assert found == Interval(found.total, found.total, found.total)
    assert found.total == pytest.approx(sum(map(sum, values)))


@settings(deadline=None)  # the first call imports scipy
@given(
    values=st.lists(st.lists(st.floats(0, 1e9), min_size=0, max_size=4), min_size=1, max_size=6).filter(
        lambda values: sum(map(len, values)) > 1
    ),
    more=st.integers(0, 30),
    factor=st.floats(0.5, 100),
)
def test_an_interval_holds_its_centre_and_scales_with_the_values(
    values: list[list[float]], more: int, factor: float
) -> None:
    """The centre is inside, nothing is below what was seen, and another unit changes all three alike."""
    sizes = [len(drawn) + more for drawn in values]
    found = estimate_total(sizes, values)
    tolerance = 1 + 1e-9
    assert found.low <= found.total * tolerance
    assert found.total <= found.high * tolerance
    assert found.low * tolerance >= sum(map(sum, values))
    scaled = estimate_total(sizes, [[value * factor for value in drawn] for drawn in values])
    expected = (found.total * factor, found.low * factor, found.high * factor)
    assert (scaled.total, scaled.low, scaled.high) == pytest.approx(expected, rel=1e-6, abs=1e-200)


def test_the_total_and_its_variance_are_those_of_the_book() -> None:
    """Two strata by hand: size times mean, and Student's interval on the logarithm with Satterthwaite's freedom."""
    found = estimate_total([10, 6], [[1.0, 3.0], [4.0, 5.0]])
    first, second = 10 * 8 / 2 * 2.0, 6 * 4 / 2 * 0.5
    assert found.total == 10 * 2 + 6 * 4.5
    freedom = (first + second) ** 2 / (first**2 + second**2)
    assert 1 < freedom < 2
    students = math.log(found.high / found.total) * found.total / math.sqrt(first + second)
    assert 2.92 < students < 6.32  # Student's t at 95 % for one degree is 6.31, for two 2.92
    assert found.total / found.low == pytest.approx(found.high / found.total)


def test_a_stratum_that_lost_its_items_joins_its_neighbour() -> None:
    """Unreadable images leave too few in a stratum: it is estimated with the next, first, last or in between."""
    joined = estimate_total([10, 20], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    together = estimate_total([30], [[1.0, 2.0, 3.0, 4.0]])
    assert estimate_total([10, 20], [[1.0, 2.0, 3.0], [4.0]]) == together
    assert estimate_total([20, 10], [[1.0], [2.0, 3.0, 4.0]]) == together
    assert estimate_total([10, 10, 10], [[1.0, 2.0, 3.0], [], [4.0]]) == together
    assert joined != together


@pytest.mark.parametrize(
    ("sizes", "values"), [([5], []), ([5], [[]]), ([], []), ([1], [[1.0, 2.0]]), ([3, 3], [[1.0]]), ([5], [[1.0]])]
)
def test_values_that_are_of_no_such_sample_are_refused(sizes: list[int], values: list[list[float]]) -> None:
    """No values, more values than items, or another number of strata is an error of the caller's."""
    with pytest.raises(ShapeError):
        estimate_total(sizes, values)


@pytest.mark.parametrize("spread", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("likeness", [0.0, 0.9, 0.98])
def test_intervals_of_generated_sets_hold_the_truth(spread: float, likeness: float) -> None:
    """Skewed sizes, neighbours alike or not: nine intervals in ten hold the total, and centres are near it.

    Sets as video sequences make them: logarithms of sizes that wander from one item to the next.
    """
    rng = np.random.default_rng(5)
    held, errors = 0, []
    repeats = 300
    for seed in range(repeats):
        noise = rng.standard_normal(321)
        wander = np.empty(321)
        wander[0] = noise[0]
        for i in range(1, 321):
            wander[i] = likeness * wander[i - 1] + math.sqrt(1 - likeness**2) * noise[i]
        sizes = np.exp(spread * wander)
        strata = draw(321, 20, seed)
        found = estimate_total([one.size for one in strata], [sizes[list(one.drawn)].tolist() for one in strata])
        held += found.low <= sizes.sum() <= found.high
        errors.append(abs(found.total / sizes.sum() - 1))
    assert held / repeats >= 0.87
    assert statistics.median(errors) < 0.2 * spread
