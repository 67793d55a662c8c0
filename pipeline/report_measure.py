"""What one item adds to a report: its labels against each other and against the truth, and where it has any.

Pixels are counted here and added up in `report_sums`; nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.calibration_counts import PixelCounts
from pipeline.report_form import Layer
from pipeline.report_sources import ReportItem, Sources
from pipeline.scores import count_pixels
from storage.errors import LabelError
from storage.label_map import LabelMap, count_values
from storage.label_png import read_label_png
from storage.schema import IGNORE
from storage.soft_store import NO_CONFIDENCE, Planes

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float32]

MAP_SIZE = (45, 80)
"""Rows and columns of the map of coverage, at most."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one item adds; None: it lacks what that is counted from."""

    confidence: float | None = None
    """Mean over the pixels, of the class that was most likely."""
    codes: Counts | None = None
    """(code,) pixels by the code of their confidence."""
    disagreement: float | None = None
    """Share of the pixels with a coarse and an automatic class in which the two differ."""
    error: float | None = None
    """Share of the pixels with a class and a truth whose class is wrong."""
    pixels: dict[Layer, Counts] | None = None
    """(class,) pixels by class, of layers that no ledger speaks of."""
    against_truth: Counts | None = None
    """(class, class + 1), of `count_pixels`."""
    kept: PixelCounts | None = None
    """What was kept of its confidence, against the truth."""
    labelled: Shares | None = None
    """Share of labelled pixels in each cell of the map."""
    problems: tuple[str, ...] = ()
    """What could not be read."""


def map_size(items: Sequence[ReportItem]) -> tuple[int, int]:
    """Rows and columns of the map of coverage: in the shape of the first label, no finer than it."""
    entry = next((item.entry for item in items if item.entry is not None and item.entry.status == "done"), None)
    if entry is None:
        return MAP_SIZE
    ratio = min(1.0, MAP_SIZE[0] / entry.height, MAP_SIZE[1] / entry.width)
    return max(1, round(entry.height * ratio)), max(1, round(entry.width * ratio))


@dataclass(frozen=True, slots=True)
class Measurer:
    """Measures items; threads may share it."""

    sources: Sources
    cells: tuple[int, int]
    """Rows and columns of the map of coverage."""

    def measure(self, item: ReportItem) -> Measured:
        """Read an item's labels and what was kept of its confidence; what cannot be read is a problem, and no error."""
        entry = item.entry
        if entry is None or entry.status != "done":
            return Measured()
        problems: list[str] = []
        size = entry.height, entry.width
        labels = {layer: label for layer in self._layers() if (label := self._read(item, layer, size, problems))}
        own, truth = labels.get(self.sources.own), labels.get("truth")
        planes = self._planes(item, size, problems)
        counted = [layer for layer in labels if layer not in self.sources.runs and layer != "truth"]
        codes = None if planes is None else count_values(planes[1])[:NO_CONFIDENCE]
        against = None if own is None or truth is None else count_pixels(truth, own)
        return Measured(
            confidence=None if codes is None else self._mean(codes),
            codes=codes,
            disagreement=_differing(labels.get("coarse"), labels.get("auto")),
            error=None if against is None else _wrong(against),
            pixels={layer: labels[layer].counts[: len(self.sources.schema)] for layer in counted},
            against_truth=against,
            kept=None if planes is None or truth is None else PixelCounts.of_image(truth, planes, self._steps),
            labelled=None if own is None else self._labelled(own),
            problems=tuple(problems),
        )

    def _layers(self) -> list[Layer]:
        """Those that are read; of merged labels beside a run's own the ledger says enough."""
        wanted: tuple[Layer, ...] = ("coarse", "auto", "truth", self.sources.own)
        return [layer for layer in self.sources.layers if layer in wanted]

    def _read(self, item: ReportItem, layer: Layer, size: tuple[int, int], problems: list[str]) -> LabelMap | None:
        file = item.labels.get(layer)
        if file is None:
            if layer == self.sources.own:
                problems.append(f"{item.key}: its label is not there any more")
            return None
        try:
            return read_label_png(file.path, self.sources.schema, file.ids, size)
        except (LabelError, OSError) as error:
            problems.append(str(error))
            return None

    def _planes(self, item: ReportItem, size: tuple[int, int], problems: list[str]) -> Planes | None:
        if self.sources.store is None or item.slot is None:
            return None
        try:
            planes = self.sources.store.read(item.slot, size)
        except LabelError as error:
            problems.append(str(error))
            return None
        known = planes[1] != NO_CONFIDENCE
        if planes[0].max() >= len(self.sources.schema) or planes[1].max(where=known, initial=0) >= self._steps:
            problems.append(f"{item.key}: what is kept of its confidence is of no class, or of no step")
            return None
        return planes

    @property
    def _steps(self) -> int:
        assert self.sources.store is not None, "there are codes"
        return self.sources.store.form.steps

    def _mean(self, codes: Counts) -> float | None:
        """A code stands for all confidences up to the next threshold: for their middle."""
        known = codes[: self._steps]
        total = known.sum()
        return float((known * (np.arange(self._steps) + 0.5)).sum() / self._steps / total) if total else None

    def _labelled(self, label: LabelMap) -> Shares:
        rows, columns = self.cells
        mask = Image.fromarray((label.values != IGNORE).astype(np.uint8) * np.uint8(255))
        return np.asarray(mask.resize((columns, rows), Image.Resampling.BOX), np.float32) / np.float32(255)


def _differing(coarse: LabelMap | None, auto: LabelMap | None) -> float | None:
    if coarse is None or auto is None:
        return None
    return _wrong(count_pixels(coarse, auto))


def _wrong(counts: Counts) -> float | None:
    """Share of the pixels with a class in which it is another than the truth's, in counts by truth and class."""
    decided = int(counts[:, :-1].sum())
    return 1 - int(counts.diagonal().sum()) / decided if decided else None
