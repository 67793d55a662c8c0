"""The workers of a cluster, as one run sees them: which are there, which it may use, and why it may not use others.

A worker is used once it has the same version of autocoarse, sees the run's folders, can write there and has loaded the
teacher. It is one process: what comes back at the same address after a death is another worker.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from distributed import Client, Future, Scheduler

from pipeline.dask_files import give_file
from pipeline.dask_link import PATIENCE_SECONDS
from pipeline.dask_task import Answer, Offer, ShardResult, open_labeller
from pipeline.worker_view import WorkerView

State = Literal["asked", "opening", "ready", "refused"]

_COMING = ("asked", "opening")

_STILLBORN = 3
"""Workers that go before they can be used; then the next, which their nanny starts, is not waited for."""

_CONTRADICTED = 3
"""Images that a worker fails and another does not; then it is used no more."""

_ALONE_SECONDS = 20.0
"""For how long another may come, where one worker is alone, before what it has failed is its own to judge."""


@dataclass(slots=True, eq=False)
class PooledWorker:
    """One worker process."""

    server_id: str
    address: str
    state: State = "asked"
    came: float = field(default_factory=time.monotonic)
    """By the monotonic clock."""
    reason: str = ""
    """Why it is refused."""
    name: str = ""
    device: str = ""
    asked: Future[Any] | None = None
    flights: int = 0
    """Shards that it has."""
    alone: bool = False
    """Whether it has a shard that it must have for itself."""
    labelled: int = 0
    contradicted: int = 0
    """Images that it failed, and others did not."""
    shard_items: int = 1
    """Of the next shard that it gets."""
    rate: float = 0.0
    """Items a second, of its latest shards."""
    problems: tuple[str, ...] = ()
    """As in `WorkerView`."""

    def view(self) -> WorkerView:
        """How it stands."""
        state = self.reason if self.state == "refused" else "ready" if self.state == "ready" else "opening"
        return WorkerView(self.name or self.address, state, self.device, self.labelled, self.rate, self.problems)

    def learn(self, result: ShardResult, target: float) -> None:
        """Size its next shard by how long the last one took: it should take `target` seconds."""
        self.problems = result.problems
        items = len(result.entries)
        if not items:
            return
        self.labelled += items
        seen = items / max(result.seconds, 1e-6)
        self.rate = seen if not self.rate else (self.rate + seen) / 2
        # a worker may be slower at what is next: it grows by steps, and shrinks at once
        self.shard_items = max(1, min(round(self.rate * target), 2 * max(items, self.shard_items)))


@dataclass(slots=True)
class WorkerPool:
    """All workers of the cluster."""

    offer: Offer
    file: Path | None
    """The teacher's, where the driver has it."""
    workers: dict[str, PooledWorker] = field(default_factory=dict)
    """By the id of the process."""
    given: bool = False
    """Whether the scheduler has the file."""
    deaths: int = 0
    """Workers that were used, and went."""
    alone_since: float = field(default_factory=time.monotonic)
    """When there were last none, or several, that may be used."""
    stillborn: int = 0
    """Workers that went since then before they could be used."""

    def watch(self, client: Client) -> list[PooledWorker]:
        """See who is there, ask those who are new, and hear those who were asked.

        Returns:
            Workers that are gone.

        Raises:
            OSError: the scheduler does not answer.
        """
        there = client.run_on_scheduler(_list_workers)
        gone = [self.workers.pop(one) for one in [*self.workers] if one not in there]
        self.deaths += sum(worker.state == "ready" for worker in gone)
        self.stillborn += sum(worker.state in _COMING for worker in gone)
        for server_id, address in there.items():
            if server_id not in self.workers:
                worker = self.workers[server_id] = PooledWorker(server_id, address)
                worker.asked = self._submit(client, worker, version, "autocoarse")
        for worker in self.workers.values():
            if worker.asked is not None and worker.asked.status != "pending":
                self._hear(client, worker, worker.asked)
        self._refuse_slower_kinds()
        if len(self.ready) != 1:
            self.alone_since, self.stillborn = time.monotonic(), 0
        return gone

    def forget_all(self) -> list[PooledWorker]:
        """Begin anew, at another scheduler; gives the workers that were there."""
        gone = [*self.workers.values()]
        self.workers.clear()
        self.given = False
        return gone

    @property
    def ready(self) -> list[PooledWorker]:
        """The workers that may be used."""
        return [worker for worker in self.workers.values() if worker.state == "ready"]

    @property
    def is_hopeless(self) -> bool:
        """Whether every worker that is there is refused."""
        return bool(self.workers) and all(worker.state == "refused" for worker in self.workers.values())

    @property
    def has_sole_judge(self) -> bool:
        """Whether one worker is alone, and nobody else can be expected to try again what it has failed."""
        now = time.monotonic()
        if len(self.ready) != 1 or now - self.alone_since < _ALONE_SECONDS:
            return False
        return self.stillborn >= _STILLBORN or not any(
            worker.state in _COMING and now - worker.came < PATIENCE_SECONDS for worker in self.workers.values()
        )

    def contradict(self, doubted: PooledWorker, worker: PooledWorker, done: int) -> None:
        """A worker could label images that another could not; where that goes on, the other is used no more."""
        doubted.contradicted += done
        if doubted.contradicted >= _CONTRADICTED:
            self.refuse(doubted, f"it failed {doubted.contradicted} images that {worker.name} could label")

    def refuse(self, worker: PooledWorker, reason: str) -> None:
        """Use a worker no more."""
        worker.state, worker.reason, worker.asked = "refused", reason, None

    def refusals(self) -> str:
        """Why workers are refused, one a line."""
        return "\n".join(
            f"  {worker.name or worker.address}: {worker.reason}"
            for worker in self.workers.values()
            if worker.state == "refused"
        )

    def _hear(self, client: Client, worker: PooledWorker, asked: Future[Any]) -> None:
        worker.asked = None
        if asked.status != "finished":
            error = asked.exception(timeout=10) if asked.status == "error" else None
            missing = type(error).__name__ == "PackageNotFoundError"
            self.refuse(worker, "autocoarse is not installed there" if missing else f"it does not answer: {error!r}")
        elif worker.state == "asked":
            mine, theirs = version("autocoarse"), asked.result(timeout=10)
            if mine != theirs:
                self.refuse(worker, f"it has autocoarse {theirs}, this is autocoarse {mine}; install the same on both")
            else:
                self._open(client, worker)
        else:
            self._take(client, worker, asked.result(timeout=10))

    def _open(self, client: Client, worker: PooledWorker) -> None:
        worker.state = "opening"
        worker.asked = self._submit(client, worker, open_labeller, self.offer)

    def _take(self, client: Client, worker: PooledWorker, answer: Answer) -> None:
        worker.name, worker.device = answer.process, answer.device
        if answer.lacks_file and self.file is not None:
            if self.given:
                self.refuse(worker, f"it lacks the teacher's file {self.file}, and cannot fetch it")
                return
            give_file(client, self.file, self.offer.source.file_sha256)
            self.given = True
            self._open(client, worker)
        elif answer.refusal:
            self.refuse(worker, answer.refusal)
        else:
            worker.state = "ready"

    def _refuse_slower_kinds(self) -> None:
        """Where some have a GPU, one that has none has lost it: it would be slow, and round otherwise."""
        kinds = {worker.device for worker in self.ready}
        if len(kinds) > 1:
            for worker in self.ready:
                if worker.device == "cpu":
                    self.refuse(worker, "it has no GPU, where others have one; --device cpu uses the CPU of all")

    @staticmethod
    def _submit(client: Client, worker: PooledWorker, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        return client.submit(
            function,
            *arguments,
            key=f"autocoarse-{uuid.uuid4().hex}",
            workers=[worker.address],
            allow_other_workers=False,
            pure=False,
        )


def _list_workers(dask_scheduler: Scheduler) -> dict[str, str]:
    """The address of each worker process."""
    return {state.server_id: state.address for state in dask_scheduler.workers.values()}
