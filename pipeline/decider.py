"""What labels images, as far as the process around it has to know: the interfaces of a device to its surroundings.

Nothing here needs torch. The decider with a teacher is in `teacher_decider`; others stand in for it where only the
surroundings matter.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.step_down import Way

Image = npt.NDArray[np.uint8]


class Decided(Protocol):
    """What a decider makes of one image.

    It may still be on its way from the device: who reads it waits, any thread may, and gets RuntimeError or MemoryError
    where the device has failed in the meantime.
    """

    @property
    def label(self) -> Image:
        """(height, width) uint8: a class index, or 255."""

    @property
    def soft(self) -> Image | None:
        """(plane, height, width) uint8, what is kept beside the label; None where nothing is."""

    @property
    def attention(self) -> Image | None:
        """(scale, height, width) uint8, how much each scale counted; None where nobody asked."""


class Decider(Protocol):
    """A teacher with the run's scales and thresholds: what turns images into labels."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up, in words for the user; labels are the same."""

    def decide(self, images: Sequence[Image]) -> Sequence[Decided]:
        """Label images of one size, each (height, width, 3) uint8 RGB, as one batch.

        Raises:
            ImageError: an image cannot be labelled.
            RuntimeError, MemoryError: the device cannot.
        """


@runtime_checkable
class TilingDecider(Decider, Protocol):
    """A decider that can also do with less memory than whole images take."""

    def first_way(self, size: tuple[int, int], batch: int) -> Way:
        """How images of a size, (height, width), are labelled, as far as memory can be told beforehand.

        Args:
            size: of the images, in pixels.
            batch: how many may be labelled together.
        """

    def next_tile(self, size: tuple[int, int], tile: int | None) -> int | None:
        """Side of the next smaller tiles after those of side `tile`, or after whole images; None: there are none."""

    def decide_in_tiles(self, images: Sequence[Image], tile: int) -> Sequence[Decided]:
        """As `decide`, but no more than a tile is on its way through the network."""

    def free_memory(self) -> None:
        """Give back what an attempt that ran out of memory has left."""


@runtime_checkable
class ForesightedDecider(Decider, Protocol):
    """A decider that can prepare for images while it is at work on others."""

    @property
    def looks_ahead(self) -> bool:
        """Whether that is of use to it; on the CPU it is not."""

    def expect(self, images: Sequence[Image]) -> None:
        """Prepare for images that are the next to be decided as one batch, these very arrays.

        What is wrong with them is told when they are decided; and they may be decided otherwise, or never.
        """
