"""The driver's connection to a dask scheduler, which may go and come back."""

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from distributed import Client
from distributed.client import ClosedClientError, FutureCancelledError

from pipeline.dask_cluster import Cluster
from storage.errors import WorkerError

PATIENCE_SECONDS = 600.0
"""For how long a scheduler that is gone, or workers that are, are waited for."""

LOST = (OSError, CancelledError, FutureCancelledError, ClosedClientError)
"""What dask raises where a connection is gone; time-outs are OSErrors."""

_LONGEST_WAIT = 15.0


class Link:
    """The connection.

    Raises:
        WorkerError: no scheduler answers; the first time that is a mistake, and nothing to be waited for.
    """

    client: Client

    def __init__(self, cluster: Cluster) -> None:
        _quieten()
        self.cluster = cluster
        try:
            self.client = cluster.connect()
        except OSError as error:
            raise WorkerError(
                f"no dask scheduler answers at {cluster.name}: {error}; start one with `dask scheduler`, or check the "
                f"address and, with tls://, the certificates"
            ) from error

    @property
    def dashboard(self) -> str:
        """Address of the dashboard that was asked for; of a cluster that is there already, its owner knows it."""
        address: str | None = self.client.dashboard_link if self.cluster.has_dashboard else ""
        return address or ""

    def reconnect(self, forget: Callable[[], None]) -> None:
        """Wait until the scheduler answers again.

        Args:
            forget: gives up what was known of the scheduler that is gone, once nothing can come from it any more.

        Raises:
            WorkerError: it does not come back.
        """
        with contextlib.suppress(*LOST):
            self.client.close(timeout=2)
        forget()
        end, wait = time.monotonic() + PATIENCE_SECONDS, 1.0
        while True:
            try:
                self.client = self.cluster.connect()
            except OSError as error:
                if time.monotonic() > end:
                    raise WorkerError(
                        f"the scheduler at {self.cluster.name} is gone, and has not come back for "
                        f"{PATIENCE_SECONDS:.0f} s; what was labelled is recorded, the same command goes on"
                    ) from error
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                return

    def close(self) -> None:
        """Part with the scheduler; what was started for the run ends."""
        with contextlib.suppress(*LOST):
            self.client.close(timeout=5)
        self.cluster.close()


def _quieten() -> None:
    """Have dask keep to itself what it tries: whether it worked is what a user is told here."""
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
