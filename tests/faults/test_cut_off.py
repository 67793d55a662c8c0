"""Connections that end or fall silent, and schedulers that vanish: the set is labelled whole all the same."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, Future, Scheduler

from pipeline.dask_task import label_shard
from pipeline.labelling import LabelRun


def test_a_scheduler_that_is_killed_is_waited_for(cluster: Any, night: Any) -> None:
    """It comes back at the same address, so do the workers, and the run goes on by itself."""
    scheduler = cluster.start_scheduler()
    slow = night.slow(0.3)
    worker = cluster.start_worker("--no-nanny", *slow)
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        scheduler.kill()
        assert scheduler.wait() == -signal.SIGKILL
        worker.kill()
        worker.wait()

        def restart() -> None:
            cluster.start_scheduler()
            cluster.start_worker("--no-nanny", *slow)

        starter = threading.Timer(2, restart)
        starter.start()
        seen += entries
        starter.join()
        assert len({entry.key for entry in seen}) == len(seen) == night.images
    night.check(run)


@pytest.mark.parametrize("seconds", [0.0, 3.0], ids=["at once", "noticed"])
def test_a_scheduler_that_vanishes_as_a_shard_is_sent_loses_none(
    cluster: Any, night: Any, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Killed between the taking of a shard and its sending: the shard is sent again, to whoever comes."""
    processes = [cluster.start_scheduler(), cluster.start_worker("--no-nanny", *night.slow(0.2))]
    starters: list[threading.Timer] = []

    def restart() -> None:
        cluster.start_scheduler()
        cluster.start_worker("--no-nanny", *night.slow(0.2))

    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        submit = Client.submit

        def vanish(client: Client, function: object, *arguments: object, **options: object) -> Future[object]:
            if function is label_shard and not starters and run.summary.labelled > 2:
                for process in processes:
                    process.kill()
                    process.wait()
                starters.append(threading.Timer(seconds + 1, restart))
                starters[0].start()
                time.sleep(seconds)
            return submit(client, function, *arguments, **options)

        monkeypatch.setattr(Client, "submit", vanish)
        keys = [entry.key for entry in run]
        assert starters, "it was killed"
        starters[0].join()
    assert len(set(keys)) == len(keys) == night.images
    night.check(run)


class Cable:
    """A cable between a worker and its scheduler, that can be cut, or swallow all that is sent until it is mended."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.is_cut = self.is_silent = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are refused until it is mended."""
        self.is_cut = True
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        """Give the port back."""
        self.cut()
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.is_silent:
                    time.sleep(0.05)
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cable(cluster: Any) -> Iterator[Cable]:
    """A cable to a scheduler that is started with it."""
    cluster.start_scheduler()
    made = Cable(cluster.port)
    yield made
    made.close()


def test_a_host_that_is_cut_off_and_comes_back(
    cluster: Any,
    cable: Cable,
    night: Any,
) -> None:
    """Its shards are done by others, or by itself again; what it made while nobody heard it does no harm."""
    slow = night.slow(0.3)
    cluster.start_worker(*slow, address=f"tcp://127.0.0.1:{cable.port}")
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        cable.cut()
        cluster.start_worker(*slow)
        mend = threading.Timer(3, setattr, (cable, "is_cut", False))
        mend.start()
        seen += entries
        mend.join()
        assert len({entry.key for entry in seen}) == len(seen) == night.images
    night.check(run)


def test_a_host_that_falls_silent_is_given_up(cluster: Any, cable: Cable, night: Any) -> None:
    """Nothing is heard and nothing ends: its time runs out, others do its shards, and what it says later is nothing."""

    async def run_out_of_time(dask_scheduler: Scheduler) -> None:  # a time for all could be too short for the well one
        for worker in dask_scheduler.workers.values():
            worker.last_seen = 0.0
        await dask_scheduler.check_worker_ttl()

    slow = night.slow(0.3)
    cluster.start_worker("--no-nanny", *slow, address=f"tcp://127.0.0.1:{cable.port}")
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        cable.is_silent = True
        with Client(cluster.address, set_as_default=False, timeout=300) as client:
            client.run_on_scheduler(run_out_of_time)
        cluster.start_worker("--no-nanny", *slow)
        for entry in entries:
            seen.append(entry)
            cable.is_silent = len(seen) < night.images // 2
        assert len({entry.key for entry in seen}) == len(seen) == night.images
    night.check(run)
