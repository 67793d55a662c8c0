"""The workers of a dask cluster: shards of items sent to them, entries taken back, and whatever happens meanwhile.

The driver sends each shard to a worker by name, a few seconds of work at a time. When a worker dies its shards are
halved and sent again, to workers that have nothing else; an item that is alone each time becomes a failure. Labels are
the same whoever makes them, so that a shard may be labelled twice; it is recorded once.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.scheduler import KilledWorker

from pipeline.dask_cluster import Cluster, connect, quieten
from pipeline.dask_pool import PooledWorker, WorkerPool
from pipeline.dask_task import Offer, ShardResult, forget_labeller, label_shard, stop_labelling
from pipeline.shard_queue import ATTEMPTS, Shard, ShardQueue
from pipeline.worker_view import WorkerView
from pipeline.workers import Record
from storage.account import LEDGER_ROW, ByteAccount
from storage.errors import AutocoarseError, BudgetError, DiskFullError, WorkerError
from storage.layouts import Item
from storage.ledger import Entry

SHARD_SECONDS = 5.0
"""That a shard should take."""

PATIENCE_SECONDS = 600.0
"""For how long a scheduler that is gone, or workers that are, are waited for."""

_GRACE_SECONDS = 10.0
"""The same where all workers that are there are refused: others may be starting."""

_WATCH_SECONDS = 0.5
_END_SECONDS = 15.0
"""For how long what workers still do is waited for when a run is stopped."""
_LATE = 3.0
"""A shard that takes so many times as long as it should is also given to a worker that has nothing to do."""
_CONTRADICTED = 3
"""Images that a worker fails and another does not; then it is used no more."""
_FIRST_BYTES = 1_000_000
"""Granted for an item before it is known what one takes."""

_LOST = (OSError, CancelledError, FutureCancelledError, ClosedClientError)
"""What dask raises where a connection is gone; time-outs are OSErrors."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A shard that a worker has."""

    shard: Shard
    worker: PooledWorker
    future: Future[Any]
    grant: int
    sent: float
    copied: bool = False
    """Whether another worker has it too."""


class DaskWorkers:
    """Workers of a dask cluster.

    Args:
        cluster: where they are.
        offer: what they are asked to do.
        account: of the run's bytes; each shard is granted some.
        measure: measures the run's bytes, where deaths have left unknown what was written.

    Raises:
        WorkerError: no scheduler answers.
    """

    def __init__(self, cluster: Cluster, offer: Offer, account: ByteAccount, measure: Callable[[], int]) -> None:
        quieten()
        self._cluster, self._account, self._measure = cluster, account, measure
        self._offer = offer
        self._client: Client = connect(cluster)
        self._pool = WorkerPool(offer, offer.source.file)
        self._queue = ShardQueue(iter(()), 0, 1)
        self._events: SimpleQueue[str] = SimpleQueue()
        self._flights: dict[str, _Flight] = {}
        self._unrecorded: list[Entry] = []
        """Kept here until they are recorded: Ctrl-C may come at any moment."""
        self._stop: AutocoarseError | None = None
        self._watched = self._seen_ready = time.monotonic()
        self._entries = self._bytes = 0
        self._tight = self._unsure = False

    def view(self) -> tuple[WorkerView, ...]:
        """How each worker stands."""
        return tuple(worker.view() for worker in [*self._pool.workers.values()])

    @property
    def name(self) -> str:
        """Where the workers are."""
        return self._cluster.name

    @property
    def dashboard(self) -> str:
        """Address of the dashboard that was asked for; of a cluster that is there already, its owner knows it."""
        link: str | None = self._client.dashboard_link if self._cluster.has_dashboard else ""
        return link or ""

    def close(self) -> None:
        """Let the workers go: they forget the teacher, or end where they were started for the run."""
        with contextlib.suppress(*_LOST):
            mine = [worker.address for worker in self._pool.ready]
            self._client.run(forget_labeller, self._offer.name, workers=mine, on_error="ignore")
        with contextlib.suppress(*_LOST):
            self._client.close(timeout=5)
        self._cluster.close()

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
        for worker in self._pool.watch(self._client):
            for key in [key for key, flight in self._flights.items() if flight.worker is worker]:
                flight = self._flights.pop(key)
                self._client.cancel([flight.future], force=True)
                self._lose(flight, died=True)
        if self._pool.ready or self._stop is not None:
            self._seen_ready = now
            return
        waited = now - self._seen_ready
        if (self._pool.is_hopeless and waited > _GRACE_SECONDS) or waited > PATIENCE_SECONDS:
            why = self._pool.refusals()
            raise WorkerError(
                f"no worker of {self._cluster.name} can be used"
                + (f":\n{why}" if why else ": none has come")
                + "\nwhat was labelled is recorded; the same command goes on"
            )

    def _send(self) -> None:
        """Give every worker what it has room for."""
        if self._stop is not None:
            return
        ready = self._pool.ready
        for worker in ready:
            while (grant := self._next_grant(worker)) is not None:
                shard = self._queue.next_for(worker, len(ready))
                if shard is None:
                    break
                self._fly(shard, worker, grant)
        if self._queue.is_empty:
            self._copy_late([worker for worker in ready if not worker.flights])

    def _fly(self, shard: Shard, worker: PooledWorker, grant: int) -> _Flight:
        key = f"autocoarse-shard-{uuid.uuid4().hex}"
        self._account.grant(grant)
        try:
            future = self._client.submit(
                label_shard,
                self._offer.name,
                shard.items,
                None if self._account.limit is None else grant,
                key=key,
                workers=[worker.address],
                allow_other_workers=False,
                pure=False,
            )
        except _LOST:  # the scheduler has gone since it was last heard of
            self._account.take_back(grant)
            if all(other.shard is not shard for other in self._flights.values()):
                self._queue.sent_back(shard)
            raise
        flight = self._flights[key] = _Flight(shard, worker, future, grant, time.monotonic())
        worker.flights += 1
        worker.alone = shard.suspect
        future.add_done_callback(lambda _: self._events.put(key))
        return flight

    def _next_grant(self, worker: PooledWorker) -> int | None:
        """Bytes for a worker's next shard; None: there are none while others have theirs."""
        room = self._account.room
        if room is None:
            return 0
        if self._tight or not room:
            if self._flights:
                return None
            if self._unsure:  # what the dead have written is only known by looking
                self._account.recount(self._measure())
                self._unsure = False
            return self._account.room
        each = _FIRST_BYTES if not self._entries else 3 * self._bytes / self._entries
        return min(room // 2, round(each * max(worker.shard_items, self._offer.job.batch)))

    def _copy_late(self, idle: list[PooledWorker]) -> None:
        """At the end, give what is late to those who have nothing to do."""
        rates = [worker.rate for worker in self._pool.ready if worker.rate]
        if not idle or not rates or self._account.limit is not None:
            return
        for flight in [*self._flights.values()]:
            should = SHARD_SECONDS + len(flight.shard.items) / (sum(rates) / len(rates))
            is_late = time.monotonic() - flight.sent > _LATE * should
            if idle and is_late and not flight.copied and not flight.shard.suspect:
                flight.copied = self._fly(flight.shard, idle.pop(), 0).copied = True

    def _collect(self, record: Record, seconds: float) -> list[Entry]:
        """Take what has come, or comes within some seconds, and record it together."""
        with contextlib.suppress(Empty):
            self._land(self._events.get(timeout=0 if self._unrecorded else seconds))
            while True:
                self._land(self._events.get_nowait())
        return self._record(record)

    def _record(self, record: Record) -> list[Entry]:
        try:
            recorded = record(self._unrecorded) if self._unrecorded else []
        except AutocoarseError:
            self._unrecorded = []  # those that there was room for are recorded
            raise
        self._unrecorded = []
        return recorded

    def _land(self, key: str) -> None:
        """Take a shard that has come back, however it has."""
        flight = self._flights.get(key)
        if flight is None:
            return
        if flight.future.status == "error":
            self._land_broken(key, flight)
            return
        try:
            result: ShardResult = flight.future.result(timeout=30)
        except _LOST:
            del self._flights[key]
            self._lose(flight, died=False)
        else:
            del self._flights[key]
            self._unrecorded += self._land_whole(flight, result)

    def _land_broken(self, key: str, flight: _Flight) -> None:
        error = flight.future.exception(timeout=30)
        del self._flights[key]
        self._lose(flight, died=isinstance(error, KilledWorker))
        if isinstance(error, WorkerError):
            self._pool.refuse(flight.worker, str(error))
        elif not isinstance(error, KilledWorker):
            self._stop = self._stop or WorkerError(f"{flight.worker.name}: {error!r}")

    def _land_whole(self, flight: _Flight, result: ShardResult) -> list[Entry]:
        worker, shard, entries = flight.worker, flight.shard, list(result.entries)
        self._release(flight)
        for key in [key for key, other in self._flights.items() if other.shard is shard]:
            other = self._flights.pop(key)  # the other worker that has it is too late
            self._client.cancel([other.future], force=True)
            self._release(other)
        done = sum(entry.status == "done" for entry in entries)
        used = result.used - done * LEDGER_ROW
        self._account.take_back(0, used, rows=done)
        self._entries, self._bytes = self._entries + done, self._bytes + result.used
        worker.learn(len(entries), result.seconds, SHARD_SECONDS)
        self._judge_stop(flight, result)
        if shard.doubted is not None and shard.doubted is not worker:
            self._contradict(shard.doubted, worker, done)
        elif done < len(entries) and shard.doubted is None and len(self._pool.ready) > 1:
            # a device that has broken fails every image, and quickly: it would fail the whole set
            failed = {entry.key for entry in entries if entry.status == "failed"}
            self._queue.again(tuple(item for item in shard.items if item.key in failed), doubted=worker)
            entries = [entry for entry in entries if entry.key not in failed]
        return entries

    def _contradict(self, doubted: PooledWorker, worker: PooledWorker, done: int) -> None:
        """Another worker could label what one could not; where that goes on, it is used no more."""
        doubted.contradicted += done
        if doubted.contradicted >= _CONTRADICTED:
            self._pool.refuse(doubted, f"it failed {doubted.contradicted} images that {worker.name} could label")

    def _judge_stop(self, flight: _Flight, result: ShardResult) -> None:
        """What a shard that was not finished means for the others; its items are sent again."""
        error = result.stop
        if isinstance(error, DiskFullError):
            self._stop = error
        elif isinstance(error, BudgetError):
            if self._tight and not result.entries:
                self._stop = BudgetError(
                    f"the budget is used up: it leaves {self._account.room} bytes, and the next label takes more"
                )
            self._tight = True
        elif error is not None:
            self._pool.refuse(flight.worker, str(error))
        self._queue.again(result.left)

    def _release(self, flight: _Flight) -> None:
        flight.worker.flights -= 1
        flight.worker.alone = False
        self._account.take_back(flight.grant)

    def _lose(self, flight: _Flight, *, died: bool) -> None:
        """Take back a shard that nobody will answer for."""
        self._release(flight)
        self._unsure = True
        if any(other.shard is flight.shard for other in self._flights.values()):
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
        except _LOST:
            self._reconnect()

    def _reconnect(self) -> None:
        with contextlib.suppress(*_LOST):
            self._client.close(timeout=2)
        flights = [*self._flights.values()]
        self._flights.clear()
        for flight in flights:
            self._lose(flight, died=False)
        self._pool.forget_all()
        end, wait = time.monotonic() + PATIENCE_SECONDS, 1.0
        while True:
            try:
                self._client = self._cluster.connect()
            except OSError as error:
                if time.monotonic() > end:
                    raise WorkerError(
                        f"the scheduler at {self._cluster.name} is gone, and has not come back for "
                        f"{PATIENCE_SECONDS:.0f} s; what was labelled is recorded, the same command goes on"
                    ) from error
                time.sleep(wait)
                wait = min(2 * wait, 15.0)
            else:
                self._seen_ready = time.monotonic()
                return

    def _end(self, record: Record) -> None:
        """Have the workers stop, and record what they have made until then."""
        if not self._flights and not self._unrecorded:
            return
        end = time.monotonic() + _END_SECONDS
        with contextlib.suppress(*_LOST):
            mine = list({flight.worker.address for flight in self._flights.values()})
            self._client.run(stop_labelling, self._offer.name, workers=mine, on_error="ignore")
            while self._flights and time.monotonic() < end:
                for key in [key for key, flight in self._flights.items() if flight.future.status != "pending"]:
                    self._land(key)
                time.sleep(0.05)
        with contextlib.suppress(*_LOST):
            self._client.cancel([flight.future for flight in self._flights.values()], force=True)
        for flight in self._flights.values():
            self._release(flight)
        self._flights.clear()
        with contextlib.suppress(BudgetError):  # it is on its way already
            self._record(record)
