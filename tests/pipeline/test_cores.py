import os
from pathlib import Path

import pytest

from pipeline.cores import asked_threads, plan_threads, usable_cores

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


def test_machines_small_and_large() -> None:
    """Two cores are two threads at the network, 16 are 15."""
    assert plan_threads(2, on_cuda=False).network == 2
    assert plan_threads(16, on_cuda=False).network == 15
