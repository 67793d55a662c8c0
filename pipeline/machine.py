"""The machine as a process finds it: processor, memory, CUDA devices, and what its libraries are.

It reads what the system tells and changes nothing; what to make of it is in `doctor`.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from PIL import features

from pipeline.control_groups import control_groups
from pipeline.cores import usable_cores

_PACKAGES = ("autocoarse", "torch", "torchvision", "timm", "numpy", "pillow", "dask", "zarr")
_CODECS = ("jpg", "libjpeg_turbo", "zlib", "zlib_ng", "webp", "libtiff")
_ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MALLOC_ARENA_MAX", "LD_PRELOAD")
"""Variables that decide how fast, or where, a network is run."""


@dataclass(frozen=True, slots=True)
class Processor:
    """The CPU."""

    model: str
    logical: int
    """Processors as the system counts them, threads of a core each."""
    usable: int
    """Those that this process may use."""


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU."""

    name: str
    total_bytes: int
    free_bytes: int


def read_processor(root: Path = Path("/")) -> Processor:
    """Tell the CPU.

    Args:
        root: folder in which `proc` is.
    """
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = (root / "proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    logical = os.cpu_count() or 1
    return Processor(model, logical, usable_cores(root))


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Tell the memory of the machine and what a process may take now, within the limits of its control groups.

    Args:
        root: folder in which `proc` and `sys` are.

    Returns:
        Total and available bytes. Where the system does not tell what is available, as macOS, that is the total.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = total
    with suppress(OSError, ValueError, KeyError):
        lines = (line.partition(":") for line in (root / "proc/meminfo").read_text().splitlines())
        found = {name: int(value.split()[0]) * 1024 for name, _, value in lines}
        total, available = found["MemTotal"], found["MemAvailable"]
    for limit, used in _group_limits(root):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group of this process and each group around it that has a limit."""
    for group in control_groups("memory", root):
        yield from _group_limit(group)


def _group_limit(group: Path) -> Iterator[tuple[int, int]]:
    # files are missing where a group does not limit, and where a container sees only a part of the tree
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # "max": there is no limit
            bound, taken = int((group / limit).read_text()), int((group / used).read_text())
            yield bound, taken - _file_cache(group)


def _file_cache(group: Path) -> int:
    """Bytes of files that a group holds in memory and gives up when it needs it."""
    with suppress(OSError, ValueError):
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        found = {name: int(value) for name, value in lines}
        return found.get("total_inactive_file", found.get("inactive_file", 0))
    return 0


def list_cuda_devices() -> tuple[CudaDevice, ...]:
    """The GPUs that torch sees, in the order of their numbers."""
    devices = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        devices.append(CudaDevice(torch.cuda.get_device_name(index), total, free))
    return tuple(devices)


def room_on(device: torch.device) -> int:
    """Bytes that this process may take on a device: what is free, and on CUDA also what it holds already."""
    if device.type == "cpu":
        return memory_bytes()[1]
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def sees_gpu_files(root: Path = Path("/")) -> bool:
    """Whether the system has GPUs of NVIDIA's, also where torch sees none."""
    return (root / "proc/driver/nvidia/gpus").is_dir() or (root / "dev/nvidia0").exists()


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results and speed depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def codec_versions() -> dict[str, str | None]:
    """Versions of the libraries by which Pillow reads images; None where it was built without."""
    return {name: features.version(name) if features.check(name) else None for name in _CODECS}


def thread_settings() -> dict[str, str]:
    """What the environment says of threads and devices; only variables that are set."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
