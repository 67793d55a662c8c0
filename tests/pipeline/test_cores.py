import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cores import asked_threads, plan_processes, plan_threads, usable_cores

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def test_without_control_groups_it_is_the_cores_bound_to(tmp_path: Path) -> None:
    """A system without control groups grants all the cores that the process is bound to."""
    assert usable_cores(tmp_path) == BOUND


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, BOUND),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "6400000 100000"}, min(64, BOUND)),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "100000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "9900000 100000",
                "sys/fs/cgroup/a/cpu.max": "150000 100000",
            },
            1,
        ),
        ({"proc/self/cgroup": "0::/out/of/sight", "sys/fs/cgroup/cpu.max": "max 100000"}, BOUND),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n1:cpu,cpuacct:/job",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            BOUND,
        ),
    ],
    ids=["one", "unlimited", "many", "half", "group above", "least of two", "not visible", "v1", "v1 unlimited"],
)
def test_control_groups_limit_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    """The group with the least time counts, of whichever version, and a fraction of a core is not used."""
    assert usable_cores(_write(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("value", "threads"), [(None, None), ("4", 4), ("4,2", 4), (" 3 ", 3), ("0", None), ("-1", None), ("many", None)]
)
def test_the_users_number_is_read(value: str | None, threads: int | None) -> None:
    """OMP_NUM_THREADS counts where it is a number of threads, its first where there are several."""
    assert asked_threads({} if value is None else {"OMP_NUM_THREADS": value}) == threads


@given(cores=st.integers(1, 1024), on_cuda=st.booleans())
def test_no_more_threads_are_busy_than_cores(cores: int, on_cuda: bool) -> None:
    """Each kind has a thread at least, and all together are no more than the cores and five."""
    plan = plan_threads(cores, on_cuda=on_cuda)
    assert min(plan.network, plan.decoders, plan.encoders) >= 1
    assert plan.network + plan.decoders + plan.encoders <= cores + 5


@given(cores=st.integers(1, 1024))
def test_on_the_cpu_the_network_has_the_cores(cores: int) -> None:
    """At most one core in eight is not the network's."""
    assert cores * 7 / 8 <= plan_threads(cores, on_cuda=False).network <= cores


@given(cores=st.integers(1, 256), asked=st.integers(1, 256), on_cuda=st.booleans())
def test_the_users_number_is_kept(cores: int, asked: int, on_cuda: bool) -> None:
    """Whoever has set the network's threads gets them."""
    assert plan_threads(cores, on_cuda=on_cuda, asked=asked).network == asked


@given(cores=st.integers(1, 1024), memory=st.integers(1, 2**42), each=st.integers(1, 2**36))
def test_processes_fit_the_machine(cores: int, memory: int, each: int) -> None:
    """There is always a process; each further one has its memory, and nine cores or more."""
    processes = plan_processes(cores, memory, each)
    assert processes >= 1
    if processes > 1:
        assert processes * each <= memory
        assert cores // processes > 8


def test_machines_small_and_large() -> None:
    """Two cores are one process with two threads at the network, 128 are eight of 15 threads each."""
    assert plan_processes(2, 2**34, 2**31) == 1
    assert plan_threads(2, on_cuda=False).network == 2
    processes = plan_processes(128, 2**38, 2**31)
    assert processes == 8
    assert plan_threads(128 // processes, on_cuda=False).network == 15
