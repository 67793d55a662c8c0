"""How many processor cores there are to use, and how many threads make good use of them.

Only decides; who starts threads asks here.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.control_groups import control_groups

_CORE_TO_SPARE = 8
"""From so many cores on, one is left to reading and writing. The threads of a layer wait for the slowest of them, so
that with all cores at the network each image that is decoded holds up all of them."""
_WAITING = 2
"""Threads that read, and as many that write: they wait for a disk or a network most of the time."""


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads of one process that labels."""

    network: int
    """torch's own, which share the work of one layer."""
    decoders: int
    """That read images ahead of the network."""
    encoders: int
    """That write labels behind it."""


def usable_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: of those it is bound to, as many as its control groups grant time for.

    Args:
        root: folder in which `proc` and `sys` are.

    Returns:
        At least 1. Of a fraction of a core granted the rest is left: threads beyond the grant are halted in turn.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([bound, *_grants(root)])))


def _grants(root: Path) -> Iterator[float]:
    """Cores that each control group of this process, and each group around it, grants time for."""
    for group in control_groups("cpu", root):
        yield from _grant(group)


def _grant(group: Path) -> Iterator[float]:
    # files are missing where a group does not limit, and where a container sees only a part of the tree
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max": there is no limit
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # -1: there is no limit
            yield int(quota) / int(period)


def asked_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """The number of threads that the user, or whoever started this process, has set by OMP_NUM_THREADS.

    Returns:
        At least 1; None where it is not set, or to nothing that OpenMP would take.
    """
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def plan_threads(cores: int, *, on_cuda: bool, asked: int | None = None) -> ThreadPlan:
    """Plan the threads of one process that labels.

    On the CPU the network takes nearly all of the time, and gets nearly all of the cores. Before a CUDA device it is
    the reading and writing that the cores are for: to encode a label takes several times as long as to decode an image.

    Args:
        cores: that the process may use; its share where there are several.
        on_cuda: the network is run by a CUDA device.
        asked: threads for the network, as `asked_threads` found; None: as many as is good.

    Returns:
        Counts of at least 1, of which no more are busy at a time than there are cores and five.
    """
    if on_cuda:
        encoders, decoders = min(max(_WAITING, cores // 2), 16), min(max(_WAITING, cores // 4), 8)
        return ThreadPlan(asked or 1, decoders, encoders)
    return ThreadPlan(asked or (cores if cores < _CORE_TO_SPARE else cores - 1), _WAITING, _WAITING)


def plan_here(*, on_cuda: bool) -> ThreadPlan:
    """Plan the threads of this process: by what it is told by OMP_NUM_THREADS, or by the cores that there are."""
    asked = asked_threads()
    return plan_threads(asked or usable_cores(), on_cuda=on_cuda, asked=asked)
