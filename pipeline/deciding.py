"""Batches to a decider, one after the other, in a way that fits in memory; and what becomes of those that fail.

It neither reads images nor writes labels. Nothing here needs torch.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock
from typing import TypeVar

from pipeline.decider import Decided, Decider, ForesightedDecider, TilingDecider
from pipeline.decoding import Decoded
from pipeline.step_down import StepDown, Way
from storage.errors import ImageError
from storage.out_of_memory import is_out_of_memory

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an image."""

    image: Decoded
    decided: Decided | None
    """None: nothing could be decided."""
    way: Way
    """In which it was."""
    together: int
    """How many images the batch had."""
    seconds: float = 0.0
    """For which the decider was occupied, the image's part of the batch's."""
    reason: str = ""
    """Why nothing could be decided."""


class Deciding:
    """A decider that many threads may use: it serves one of them after the other.

    Where memory runs out, images of that size, and larger ones, are decided in a smaller way from then on: fewer at a
    time, then, where the decider can, in tiles.

    The device may be at work still on what it has been given: a decider that looks ahead is told what comes next before
    it is given a batch, and what it has decided is waited for by whoever wants it. So what fails on the device may show
    only there, in `arrived`, where the image has another try.

    Args:
        decider: that decides.
        batch: how many images it is given together at most.
    """

    def __init__(self, decider: Decider, batch: int) -> None:
        self._decider, self._turn = decider, Lock()
        if isinstance(decider, TilingDecider):
            self._ways = StepDown(lambda size: decider.first_way(size, batch), decider.next_tile)
        else:
            self._ways = StepDown(lambda _: Way(batch), lambda *_: None)

    @property
    def looks_ahead(self) -> bool:
        """Whether the decider is to be told what comes next."""
        return isinstance(self._decider, ForesightedDecider) and self._decider.looks_ahead

    def decide(self, group: Sequence[Decoded], following: Sequence[Decoded]) -> Iterator[Outcome]:
        """Decide images of one size; a failure costs its image alone.

        Args:
            group: the images, which were read.
            following: those that come next, of another size perhaps, or not read; empty where that is not known.
        """
        size = _size(group[0])
        waiting, alone = list(group), 0
        while waiting:
            with self._turn:
                way = self._ways.way(size)
                part = waiting[: 1 if alone else way.batch]
                self._foretell(waiting[len(part) :] or following)
                started = time.perf_counter()
                decided = self._attempt(part, size, way)
                seconds = (time.perf_counter() - started) / len(part)
                if decided is None:
                    self._free_memory()
                    continue
            if isinstance(decided, str) and len(part) > 1:
                alone = len(part)  # whose fault it was shows when each is alone
                continue
            del waiting[: len(part)]
            alone = max(0, alone - len(part))
            if isinstance(decided, str):
                yield Outcome(part[0], None, way, 1, seconds, decided)
                continue
            for image, one in zip(part, decided, strict=True):
                yield Outcome(image, one, way, len(part), seconds)

    def arrived(self, outcome: Outcome) -> Outcome:
        """Wait for what was decided of an image. Where the device has failed at it, it is decided again, alone."""
        if outcome.decided is None:
            return outcome
        try:
            _wait_for([outcome.decided])
        except (RuntimeError, MemoryError) as error:
            reason, is_short = _reason(error), is_out_of_memory(error)
        else:
            return outcome
        size, way = _size(outcome.image), outcome.way
        with self._turn:
            again = outcome.together > 1
            if is_short:  # unless it was the same with another image since then: that way is left
                again = self._ways.way(size) != way or self._ways.step_down(size, outcome.together)
                self._free_memory()
        while again:
            with self._turn:
                way = self._ways.way(size)
                decided = self._attempt([outcome.image], size, way, wait=True)
                if decided is None:
                    self._free_memory()
                    continue
            if not isinstance(decided, str):
                return replace(outcome, decided=decided[0], way=way, together=1)
            reason, again = decided, False
        return replace(outcome, decided=None, way=way, reason=reason)

    def _foretell(self, coming: Sequence[Decoded]) -> None:
        """Have the decider prepare for the batch that comes next, as far as it is known."""
        if isinstance(self._decider, ForesightedDecider) and self._decider.looks_ahead:
            images = [one.image for one in coming if one.image is not None]
            if images:
                self._decider.expect(images[: self._ways.way(_size(coming[0])).batch])

    def _attempt(
        self, part: Sequence[Decoded], size: tuple[int, int], way: Way, *, wait: bool = False
    ) -> Sequence[Decided] | str | None:
        """Decide images of one size together.

        Args:
            part: the images.
            size: their (height, width), in pixels.
            way: how they are decided.
            wait: until it is done, and not only on its way.

        Returns:
            What was decided, or why nothing could be; None where memory ran out and a smaller way was taken.
        """
        images = [one.image for one in part if one.image is not None]
        try:
            if way.tile is not None and isinstance(self._decider, TilingDecider):
                decided = self._decider.decide_in_tiles(images, way.tile)
            else:
                decided = self._decider.decide(images)
            if wait:
                _wait_for(decided)
        except (ImageError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and self._ways.step_down(size, len(part)):
                return None
            return _reason(error)
        return decided

    def _free_memory(self) -> None:
        """Not before the error, which held on to it, is gone."""
        if isinstance(self._decider, TilingDecider):
            self._decider.free_memory()


def one_behind(values: Iterator[Value]) -> Iterator[Value]:
    """Give each value once the one after it has been asked for.

    Of what a device is still deciding: it has the next image before the host begins with what it made of this one. An
    error comes after the value before it.
    """
    before = list(islice(values, 1))
    while before:
        try:
            following = list(islice(values, 1))
        except Exception:
            yield from before
            raise
        yield from before
        before = following


def _wait_for(decided: Sequence[Decided]) -> None:
    for one in decided:
        _ = one.label, one.soft


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _size(one: Decoded) -> tuple[int, int]:
    assert one.image is not None, "it was read"
    return (one.image.shape[0], one.image.shape[1])
