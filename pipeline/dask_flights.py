"""Shards that workers have: sent, awaited, and known by their key until they have come back or are given up."""

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future

from pipeline.dask_pool import PooledWorker
from pipeline.dask_task import label_shard
from pipeline.shard_queue import Shard


@dataclass(slots=True, eq=False)
class Flight:
    """A shard that a worker has."""

    key: str
    shard: Shard
    worker: PooledWorker
    future: Future[Any]
    grant: int
    sent: float
    """By the monotonic clock."""
    copied: bool = False
    """Whether another worker has it too."""


class Flights:
    """All of them."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        self._events: SimpleQueue[str] = SimpleQueue()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Flight]:
        """Those of this moment; they may be popped meanwhile."""
        return iter([*self._by_key.values()])

    def send(self, client: Client, name: str, shard: Shard, worker: PooledWorker, grant: int, *, limited: bool) -> None:
        """Send a shard to a worker.

        Args:
            client: connected to the scheduler; what it raises where that is gone, this raises too.
            name: of the offer that the worker has accepted.
            shard: to send.
            worker: that gets it.
            grant: bytes that it may take.
            limited: whether it is held to them.
        """
        key = f"autocoarse-shard-{uuid.uuid4().hex}"
        future = client.submit(
            label_shard,
            name,
            shard.items,
            grant if limited else None,
            key=key,
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
        )
        self._by_key[key] = Flight(key, shard, worker, future, grant, time.monotonic())
        future.add_done_callback(lambda _: self._events.put(key))

    def pop(self, flight: Flight) -> None:
        """It has come back, or is given up."""
        del self._by_key[flight.key]

    def has(self, shard: Shard) -> bool:
        """Whether a worker has a shard."""
        return bool(self.of_shard(shard))

    def of_shard(self, shard: Shard) -> list[Flight]:
        """Those of a shard: two where one of them is late."""
        return [flight for flight in self._by_key.values() if flight.shard is shard]

    def of_worker(self, worker: PooledWorker) -> list[Flight]:
        """Those of a worker."""
        return [flight for flight in self._by_key.values() if flight.worker is worker]

    def ended(self, seconds: float) -> Iterator[Flight]:
        """Those that have come back, however they have, or do so within some seconds."""
        with suppress(Empty):
            key = self._events.get(timeout=seconds)
            while True:
                if key in self._by_key:
                    yield self._by_key[key]
                key = self._events.get_nowait()
