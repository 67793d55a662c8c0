"""Shards: what is sent to workers, in which order, and what becomes of those that were lost.

It knows nothing of dask: the driver tells what it has sent and what came of it.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.dask_pool import PooledWorker
from storage.layouts import Item
from storage.ledger import Entry

ATTEMPTS = 3
"""Times that an item may be alone with a worker that dies; then it has failed."""

_ASIDE = 1000
"""Items that are put aside for want of another worker; whoever could not label them gets no more before they are
judged. They take memory, and where so many are failed it is rarely the images that are at fault."""

_IN_FLIGHT = 2
"""Shards of a worker: one that it labels, and one that waits so that it never does."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Items that are sent together."""

    items: tuple[Item, ...]
    suspect: bool = False
    """Whether a worker has died that had it; then it is sent to one that has nothing else."""
    deaths: int = 0
    """How often it was alone with a worker that died."""
    doubted: PooledWorker | None = None
    """The worker that could not label it; another is asked before that is believed, and itself where none will come."""


class ShardQueue:
    """All that is to be labelled: shards that came back first, then items, as they are needed.

    Args:
        items: never taken before a worker is there for them.
        count: how many there are.
        least: items of a shard, where there are so many.
    """

    def __init__(self, items: Iterator[Item], count: int, least: int) -> None:
        self._items, self._unsent, self._least = items, count, least
        self._suspects: deque[Shard] = deque()
        self._again: deque[Shard] = deque()
        self._exhausted = False

    @property
    def is_empty(self) -> bool:
        """Whether everything is sent, and nothing has come back."""
        return self._exhausted and not self._suspects and not self._again

    def next_for(self, worker: PooledWorker, workers: int, *, is_sole_judge: bool = False) -> Shard | None:
        """The shard that a worker gets now; None: it has enough, or there is nothing for it.

        Args:
            worker: that would get it.
            workers: how many share the work.
            is_sole_judge: whether no other worker will come; then, after all else, it gets what it has failed again.
        """
        if worker.alone or worker.flights >= _IN_FLIGHT:
            return None
        if self._suspects:  # the others finish what they have, so that one of them is free for it
            return None if worker.flights else self._suspects.popleft()
        own = [shard for shard in self._again if shard.doubted is worker]
        shard = next((shard for shard in self._again if shard.doubted is not worker), None)
        if shard is None and sum(len(aside.items) for aside in own) < _ASIDE:
            shard = self._next_items(worker, workers)
        elif shard is not None:
            self._again.remove(shard)
        if shard is None and own and is_sole_judge:
            shard = own[0]
            self._again.remove(shard)
        return shard

    def _next_items(self, worker: PooledWorker, workers: int) -> Shard | None:
        # towards the end nobody gets what others, who have nothing, could do
        fair = math.ceil(self._unsent / (2 * workers))
        items = tuple(islice(self._items, max(self._least, min(worker.shard_items, fair))))
        self._unsent -= len(items)
        self._exhausted = not items
        return Shard(items) if items else None

    def again(self, items: tuple[Item, ...]) -> None:
        """Take items back, through no fault of theirs."""
        if items:
            self._again.append(Shard(items))

    def believed(self, shard: Shard, worker: PooledWorker, entries: tuple[Entry, ...]) -> list[Entry]:
        """Judge what a worker has made of a shard: an image that it could not label is put aside the first time.

        A device that has broken fails every image, and quickly: it would fail the whole set, before others have come.

        Returns:
            The entries that hold.
        """
        failed = {entry.key for entry in entries if entry.status == "failed"} if shard.doubted is None else set()
        if failed:
            aside = tuple(item for item in shard.items if item.key in failed)
            self._again.append(Shard(aside, doubted=worker))
        return [entry for entry in entries if entry.key not in failed]

    def sent_back(self, shard: Shard) -> None:
        """Take a shard back that could not be sent."""
        (self._suspects if shard.suspect else self._again).appendleft(shard)

    def died_with(self, shard: Shard) -> Item | None:
        """Take a shard back whose worker has died.

        Returns:
            The item that has failed by now; None: it is tried again.
        """
        if len(shard.items) > 1:
            half = len(shard.items) // 2
            self._suspects.extend(Shard(part, suspect=True) for part in (shard.items[:half], shard.items[half:]))
            return None
        deaths = shard.deaths + shard.suspect  # only when it was alone is it known to be the one
        if deaths >= ATTEMPTS:
            return shard.items[0]
        self._suspects.append(replace(shard, suspect=True, deaths=deaths, doubted=None))
        return None
