"""What a set will take, from a stratified sample of it that is labelled and measured, with intervals.

How an image is measured is handed in; `sample_measure` has the real way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar

from pipeline.sample_measure import KEEPS, PRESETS, Measurement
from pipeline.stratified import Interval, Stratum, draw, estimate_total
from storage.account import MARGIN
from storage.budget import ledger_bytes
from storage.errors import ImageError, LayoutError
from storage.image_reader import read_image_size
from storage.label_png import Preset
from storage.layouts import Item
from storage.soft_formats import SOFT_FORMATS
from storage.soft_store import Keep

Verdict = Literal["fits", "uncertain", "over"]
"""`uncertain`: by the estimate it fits, but the interval reaches over the budget."""

_Key = TypeVar("_Key")

_READERS = 8
"""Headers read at once: on a network's disk each one is waited for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Images drawn from a set whose sizes are all known."""

    strata: tuple[Stratum, ...]
    items: tuple[Item, ...]
    """All readable images, by size and key; the strata count in them."""
    pixels: tuple[int, ...]
    """Of each of them."""
    unreadable: tuple[str, ...]
    """Why the others are left out."""

    @property
    def drawn(self) -> tuple[Item, ...]:
        """The images to look at, in the order of the strata."""
        return tuple(self.items[place] for place in self.places)

    @property
    def places(self) -> tuple[int, ...]:
        """Where among the items those are that were drawn, in the same order."""
        return tuple(place for stratum in self.strata for place in stratum.drawn)


def draw_sample(
    items: Sequence[Item], sample: int, seed: int, read_size: Callable[[Path], tuple[int, int]] = read_image_size
) -> Sample:
    """Read the headers of all images and draw a sample of those that have one.

    Args:
        items: the set.
        sample: how many to draw; all where it is as many or more.
        seed: of the draw.
        read_size: gives an image's (height, width).

    Raises:
        LayoutError: no image can be read.
        SettingsError: a sample of fewer than two.
    """

    def find(item: Item) -> tuple[tuple[int, int], str, Item] | str:
        try:
            return read_size(item.image), item.key, item
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(find, items))
    readable = sorted((one for one in found if not isinstance(one, str)), key=lambda one: one[:2])
    unreadable = tuple(one for one in found if isinstance(one, str))
    if not readable:
        raise LayoutError(
            f"none of {len(items)} images can be read: {unreadable[0] if unreadable else 'there is none'}"
        )
    pixels = tuple(height * width for (height, width), _, _ in readable)
    return Sample(draw(len(readable), sample, seed), tuple(item for _, _, item in readable), pixels, unreadable)


def measure_sample(sample: Sample, measure: Callable[[Item], Measurement]) -> Iterator[Measurement | str]:
    """Measure each image that was drawn, in order; gives the reason where one cannot be labelled.

    Args:
        sample: what was drawn.
        measure: gives what an image takes.
    """
    for item in sample.drawn:
        try:
            yield measure(item)
        except ImageError as error:
            yield str(error)
        except (RuntimeError, MemoryError) as error:  # as in labelling, memory that is short costs one image
            yield f"{item.image}: {str(error) or type(error).__name__}"


@dataclass(frozen=True, slots=True)
class SampleEstimate:
    """What a set will take."""

    count: int
    """Images that the totals are of: all but those found unreadable or not labelled though drawn."""
    sampled: int
    classes: int
    left_out: tuple[str, ...]
    """Why images are left out: no header, or not labelled though drawn."""
    labels: Mapping[Preset, Interval]
    """Bytes of the labels alone."""
    stores: Mapping[Keep, Interval]
    """Bytes of what is kept beside them; none: 0."""
    attention: Interval
    """Bytes of the attention maps; 0 where none are saved."""
    ledger: int
    """Bytes of the ledger and what else a run writes; a model."""
    together: Mapping[tuple[Preset, Keep], Interval]
    """Bytes of all files of the run."""
    soft_raw: Mapping[str, int]
    """Bytes of soft labels of `count` images without compression: exact."""
    soft: Mapping[str, Interval]
    """The same compressed."""
    seconds: Interval
    """On one device like this one."""
    coverage: float
    """Share of the sample's pixels that is given a class."""
    uncleaned: Mapping[Preset, Interval]
    """Bytes of the labels without the clean-up, in the preset that was chosen."""
    uncleaned_coverage: float
    precision: float | None
    """Share of the sample's judged pixels that is right; None without truth."""
    uncleaned_precision: float | None

    def verdict(self, budget: int, png: Preset, keep: Keep) -> Verdict:
        """Whether a run fits a budget: its estimate decides, and is called uncertain where only the interval does not.

        Args:
            budget: bytes for all its files.
            png: preset of its labels.
            keep: what it keeps beside them.
        """
        run, room = self.together[png, keep], budget - MARGIN  # what `label --budget` gives out
        if run.total > room:
            return "over"
        return "fits" if run.high <= room else "uncertain"

    def fitting(self, budget: int, png: Preset, keep: Keep) -> tuple[tuple[Preset, Keep], ...]:
        """What would surely fit instead and lose the least: the choices with no more kept, the most kept first."""
        # no preset takes more than the one before it, and the quickest that fits is wanted
        candidates = product(reversed(KEEPS[: KEEPS.index(keep) + 1]), PRESETS)
        found: dict[Keep, tuple[Preset, Keep]] = {}
        for preset, kept in ((preset, kept) for kept, preset in candidates):
            if (preset, kept) != (png, keep) and self.verdict(budget, preset, kept) == "fits":
                found.setdefault(kept, (preset, kept))
        return tuple(found.values())


def conclude(sample: Sample, results: Sequence[Measurement | str], classes: int, png: Preset) -> SampleEstimate:
    """Turn measurements into totals of the set.

    Args:
        sample: what was drawn.
        results: of `measure_sample`.
        classes: number of classes.
        png: preset that the figures without clean-up are of.

    Raises:
        LayoutError: no image of the sample was labelled, or one alone of many.
    """
    measured = [one for one in results if not isinstance(one, str)]
    reasons = tuple(one for one in results if isinstance(one, str))
    if not measured:
        raise LayoutError(f"none of {len(results)} images of the sample can be labelled: {reasons[0]}")
    sizes, groups = _by_stratum(sample, results)
    if len(measured) == 1 < sum(sizes):
        raise LayoutError(
            f"only one of {len(results)} images of the sample can be labelled, and one does not show how much they "
            f"differ: {reasons[0]}; draw a larger sample"
        )

    count, pixels = sum(sizes), sum(one.pixels for one in measured)
    ledger = ledger_bytes(count, classes)
    failed = (place for place, one in zip(sample.places, results, strict=True) if isinstance(one, str))
    labelled_pixels = sum(sample.pixels) - sum(sample.pixels[place] for place in failed)
    files = _totals(
        sizes,
        groups,
        lambda one: {(p, k): one.labels[p] + one.stores[k] + one.attention for p, k in product(PRESETS, KEEPS)},
    )
    return SampleEstimate(
        count=count,
        sampled=len(measured),
        classes=classes,
        left_out=sample.unreadable + reasons,
        labels=_totals(sizes, groups, lambda one: one.labels),
        stores=_totals(sizes, groups, lambda one: one.stores),
        attention=_totals(sizes, groups, lambda one: {"attention": one.attention})["attention"],
        ledger=ledger,
        together={choice: found.plus(ledger) for choice, found in files.items()},
        soft_raw={form.name: form.raw_bytes(labelled_pixels, classes) for form in SOFT_FORMATS},
        soft=_totals(sizes, groups, lambda one: one.soft),
        seconds=_totals(sizes, groups, lambda one: {"seconds": one.seconds})["seconds"],
        coverage=sum(one.covered for one in measured) / pixels,
        uncleaned=_totals(sizes, groups, lambda one: {png: one.uncleaned_bytes}),
        uncleaned_coverage=sum(one.uncleaned_covered for one in measured) / pixels,
        precision=_share(sum(one.right for one in measured), sum(one.judged for one in measured)),
        uncleaned_precision=_share(
            sum(one.uncleaned_right for one in measured), sum(one.uncleaned_judged for one in measured)
        ),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _totals(
    sizes: Sequence[int], groups: Sequence[Sequence[Measurement]], of: Callable[[Measurement], Mapping[_Key, float]]
) -> dict[_Key, Interval]:
    """The set's total of every figure that a measurement has."""
    figures = [[of(one) for one in group] for group in groups]
    names = next(one for group in figures for one in group)
    return {name: estimate_total(sizes, [[one[name] for one in group] for group in figures]) for name in names}


def _by_stratum(sample: Sample, results: Sequence[Measurement | str]) -> tuple[list[int], list[list[Measurement]]]:
    """Items of each stratum that there will be labels of, as far as is known, and what was measured of it."""
    rest = iter(results)
    sizes, groups = [], []
    for stratum in sample.strata:
        found = [next(rest) for _ in stratum.drawn]
        group = [one for one in found if not isinstance(one, str)]
        sizes.append(stratum.size - (len(found) - len(group)))
        groups.append(group)
    return sizes, groups
