"""Loaded by each worker process that a run starts on its own machine, before anything else."""

import signal

from distributed import Worker


def dask_setup(worker: Worker) -> None:  # noqa: ARG001 - dask's interface
    """Leave Ctrl-C, which a terminal sends to every process, to the one that the user has started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
