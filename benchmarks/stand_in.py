"""A stand-in for a teacher: it takes a set time for each image and needs no torch, so that workers can be many.

It is a declared fake: it looks at an image's size and at nothing else of it. For measuring who hands out the work, and
never for labels that anybody uses.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.decider import Decider, Image
from storage.errors import CheckpointError
from storage.schema import IGNORE

_BLOCK = 16


@dataclass(frozen=True, slots=True)
class StandInDecision:
    """A label; nothing is kept beside it."""

    label: Image
    soft: Image | None = None
    attention: Image | None = None


@lru_cache(maxsize=8)
def stand_in_label(height: int, width: int, classes: int) -> npt.NDArray[np.uint8]:
    """Blocks of the classes in turn, the first column of them ignored: (height, width) uint8."""
    rows, columns = np.arange(height)[:, None] // _BLOCK, np.arange(width) // _BLOCK
    label = ((rows + columns) % classes).astype(np.uint8)
    label[:, :_BLOCK] = IGNORE
    label.setflags(write=False)
    return label


@dataclass(frozen=True, slots=True)
class StandInDecider:
    """Sleeps, as a process does whose GPU is at work."""

    latency: float
    """Seconds for an image."""
    classes: int
    problems: tuple[str, ...] = ()
    """It has none."""

    def decide(self, images: Sequence[Image]) -> list[StandInDecision]:
        """As `Decider.decide`."""
        time.sleep(self.latency * len(images))
        return [StandInDecision(stand_in_label(*image.shape[:2], self.classes)) for image in images]


@dataclass(frozen=True, slots=True)
class StandInSource:
    """Makes the stand-in in each worker; small, and there is no file that a worker could lack."""

    latency: float
    classes: int
    file: Path | None = None
    file_sha256: str = ""

    def at(self, file: Path) -> Self:  # noqa: ARG002 - there is none
        """As `Source.at`."""
        return self

    def load(self, limit: int | None = None) -> tuple[Decider, str]:  # noqa: ARG002 - it takes nothing
        """As `Source.load`.

        Raises:
            CheckpointError: something in this worker has imported torch, which would be measured with it.
        """
        if "torch" in sys.modules:
            raise CheckpointError("torch is imported in a worker that has no use for it")
        return StandInDecider(self.latency, self.classes), "cpu"
