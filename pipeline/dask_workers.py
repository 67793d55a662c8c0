"""The workers of a dask cluster: shards of items sent to them, entries taken back, and whatever happens meanwhile.

The driver sends each shard to a worker by name, a few seconds of work at a time. When a worker dies its shards are
halved and sent again, to workers that have nothing else; an item that is alone each time becomes a failure. Labels are
the same whoever makes them, so that a shard may be labelled twice; it is recorded once.
"""

import contextlib
import time
from collections.abc import Iterator

from distributed.scheduler import KilledWorker

from pipeline.byte_grants import ByteGrants
from pipeline.dask_cluster import Cluster
from pipeline.dask_flights import Flight, Flights
from pipeline.dask_link import LOST, PATIENCE_SECONDS, Link
from pipeline.dask_pool import PooledWorker, WorkerPool
from pipeline.dask_task import Offer, ShardResult, forget_labeller, stop_labelling
from pipeline.shard_queue import ATTEMPTS, Shard, ShardQueue
from pipeline.worker_view import WorkerView
from pipeline.workers import Record
from storage.errors import AutocoarseError, BudgetError, DiskFullError, WorkerError
from storage.layouts import Item
from storage.ledger import Entry

SHARD_SECONDS = 5.0
"""That a shard should take, of few workers; of many, who would ask too often, longer."""

_SHARDS_A_SECOND = 8
"""That the driver should have to see to: each takes some 7 ms of a core, with dask's own part."""

_LONGEST_SHARD = 60.0
"""Seconds that a shard should take at most, of however many."""

_GRACE_SECONDS = 20.0
"""How long it is waited where all workers that are there are refused: others may be starting."""

_WATCH_SECONDS = 1.0
_END_SECONDS = 15.0
"""For how long what workers still do is waited for when a run is stopped."""
_LATE = 3.0
"""A shard that takes so many times as long as it should is also given to a worker that has nothing to do."""


class DaskWorkers:
    """Workers of a dask cluster.

    Args:
        cluster: where they are.
        offer: what they are asked to do.
        grants: of the run's bytes; each shard gets some.

    Raises:
        WorkerError: no scheduler answers.
    """

    def __init__(self, cluster: Cluster, offer: Offer, grants: ByteGrants) -> None:
        self._link, self._offer, self._grants = Link(cluster), offer, grants
        self._pool = WorkerPool(offer, offer.source.file)
        self._queue = ShardQueue(iter(()), 0, 1)
        self._flights = Flights()
        self._unrecorded: list[Entry] = []
        """Kept here until they are recorded: Ctrl-C may come at any moment."""
        self._stop: AutocoarseError | None = None
        self._watched = self._seen_ready = time.monotonic()

    def view(self) -> tuple[WorkerView, ...]:
        """How each worker stands."""
        return tuple(worker.view() for worker in [*self._pool.workers.values()])

    @property
    def name(self) -> str:
        """Where the workers are."""
        return self._link.cluster.name

    @property
    def dashboard(self) -> str:
        """Address of the dashboard that was asked for."""
        return self._link.dashboard

    def close(self) -> None:
        """Let the workers go: they forget the teacher, or end where they were started for the run."""
        with contextlib.suppress(*LOST):
            mine = [worker.address for worker in self._pool.ready]
            self._link.client.run(forget_labeller, self._offer.name, workers=mine, on_error="ignore")
        self._link.close()

    def label(self, items: Iterator[Item], count: int, record: Record) -> Iterator[Entry]:
        """As `Workers.label`; entries come as shards are finished."""
        self._queue = ShardQueue(items, count, self._offer.job.batch)
        self._seen_ready = time.monotonic()
        try:
            while True:
                with self._reconnecting():
                    self._watch()
                    self._send()
                if not self._flights and not self._unrecorded and (self._stop is not None or self._queue.is_empty):
                    break
                yield from self._collect(record, _WATCH_SECONDS)
        finally:
            self._end(record)
        if self._stop is not None:
            raise self._stop

    def _watch(self) -> None:
        """See which workers there are, now and then; raises WorkerError where there is none for too long."""
        now = time.monotonic()
        if now - self._watched < _WATCH_SECONDS and self._pool.ready:
            return
        self._watched = now
        for worker in self._pool.watch(self._link.client):
            for flight in self._flights.of_worker(worker):
                self._link.client.cancel([flight.future], force=True)
                self._lose(flight, died=True)
        if self._pool.ready or self._stop is not None:
            self._seen_ready = now
            return
        waited = now - self._seen_ready
        if (self._pool.is_hopeless and waited > _GRACE_SECONDS) or waited > PATIENCE_SECONDS:
            why = self._pool.refusals()
            raise WorkerError(
                f"no worker of {self._link.cluster.name} can be used"
                + (f":\n{why}" if why else ": none has come")
                + "\nwhat was labelled is recorded; the same command goes on"
            )

    def _send(self) -> None:
        """Give every worker what it has room for."""
        if self._stop is not None:
            return
        ready, is_sole_judge = self._pool.ready, self._pool.has_sole_judge
        for worker in ready:
            while (grant := self._next_grant(worker)) is not None:
                shard = self._queue.next_for(worker, len(ready), is_sole_judge=is_sole_judge)
                if shard is None:
                    break
                self._fly(shard, worker, grant)
        self._copy_late([worker for worker in ready if not worker.flights])

    def _fly(self, shard: Shard, worker: PooledWorker, grant: int) -> None:
        client, grants = self._link.client, self._grants
        grants.give(grant)
        try:
            self._flights.send(client, self._offer.name, shard, worker, grant, limited=grants.is_limited)
        except LOST:  # the scheduler has gone since it was last heard of
            grants.take_back(grant)
            if not self._flights.has(shard):
                self._queue.sent_back(shard)
            raise
        worker.flights += 1
        worker.alone = shard.suspect

    def _next_grant(self, worker: PooledWorker) -> int | None:
        items = max(worker.shard_items, self._offer.job.batch)
        return self._grants.next_for(items, others=bool(self._flights))

    @property
    def _shard_seconds(self) -> float:
        """How long the next shards should take."""
        return min(max(SHARD_SECONDS, len(self._pool.ready) / _SHARDS_A_SECOND), _LONGEST_SHARD)

    def _copy_late(self, idle: list[PooledWorker]) -> None:
        """Give what is late to those for whom nothing else is left."""
        rates = [worker.rate for worker in self._pool.ready if worker.rate]
        if not rates or self._grants.is_limited:
            return
        for flight in self._flights:
            should = self._shard_seconds + len(flight.shard.items) / (sum(rates) / len(rates))
            is_late = time.monotonic() - flight.sent > _LATE * should
            free = next((worker for worker in idle if worker is not flight.shard.doubted), None)
            if free is not None and is_late and not flight.copied and not flight.shard.suspect:
                idle.remove(free)
                self._fly(flight.shard, free, 0)
                for either in self._flights.of_shard(flight.shard):
                    either.copied = True

    def _collect(self, record: Record, seconds: float) -> list[Entry]:
        """Take what has come, or comes within some seconds, and record it together."""
        for flight in self._flights.ended(0 if self._unrecorded else seconds):
            self._land(flight)
        return self._record(record)

    def _record(self, record: Record) -> list[Entry]:
        try:
            recorded = record(self._unrecorded) if self._unrecorded else []
        except AutocoarseError:
            self._unrecorded = []  # those that there was room for are recorded
            raise
        self._unrecorded = []
        return recorded

    def _land(self, flight: Flight) -> None:
        """Take a shard that has come back, however it has."""
        error: BaseException | None = None
        try:
            if flight.future.status == "error":
                error = flight.future.exception(timeout=30)
            else:
                result: ShardResult = flight.future.result(timeout=30)
        except LOST:
            self._lose(flight, died=False)
            return
        if error is None:
            self._unrecorded += self._land_whole(flight, result)
            return
        self._lose(flight, died=isinstance(error, KilledWorker))
        if isinstance(error, WorkerError):
            self._pool.refuse(flight.worker, str(error))
        elif not isinstance(error, KilledWorker):
            self._stop = self._stop or WorkerError(f"{flight.worker.name}: {error!r}")

    def _land_whole(self, flight: Flight, result: ShardResult) -> list[Entry]:
        worker, shard, entries = flight.worker, flight.shard, result.entries
        self._release(flight)
        for other in self._flights.of_shard(shard):  # the other worker that has it is too late
            self._link.client.cancel([other.future], force=True)
            self._release(other)
        done = sum(entry.status == "done" for entry in entries)
        self._grants.spent(done, result.used)
        worker.learn(result, self._shard_seconds)
        self._judge_stop(flight, result)
        if shard.doubted is not None and shard.doubted is not worker:
            self._pool.contradict(shard.doubted, worker, done)
        return self._queue.believed(shard, worker, entries)

    def _judge_stop(self, flight: Flight, result: ShardResult) -> None:
        """What a shard that was not finished means for the others; its items are sent again."""
        error = result.stop
        if isinstance(error, DiskFullError):
            self._stop = error
        elif isinstance(error, BudgetError):
            if self._grants.is_tight and not result.entries:
                self._stop = BudgetError(
                    f"the budget is used up: it leaves {self._grants.room} bytes, and the next label takes more"
                )
            self._grants.is_tight = True
        elif error is not None:
            self._pool.refuse(flight.worker, str(error))
        self._queue.again(result.left)

    def _release(self, flight: Flight) -> None:
        self._flights.pop(flight)
        flight.worker.flights -= 1
        flight.worker.alone = False
        self._grants.take_back(flight.grant)

    def _lose(self, flight: Flight, *, died: bool) -> None:
        """Take back a shard that nobody will answer for."""
        self._release(flight)
        self._grants.lose_count()
        if self._flights.has(flight.shard):
            return  # another worker has it as well
        if not died:
            self._queue.sent_back(flight.shard)
        elif (item := self._queue.died_with(flight.shard)) is not None:
            reason = (
                f"{item.image}: its worker died each of {ATTEMPTS} times that it labelled this image alone, the last "
                f"time {flight.worker.name}; look at the image, and at the memory of that host"
            )
            self._unrecorded.append(
                Entry(key=item.key, status="failed", settings_digest=self._offer.job.settings_digest, reason=reason)
            )

    @contextlib.contextmanager
    def _reconnecting(self) -> Iterator[None]:
        """Where the scheduler is gone, wait for it to come back, and begin anew with what had been sent."""
        try:
            yield
        except AutocoarseError:
            raise
        except LOST:
            self._link.reconnect(self._forget_scheduler)
            self._seen_ready = time.monotonic()

    def _forget_scheduler(self) -> None:
        for flight in self._flights:
            self._lose(flight, died=False)
        self._pool.forget_all()

    def _end(self, record: Record) -> None:
        """Have the workers stop, and record what they have made until then."""
        if not self._flights and not self._unrecorded:
            return
        end = time.monotonic() + _END_SECONDS
        with contextlib.suppress(*LOST):
            mine = list({flight.worker.address for flight in self._flights})
            self._link.client.run(stop_labelling, self._offer.name, workers=mine, on_error="ignore")
            while self._flights and time.monotonic() < end:
                for flight in self._flights:
                    if flight.future.status != "pending":
                        self._land(flight)
                time.sleep(0.05)
        with contextlib.suppress(*LOST):
            self._link.client.cancel([flight.future for flight in self._flights], force=True)
        for flight in self._flights:
            self._release(flight)
        with contextlib.suppress(BudgetError):  # it is on its way already
            self._record(record)
