"""A temperature for a teacher: the one number that, dividing its logits, makes its confidence fit held-out labels best.

It changes no pixel's most likely class, and so no precision at equal coverage over all classes; it says how sure the
teacher may call itself.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.calibration_state import refuse_other
from pipeline.samples import Sample, read_ahead
from storage.errors import ImageError, WorkspaceError
from storage.json_text import parse_json
from storage.label_map import LabelMap
from storage.schema import IGNORE, ClassSchema
from storage.workspace import write_atomically

KIND = "temperature under way"

GRID = np.exp(np.linspace(math.log(0.25), math.log(4), 65))
"""The temperatures that are tried; between them a parabola tells."""

PIXELS = 2000
"""Looked at of an image at most; neighbouring pixels say nearly the same."""


@dataclass(frozen=True, slots=True)
class TemperatureSums:
    """The negative log likelihood of the truth at each temperature of the grid, over the pixels so far."""

    done: int
    """Images, in the order of the samples."""
    pixels: int
    likelihood: tuple[float, ...]
    """Its negative logarithm, summed over pixels, one for each temperature."""

    @classmethod
    def nothing(cls) -> Self:
        """Before the first image."""
        return cls(0, 0, (0.0,) * len(GRID))

    def plus(self, logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> Self:
        """With one image more.

        Args:
            logits: (pixel, class) of its sampled pixels, which may be none.
            truth: (pixel,) class indices.
        """
        finite = np.isfinite(logits).all(axis=1)  # the others get no class whatever the temperature
        logits, truth = logits[finite], truth[finite]
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf)
        of_truth = np.take_along_axis(shifted, truth[:, None], axis=1)[:, 0]
        added = [float((np.log(np.exp(shifted / t).sum(axis=1)) - of_truth / t).sum()) for t in GRID]
        likelihood = tuple(before + more for before, more in zip(self.likelihood, added, strict=True))
        return type(self)(self.done + 1, self.pixels + len(truth), likelihood)

    @property
    def temperature(self) -> float:
        """The best temperature, to four digits: of the parabola through the best of the grid and its neighbours.

        Source: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, section 4.2.
        """
        best = int(np.argmin(self.likelihood))
        if not self.pixels or best in (0, len(GRID) - 1):
            return float(f"{GRID[best]:.4g}") if self.pixels else 1.0
        before, least, after = self.likelihood[best - 1 : best + 2]
        bend = before - 2 * least + after
        offset = (before - after) / (2 * bend) if bend > 0 else 0.0
        step = math.log(GRID[1] / GRID[0])
        return float(f"{GRID[best] * math.exp(offset * step):.4g}")

    def to_plain(self) -> dict[str, Any]:
        """What is told of the fit: mean negative log likelihood without it, and with the best of the grid."""
        at_one = self.likelihood[len(GRID) // 2]
        pixels = max(1, self.pixels)
        return {"pixels": self.pixels, "nll_before": at_one / pixels, "nll_after": min(self.likelihood) / pixels}

    def save(self, path: Path, measured: dict[str, Any]) -> None:
        """Write it, whole or not at all.

        Raises:
            WorkspaceError: it cannot be written.
        """
        content = {"kind": KIND, "measured": measured, "done": self.done, "pixels": self.pixels}
        write_atomically(path, json.dumps({**content, "likelihood": self.likelihood}).encode())

    @classmethod
    def read(cls, path: Path, measured: dict[str, Any]) -> Self:
        """Read what `save` wrote; nothing, where there is no file.

        Raises:
            ForeignSettingsError: the file is of another calibration; the message shows the difference.
            WorkspaceError: the file is damaged.
        """
        if not path.is_file():
            return cls.nothing()
        try:
            content = parse_json(path.read_bytes())
            before = dict(content["measured"])
            found = cls(int(content["done"]), int(content["pixels"]), tuple(map(float, content["likelihood"])))
            damaged = content["kind"] != KIND or len(found.likelihood) != len(GRID)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{path} is damaged: {error}; remove it to fit from the start") from error
        if damaged:
            raise WorkspaceError(f"{path} is damaged: it is no fit of a temperature; remove it to fit from the start")
        refuse_other(path, before, measured)
        return found


def sample_pixels(truth: LabelMap, number: int) -> npt.NDArray[np.int64]:
    """Draw pixels whose truth is a class: their places in the flattened image, the same for the same image.

    Args:
        truth: of the image.
        number: of the image, which seeds the draw.
    """
    judged = np.flatnonzero(truth.values.reshape(-1) != IGNORE)
    if len(judged) <= PIXELS:
        return judged
    return np.sort(np.random.default_rng(number).choice(judged, PIXELS, replace=False))


def fit_samples(
    samples: Sequence[Sample],
    schema: ClassSchema,
    predict: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], npt.NDArray[np.float32]],
    sums: TemperatureSums,
) -> Iterator[TemperatureSums]:
    """Look at images, one after the other; at most a few are in memory.

    Args:
        samples: all of them, also those that are in the sums already.
        schema: the classes.
        predict: gives the joint logits of an image at places of the flattened image, (pixel, class).
        sums: of what was looked at already.

    Yields:
        The sums after each image; one that cannot be read adds nothing, and is told when it is counted.

    Raises:
        WorkspaceError: a store does not answer.
        RuntimeError, MemoryError: the device cannot predict.
    """
    none = np.zeros((0, len(schema)), np.float32), np.zeros(0, np.int64)
    for _, content in read_ahead(samples[sums.done :], schema):
        looked_at = none
        if not isinstance(content, str):
            image, truth = content
            places = sample_pixels(truth, sums.done)
            with suppress(ImageError):
                looked_at = predict(image, places), truth.values.reshape(-1)[places].astype(np.int64)
        sums = sums.plus(*looked_at)
        yield sums
