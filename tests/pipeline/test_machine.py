"""What the system tells of a machine, on systems that are made up of a few files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.machine import (
    codec_versions,
    list_cuda_devices,
    memory_bytes,
    package_versions,
    read_processor,
    room_on,
    sees_gpu_files,
    thread_settings,
)

MEMINFO = "MemTotal:       8000000 kB\nMemFree:        1000000 kB\nMemAvailable:   6000000 kB\nHugePages_Total:   0\n"
KB = 1024

MakeSystem = Callable[[dict[str, str]], Path]


@pytest.fixture
def system(tmp_path: Path) -> MakeSystem:
    """Make a system of files."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_memory_is_what_the_system_has_available(system: MakeSystem) -> None:
    """Without limits, what is available counts, not what is free."""
    assert memory_bytes(system({"proc/meminfo": MEMINFO})) == (8_000_000 * KB, 6_000_000 * KB)


def test_a_control_group_limits_memory(system: MakeSystem) -> None:
    """In a container its limit counts, less what it uses, but for files that it may drop; so does a group around it."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": "5\n",
        "sys/fs/cgroup/outer/memory.max": "2000000000\n",
        "sys/fs/cgroup/outer/memory.current": "900000000\n",
        "sys/fs/cgroup/outer/memory.stat": "anon 500\ninactive_file 400000000\n",
    }
    assert memory_bytes(system(files)) == (2_000_000_000, 1_500_000_000)


def test_a_control_group_of_version_1_limits_memory(system: MakeSystem) -> None:
    """The older form, each controller with a tree of its own, is read as well; its huge number is no limit."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "7:cpu:/x\n4:memory:/job\n0::/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3000000000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "1000000000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "2000000000\n",
    }
    assert memory_bytes(system(files)) == (3_000_000_000, 2_000_000_000)


def test_a_group_over_its_limit_leaves_nothing(system: MakeSystem) -> None:
    """Never less than nothing is available."""
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "2000\n",
    }
    assert memory_bytes(system(files))[1] == 0


def test_a_system_that_tells_nothing_has_the_memory_of_the_machine(tmp_path: Path) -> None:
    """Where there is no /proc, as on macOS, the machine's memory is taken."""
    total, available = memory_bytes(tmp_path)
    assert total == available > 10**8


def test_the_processor_has_the_systems_name(system: MakeSystem) -> None:
    """The model is the one the system tells; at least one processor is usable, and no more than there are."""
    found = read_processor(system({"proc/cpuinfo": "processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags : a b\n"}))
    assert found.model == "Some CPU @ 2 GHz"
    assert 1 <= found.usable <= found.logical
    assert read_processor(system({"proc/cpuinfo": "processor : 0\n"})).model


def test_the_room_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU what is available counts; on a GPU what is free there, and what the process holds there already."""
    total, _ = memory_bytes()
    assert 0 < room_on(torch.device("cpu")) <= total
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 + device.index, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 100)
    assert room_on(torch.device("cuda:2")) == 109


def test_a_gpu_that_torch_does_not_see_is_known_by_its_files(system: MakeSystem, tmp_path: Path) -> None:
    """NVIDIA's driver, or its device file, says that there is a GPU."""
    assert not sees_gpu_files(tmp_path)
    assert sees_gpu_files(system({"dev/nvidia0": ""}))


def test_libraries_tell_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides results and speed has a version, and a variable that is set is shown."""
    assert {"python", "torch", "autocoarse"} <= package_versions().keys()
    assert codec_versions()["jpg"]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert thread_settings()["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in thread_settings()
    assert len(list_cuda_devices()) >= 0
