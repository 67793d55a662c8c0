"""What a few images say of all: a stratified sample, and the total that it stands for with its interval.

It knows numbers alone: the set is a sorted list of `count` items, and an item is its place in it.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from storage.errors import SettingsError, ShapeError

CONFIDENCE = 0.9
"""Share of the intervals that hold the true total, where the items are not too wild."""

_A_STRATUM = 2
"""Items drawn from each stratum: the fewest that show how much its items differ."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Neighbours in the sorted set, and those of them that are looked at."""

    size: int
    """How many they are."""
    drawn: tuple[int, ...]
    """Places in the set, ascending."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A total that was estimated."""

    total: float
    low: float
    high: float
    """The true total is in [low, high] in nine cases of ten; all three are the same where every item was looked at."""

    def plus(self, known: float) -> "Interval":
        """All three more by what is known."""
        return Interval(self.total + known, self.low + known, self.high + known)


def draw(count: int, sample: int, seed: int) -> tuple[Stratum, ...]:
    """Cut a sorted set into neighbourhoods of nearly equal size and draw two items of each, three where it is odd.

    What lies together in the set (folders, the frames of a video) is thereby spread over the sample.

    Args:
        count: items of the set.
        sample: items to draw; all of them where it is `count` or more.
        seed: the same seed draws the same items.

    Returns:
        The strata, in the order of the set.

    Raises:
        SettingsError: a sample of fewer than two, or a set of none.
    """
    if count < 1 or sample < _A_STRATUM:
        raise SettingsError(
            f"a sample of {sample} images out of {count} cannot be drawn; expected at least {_A_STRATUM} images, "
            f"and at least one to draw from"
        )
    if sample >= count:
        return (Stratum(count, tuple(range(count))),)
    chance = random.Random(seed)  # noqa: S311 - no secret
    number = sample // _A_STRATUM
    bounds = [count * i // number for i in range(number + 1)]
    places = [range(*pair) for pair in pairwise(bounds)]
    # one stratum gives the odd item; as there are more items than are drawn, some stratum has three
    odd = chance.choice([i for i, one in enumerate(places) if len(one) > _A_STRATUM]) if sample % _A_STRATUM else None
    return tuple(
        Stratum(len(one), tuple(sorted(chance.sample(one, _A_STRATUM + (i == odd))))) for i, one in enumerate(places)
    )


def estimate_total(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> Interval:
    """Estimate a set's total from a stratified sample.

    The total is the sum over the strata of size times mean. Its variance comes from the differences within the strata,
    less where a stratum was looked at nearly whole. The interval is Student's, with as many degrees of freedom as
    Satterthwaite's rule grants, and is taken on the logarithm of the total: sizes of files are skewed, and a few large
    ones that the sample missed lie above, never below.

    Args:
        sizes: items of each stratum.
        values: at least 0, of the items drawn from each; a stratum with too few of them joins its neighbour.

    Raises:
        ShapeError: there is no value at all, or one alone for several items, which shows no spread; there are more
            than a stratum has items; or sizes and values are of other lengths.

    Source: Cochran, Sampling Techniques (1977), sections 5.3 to 5.4 and 5A.12.
    """
    strata = _joined(sizes, values)
    total = sum(size * _mean(drawn) for size, drawn in strata)
    measured = sum(map(sum, values))
    terms = []  # (variance that a stratum adds, its degrees of freedom)
    for size, drawn in strata:
        if size > len(drawn):
            mean = _mean(drawn)
            spread = sum((value - mean) ** 2 for value in drawn)
            own_freedom = len(drawn) - 1
            terms.append((size * (size - len(drawn)) / len(drawn) * spread / own_freedom, own_freedom))
    variance = sum(term for term, _ in terms)
    if variance <= 0:
        return Interval(total, total, total)
    freedom = 1 / sum((term / variance) ** 2 / one for term, one in terms)
    width = _quantile(freedom) * math.sqrt(variance) / total
    # what was seen is there: no total is below it
    return Interval(total, max(measured, total * math.exp(-width)), total * math.exp(width))


def _mean(drawn: Sequence[float]) -> float:
    return sum(drawn) / len(drawn)


def _joined(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> list[tuple[int, list[float]]]:
    """Strata with their values; one that shows no spread, and was not looked at whole, joins the one before it."""
    if len(sizes) != len(values) or not any(values):
        raise ShapeError(
            f"{len(sizes)} strata with {sum(map(len, values))} values in {len(values)}: expected as many groups of "
            f"values as strata, and at least one value"
        )
    joined: list[tuple[int, list[float]]] = []
    for size, drawn in zip(sizes, values, strict=True):
        if len(drawn) > size:
            raise ShapeError(f"{len(drawn)} values were drawn from a stratum of {size}")
        if joined and (_too_few(size, drawn) or _too_few(*joined[-1])):
            before = joined.pop()
            joined.append((before[0] + size, [*before[1], *drawn]))
        elif size:
            joined.append((size, list(drawn)))
    if _too_few(*joined[-1]):
        raise ShapeError(f"a single value says nothing of how {sum(sizes)} items differ; expected two or more")
    return joined


def _too_few(size: int, drawn: Sequence[float]) -> bool:
    return len(drawn) < min(size, _A_STRATUM)


def _quantile(freedom: float) -> float:
    """Student's t that is exceeded on either side in one case of twenty."""
    # imported where it is needed: every command would wait for it
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
