"""A look at the machine before a run: what there is, how images of given sizes would be labelled, and what to change.

It labels nothing and changes nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.cores import plan_here
from pipeline.fitting import Fit, Work, fit, whole_image
from pipeline.machine import (
    CudaDevice,
    Processor,
    codec_versions,
    list_cuda_devices,
    memory_bytes,
    package_versions,
    read_processor,
    sees_gpu_files,
    thread_settings,
)
from storage.budget import free_bytes
from teacher.memory_plan import LabelMemory

_LITTLE_DISK = 1_000_000_000
_LARGEST_BATCH = 16
"""That is advised; GPUs are full by then."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    processor: Processor
    memory_total: int
    memory_available: int
    """Bytes, within the limits of the process's control groups."""
    devices: tuple[CudaDevice, ...]
    disk_free: int
    """Bytes where the labels would go."""
    threads: int
    """That torch gives to one layer."""
    decoders: int
    """Threads that read images while others are labelled."""
    encoders: int
    """Threads that write labels."""
    environment: dict[str, str]
    versions: dict[str, str]
    codecs: dict[str, str | None]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SizePlan:
    """How images of one size would be labelled."""

    height: int
    width: int
    whole: Fit
    """A single image, not in tiles, whether that fits or not."""
    chosen: Fit
    """The way that would be taken."""
    advice: str
    """Empty where there is none."""


def examine(out: Path) -> Examination:
    """Look at the machine.

    Args:
        out: where labels would go; it need not exist.
    """
    threads = plan_here(on_cuda=torch.cuda.is_available())
    processor, (total, available) = read_processor(), memory_bytes()
    found = Examination(
        processor=processor,
        memory_total=total,
        memory_available=available,
        devices=list_cuda_devices(),
        disk_free=free_bytes(out),
        threads=threads.network,
        decoders=threads.decoders,
        encoders=threads.encoders,
        environment=thread_settings(),
        versions=package_versions(),
        codecs=codec_versions(),
        advice=(),
    )
    return replace(found, advice=tuple(_advise(found, out)))


def _advise(found: Examination, out: Path) -> list[str]:
    usable, advice = found.processor.usable, []
    asked = found.environment.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() else found.threads
    if threads > usable:
        advice.append(
            f"OMP_NUM_THREADS is {asked} on {usable} processors, where threads wait for each other: leave it out or "
            f"set it to {usable}"
        )
    elif threads < usable and asked and not found.devices:
        advice.append(
            f"OMP_NUM_THREADS is {asked} on {usable} processors, of which one process uses no more: leave it out, or "
            f"label with several processes (--workers)"
        )
    if sees_gpu_files() and not found.devices:
        advice.append(
            f"there is a GPU of NVIDIA's, but torch {torch.__version__} sees none: install a torch that is built for "
            f"its driver, and see CUDA_VISIBLE_DEVICES"
        )
    if found.disk_free < _LITTLE_DISK:
        advice.append(
            f"{out} has little room: a run stops cleanly when the disk is full; `estimate` tells what it takes"
        )
    if found.codecs.get("libjpeg_turbo") is None:
        advice.append("Pillow was built without libjpeg-turbo and decodes JPEG slowly: install its wheel from PyPI")
    return advice


def plan_size(memory: LabelMemory, size: tuple[int, int], work: Work, room: int, batch: int = 1) -> SizePlan:
    """Plan how images of a size would be labelled.

    Args:
        memory: of the teacher.
        size: (height, width) of the images, in pixels.
        work: how they are labelled.
        room: bytes that there are on the device.
        batch: images that may be labelled together.

    Raises:
        SettingsError: the scales are not positive, come twice, or lack 1.0.
        ImageError: the images are too small for the lowest scale.
    """
    chosen, whole = fit(memory, size, work, room, batch), whole_image(memory, size, work, room)
    plan = SizePlan(size[0], size[1], whole, chosen, "")
    return replace(plan, advice=_advise_size(memory, plan, work, room, batch))


def _advise_size(memory: LabelMemory, plan: SizePlan, work: Work, room: int, batch: int) -> str:
    size, way, name = (plan.height, plan.width), plan.chosen.way, f"{plan.width}x{plan.height}"
    if way.tile is not None:
        smaller = tuple(scale for scale in work.scales if scale < max(work.scales))
        fits = 1.0 in smaller and whole_image(memory, size, replace(work, scales=smaller), room).fits
        other = f"; whole images fit with --scales {','.join(f'{s:g}' for s in smaller)}" if fits else ""
        if not plan.chosen.fits:
            return f"{name} does not fit, not even in tiles of {way.tile} pixels: it needs more memory{other}"
        return (
            f"{name} is labelled in tiles of {way.tile} pixels: a tile sees less than the image, so labels may differ "
            f"from those of whole images{other}"
        )
    if way.batch < batch:
        return f"use --batch {way.batch}: {batch} images of {name} do not fit together"
    if not plan.chosen.fits:
        return f"{name} does not fit, and is too small for tiles: it needs more memory"
    larger = fit(memory, size, work, room, _LARGEST_BATCH)
    if not memory.on_host and larger.way.tile is None and larger.way.batch > batch:
        return f"use --batch {larger.way.batch}: so many images of {name} fit together, and fill a GPU better"
    return ""
