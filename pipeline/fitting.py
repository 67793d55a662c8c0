"""The way of labelling that fits in the memory there is, told before the run from a teacher's measured model.

What is done where memory runs out all the same is in `step_down`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.cores import plan_here
from pipeline.labeller import images_in_flight
from pipeline.step_down import Way
from storage.errors import SettingsError
from storage.soft_store import Keep
from teacher import Teacher
from teacher.fusion import size_at_scale
from teacher.joint_decision import WORKING_BYTES
from teacher.memory_plan import LabelMemory

TILES = (2048, 1536, 1024, 768, 512, 384)
"""Sides of tiles that are tried, in pixels. Of the smallest a quarter is taken, the rest is overlap: still smaller ones
would compute far more than they give."""

USED_SHARE = 0.9
"""Of the memory there is, so much is planned with: the model is right within some percent, and others need some too."""

KEPT_SHARE = 0.45
"""On the CPU, a plan of more than this share of the memory there is only holds where freed blocks go back to the
system, which costs time: by default the C library keeps up to as much again. See `pipeline.memory`."""


@dataclass(frozen=True, slots=True)
class Work:
    """What of the settings decides how much memory labelling takes."""

    scales: tuple[float, ...]
    flip: bool = False
    keep: Keep = "none"


@dataclass(frozen=True, slots=True)
class Fit:
    """The way for one image size."""

    way: Way
    peak: int
    """Bytes that it takes at most, images that wait to be labelled or written included."""
    fits: bool
    """Whether that is within the room."""
    tight: bool
    """Whether the plan only holds where freed memory goes back to the system at once."""


def memory_of(teacher: Teacher) -> LabelMemory:
    """Measure what a teacher takes; eight processor seconds for HRNet-OCR, one for a small network.

    Raises:
        SettingsError: it is one of another library, whose operations cannot be watched.
    """
    network, working = teacher.predictor.planned, WORKING_BYTES[teacher.device.type]
    if network is None:
        raise SettingsError(
            f"what a teacher of the kind {teacher.name} takes in memory cannot be told beforehand: label a few images, "
            f"and look at what the process takes"
        )
    return LabelMemory.of(network, teacher.device, len(teacher.schema), teacher.weight_bytes, working)


def tile_sides(size: tuple[int, int], scales: Sequence[float]) -> tuple[int, ...]:
    """Sides of the tiles that at least halve what the network sees at once, largest first.

    Args:
        size: (height, width) of the images, in pixels.
        scales: ratios to the images.
    """
    height, width = size_at_scale(size, max(scales))
    return tuple(side for side in TILES if 2 * min(side, height) * min(side, width) <= height * width)


def next_tile(size: tuple[int, int], scales: Sequence[float], tile: int | None) -> int | None:
    """Side of the next smaller tiles after those of side `tile`, or after whole images; None: there are none."""
    return next((side for side in tile_sides(size, scales) if tile is None or side < tile), None)


def fit(memory: LabelMemory, size: tuple[int, int], work: Work, room: int, batch: int = 1) -> Fit:
    """Find the way that takes the most memory and still fits: as many images together as asked, fewer, or tiles.

    Args:
        memory: of the teacher.
        size: (height, width) of the images, in pixels.
        work: how they are labelled.
        room: bytes that there are.
        batch: images that may be labelled together.

    Returns:
        That way; the smallest there is, which does not fit, where none does.

    Raises:
        SettingsError: the scales are not positive, come twice, or lack 1.0.
        ImageError: the images are too small for the lowest scale.
    """
    for way in _ways(size, work.scales, batch):
        found = _fit_of(way, memory, size, work, room)
        if found.fits:
            break
    return found


def whole_image(memory: LabelMemory, size: tuple[int, int], work: Work, room: int) -> Fit:
    """A single image labelled whole, whether it fits or not; arguments and errors as of `fit`."""
    return _fit_of(Way(), memory, size, work, room)


def _fit_of(way: Way, memory: LabelMemory, size: tuple[int, int], work: Work, room: int) -> Fit:
    peak = memory.peak(size, work.scales, batch=way.batch, tile=way.tile, flip=work.flip, keep=work.keep)
    if memory.on_host:
        # colours and label; and the C library fills what the loading of the network has left in its heap, and keeps it
        waiting = images_in_flight(way.batch, plan_here(on_cuda=False))
        peak += waiting * size[0] * size[1] * 4 + memory.weights
    tight = memory.on_host and peak > room * KEPT_SHARE
    return Fit(way, peak, fits=peak <= room * USED_SHARE, tight=tight)


def _ways(size: tuple[int, int], scales: Sequence[float], batch: int) -> Iterator[Way]:
    """In the order in which they are stepped down."""
    while batch >= 1:
        yield Way(batch)
        batch //= 2
    for side in tile_sides(size, scales):
        yield Way(1, side)
