"""Which crop comes next: a plan of each epoch that depends on the seed and the epoch's number alone.

So a run that is resumed needs its step and nothing else, and the number of reading processes cannot matter. Samples
and places are dealt like cards: all of them before any comes again, over the epochs.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from pipeline.sample_index import SampleIndex
from pipeline.samples import Kind
from storage.errors import SettingsError
from storage.schema import ClassSchema

_COMPLETE = ("fine", "reviewed")
_DECKS, _ORDERS, _PHASES = 1, 2, 3
"""Last words of the seeds: numbers drawn for one purpose have nothing in common with those for another. Zero is left
to those who seed by [seed, number], as numpy takes missing words for zeros."""

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Draw:
    """A sample to cut a crop from."""

    sample: int
    """Position in the index."""
    anchor: tuple[int, int] | None
    """(row, column) of a pixel that the crop must contain; None: any crop will do."""
    class_index: int | None
    """The class of that pixel."""


class _Deck:
    """Positions that are dealt in a shuffled order, all of them before any comes again, each time in another order."""

    def __init__(self, positions: Positions, seed: int, name: int) -> None:
        self.positions = positions
        self._seed = (seed, name)
        self._shuffled: tuple[int, Positions] = (-1, positions)

    def __len__(self) -> int:
        return len(self.positions)

    def deal(self, start: int, stop: int) -> list[int]:
        """The cards from number `start` to before `stop`, as if all had been dealt from 0 on."""
        dealt: list[int] = []
        while start < stop:
            game, card = divmod(start, len(self))
            cards = self._shuffle(game)[card : card + stop - start].tolist()
            dealt += cards
            start += len(cards)
        return dealt

    def _shuffle(self, game: int) -> Positions:
        if self._shuffled[0] != game:
            generator = np.random.default_rng([*self._seed, game, _DECKS])
            self._shuffled = game, generator.permutation(self.positions)
        return self._shuffled[1]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A deck of complete samples and one of the others, dealt from in a fixed ratio, as evenly as can be."""

    fine: _Deck
    other: _Deck
    share: float
    """Of the cards from the fine deck."""
    phase: float
    """In [0, 1): where the rhythm starts, so that not all pairs deal from the same deck at the same time."""

    @classmethod
    def of(cls, fine: _Deck, other: _Deck, share: float, phase: float) -> "_Pair":
        if fine and other:
            return cls(fine, other, share, phase)
        return cls(fine, other, 1.0 if fine else 0.0, 0.0)

    def __len__(self) -> int:
        return len(self.fine) + len(self.other)

    def deal(self, start: int, stop: int) -> list[int]:
        """The cards from number `start` to before `stop`."""
        first, last = (math.floor(number * self.share + self.phase) for number in (start, stop))
        return self.fine.deal(first, last) + self.other.deal(start - first, stop - last)

    def mix(self, kind_of: Positions, kinds: int) -> npt.NDArray[np.float64]:
        """Expected share of the cards by the kind of their positions: (kind,), adding up to 1."""
        shares = np.zeros(kinds)
        for deck, share in ((self.fine, self.share), (self.other, 1 - self.share)):
            if deck:
                shares += share * np.bincount(kind_of[deck.positions], minlength=kinds) / len(deck)
        return shares


class CropSampler:
    """Draws samples: a share of each epoch by class, evenly over the classes, and the rest from whole images.

    Args:
        index: the samples; those without a single labelled pixel are never drawn.
        schema: their classes.
        class_uniform: share of an epoch's draws that are by class, each class that occurs as often as any other.
        fine_share: share of the draws from complete labels (fine, reviewed), where there are others as well. A class
            that only one of the two has is drawn from that one.
        boost_classes: names of the classes that are drawn from all labels alike, in proportion to their places; any
            other class is drawn from complete labels only. None: every class, by `fine_share`.
        seed: of all random numbers.
        epoch_crops: draws of an epoch; by default as many as there are complete samples, or others if there are none.

    Raises:
        SettingsError: a class to boost is not in the schema, or an epoch has no crops.

    Source: class-uniform sampling: arXiv:1812.01593, section 3.3; boosting from coarse and auto labels: the public
    training code of arXiv:2005.10821.
    """

    absent: tuple[str, ...]
    """Classes that occur, but are never drawn by class: only labels that they may not be drawn from have them."""

    def __init__(
        self,
        index: SampleIndex,
        schema: ClassSchema,
        *,
        class_uniform: float,
        fine_share: float,
        boost_classes: tuple[str, ...] | None,
        seed: int,
        epoch_crops: int | None = None,
    ) -> None:
        self._boost = None if boost_classes is None else _class_indices(boost_classes, schema)
        self._index, self._seed, self._fine_share = index, seed, fine_share
        self._complete = np.array([sample.kind in _COMPLETE for sample in index.samples])
        useful = index.counts.any(axis=1)
        assert useful.any(), "an index of nothing is an error"
        self._whole = _Pair.of(
            _Deck(np.flatnonzero(useful & self._complete), seed, 0),
            _Deck(np.flatnonzero(useful & ~self._complete), seed, 1),
            fine_share,
            0.5,
        )
        pairs = self._pairs(len(schema))
        self._by_class = {number: pair for number, pair in pairs.items() if pair}
        self.absent = tuple(schema.names[number] for number, pair in pairs.items() if not pair)
        self._class_uniform = class_uniform if self._by_class else 0.0
        self.epoch_crops = len(self._whole.fine or self._whole.other) if epoch_crops is None else epoch_crops
        """Draws of an epoch."""
        if self.epoch_crops < 1:
            raise SettingsError(f"an epoch has {epoch_crops} crops, expected at least 1")
        self._current: tuple[int, tuple[Draw, ...], tuple[Draw, ...]] = (-1, (), ())

    def _pairs(self, classes: int) -> dict[int, _Pair]:
        """The decks of places of each class that occurs; empty ones where its places may not be drawn."""
        places = self._index.places
        # one sort instead of a search a class: there may be millions of places
        group = places["class_index"].astype(np.uint16) * 2 + self._complete[places["sample"]]
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(2 * classes + 1)).tolist()
        pairs = {}
        for number in range(classes):
            middle, end = ends[2 * number + 1], ends[2 * number + 2]
            other, fine = order[ends[2 * number] : middle], order[middle:end]
            if not other.size and not fine.size:
                continue
            if self._boost is not None:
                fine = np.concatenate([fine, other]) if number in self._boost else fine
                other = other[:0]
            elif self._fine_share in (0, 1) and self._whole.fine and self._whole.other:
                # all or nothing is meant for each class as well
                fine, other = (fine, other[:0]) if self._fine_share else (fine[:0], other)
            fine_deck, other_deck = (_Deck(p, self._seed, 2 * number + i + 2) for i, p in enumerate((fine, other)))
            phase = np.random.default_rng([self._seed, number, 0, _PHASES]).random()
            pairs[number] = _Pair.of(fine_deck, other_deck, self._fine_share, phase)
        return pairs

    def draw(self, number: int) -> Draw:
        """The draw of a crop's number, 0 or more; the same in every process and whatever was drawn before."""
        epoch, position = divmod(number, self.epoch_crops)
        return self.epoch(epoch)[position]

    def epoch(self, number: int) -> tuple[Draw, ...]:
        """All draws of an epoch, shuffled; that of the last call is kept."""
        if self._current[0] != number:
            draws = self._plan(number)
            order = np.random.default_rng([self._seed, number, 0, _ORDERS]).permutation(len(draws))
            shuffled = tuple(draws[i] for i in order)
            auto = tuple(draw for draw in shuffled if self._index.samples[draw.sample].kind == "auto")
            self._current = number, shuffled, auto
        return self._current[1]

    def _plan(self, number: int) -> list[Draw]:
        # what was dealt before and what will have been dealt after: so rounding never adds up over the epochs
        before, after = (math.floor(n * self.epoch_crops * self._class_uniform + 0.5) for n in (number, number + 1))
        whole = self._whole.deal(number * self.epoch_crops - before, (number + 1) * self.epoch_crops - after)
        draws = [Draw(sample, None, None) for sample in whole]
        classes = len(self._by_class)
        for turn, (class_index, pair) in enumerate(self._by_class.items()):
            first, last = ((n + classes - 1 - turn) // classes for n in (before, after))
            places = self._index.places[pair.deal(first, last)]
            draws += [Draw(sample, (row, column), class_index) for sample, _, row, column, _ in places.tolist()]
        return draws

    def partner(self, number: int, draw: Draw, generator: np.random.Generator) -> Draw:
        """Another auto draw of the same epoch, to mix with.

        Args:
            number: the crop's.
            draw: that of the crop, from an auto sample.
            generator: the only source of randomness.

        Returns:
            A draw from another auto sample; where the epoch has none, the same draw.
        """
        self.epoch(number // self.epoch_crops)
        auto = self._current[2]
        start = int(generator.integers(len(auto)))
        return next((other for other in auto[start:] + auto[:start] if other.sample != draw.sample), draw)

    def expected_mix(self) -> dict[Kind, float]:
        """Expected share of the crops by kind, over many epochs; they add up to 1."""
        kinds: tuple[Kind, ...] = get_args(Kind)
        kind_of_sample = np.array([kinds.index(sample.kind) for sample in self._index.samples])
        kind_of_place = kind_of_sample[self._index.places["sample"]]
        shares = (1 - self._class_uniform) * self._whole.mix(kind_of_sample, len(kinds))
        for pair in self._by_class.values():
            shares += self._class_uniform / len(self._by_class) * pair.mix(kind_of_place, len(kinds))
        return dict(zip(kinds, shares.tolist(), strict=True))


def _class_indices(names: Sequence[str], schema: ClassSchema) -> frozenset[int]:
    for name in names:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected some of {', '.join(schema.names)}"
            raise SettingsError(f"class to boost {name!r} is no class of {schema.name!r}: {hint}")
    return frozenset(schema.names.index(name) for name in names)
