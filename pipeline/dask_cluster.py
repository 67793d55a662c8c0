"""The cluster that a run's workers are in: processes of this machine, or one that a user has started.

Everything that is started here listens on loopback.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask.config
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.security import Security
from distributed.system import MEMORY_LIMIT

from storage.errors import SettingsError

CONNECT_SECONDS = 20

_LOOPBACK = "127.0.0.1"

_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.memory.monitor-interval": "1s",
}
"""Of dask's looking after itself, no more than a run has use for; its defaults take 2 % of a core for a worker that
waits, and half a percent of one for its nanny."""


class Cluster(Protocol):
    """Where workers are found."""

    name: str
    has_dashboard: bool
    """Whether dask's dashboard was asked for."""

    def connect(self) -> Client:
        """Connect to its scheduler.

        Raises:
            OSError: it does not answer.
            SettingsError: what is asked for is not there, and never will be.
        """

    def close(self) -> None:
        """Let go of it; what was started for the run ends."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files for `tls://`, in PEM format; without them dask's own configuration decides."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def security(self) -> Security:
        """Dask's form of them."""
        given = {"tls_ca_file": self.ca, "tls_client_cert": self.cert, "tls_client_key": self.key}
        found = {name: str(path) for name, path in given.items() if path is not None}
        return Security(require_encryption=True, **found) if found else Security()


class ExistingCluster:
    """A scheduler that a user has started, and whatever workers come to it."""

    has_dashboard = False

    def __init__(self, address: str, certificates: Certificates) -> None:
        if not address.startswith(("tcp://", "tls://")):
            raise SettingsError(f"scheduler is {address!r}, expected tcp://HOST:PORT or tls://HOST:PORT")
        self.name = address
        self._security = certificates.security()
        if address.startswith("tls://") and not self._security.get_connection_args("client").get("ssl_context"):
            raise SettingsError(
                f"{address} needs certificates: give --tls-ca, --tls-cert and --tls-key, or set distributed.comm.tls "
                f"in dask's configuration"
            )

    def connect(self) -> Client:
        """As `Cluster.connect`."""
        return Client(self.name, security=self._security, timeout=CONNECT_SECONDS, set_as_default=False)

    def close(self) -> None:
        """The cluster is not ours, and stays."""


class LocalProcesses:
    """Processes of this machine, each with a nanny that starts it again when it dies; one a GPU, or one a `count`.

    Args:
        count: of processes.
        gpus: which CUDA device each sees, in the driver's own terms; empty: none of them is told.
        dashboard: whether dask's dashboard is shown, on loopback.
    """

    def __init__(self, count: int, gpus: tuple[str, ...] = (), *, dashboard: bool = False) -> None:
        self.name = f"{count} processes of this machine"
        self._count, self._gpus, self.has_dashboard = count, gpus, dashboard
        self._cluster: Any = None

    def connect(self) -> Client:
        """As `Cluster.connect`; starts the processes the first time."""
        if self._cluster is None:
            self._cluster = self._start()
        return Client(self._cluster, timeout=CONNECT_SECONDS, set_as_default=False)

    def _start(self) -> Any:  # noqa: ANN401 - dask-cuda's cluster where it is installed
        address = f"{_LOOPBACK}:0"  # something listens also without a dashboard
        if self._gpus and (with_dask_cuda := _dask_cuda()) is not None:
            gpus = ",".join(self._gpus)
            return with_dask_cuda(
                CUDA_VISIBLE_DEVICES=gpus, host=_LOOPBACK, threads_per_worker=1, dashboard_address=address
            )
        options = {
            "cls": Scheduler,
            "options": {"host": _LOOPBACK, "dashboard": self.has_dashboard, "dashboard_address": address},
        }
        with dask.config.set(_QUIET):  # the scheduler and the nannies read it as they start
            return SpecCluster(
                workers={number: {"cls": Nanny, "options": self._worker(number)} for number in range(self._count)},
                scheduler=options,
                silence_logs=logging.CRITICAL,
            )

    def _worker(self, number: int) -> dict[str, Any]:
        # a share of the cores each; more threads than cores make every process crawl
        threads = str(max(1, CPU_COUNT // self._count))
        env = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if self._gpus:
            env["CUDA_VISIBLE_DEVICES"] = self._gpus[number]
        return {
            "host": _LOOPBACK,
            "nthreads": 1,
            # a process that takes more than its share ends, and not the one that the system picks
            "memory_limit": int(MEMORY_LIMIT / self._count),
            "env": env,
            "dashboard": False,
            "dashboard_address": f"{_LOOPBACK}:0",
            "preload": ["pipeline.dask_preload"],
            "silence_logs": logging.CRITICAL,
            "config": {
                **_QUIET,
                "distributed.worker.memory.target": False,  # tasks keep nothing that could go to the disk
                "distributed.worker.memory.spill": False,
                "distributed.worker.memory.pause": False,
            },
        }

    def close(self) -> None:
        """End the processes."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None


def _dask_cuda() -> Any:  # noqa: ANN401 - a library that may not be there
    try:
        from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return LocalCUDACluster
