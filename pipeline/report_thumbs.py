"""Thumbnails of a report: how large they may be, which items get one, and how each is made.

Labels are reduced by taking the pixel in the middle of each cell: a class keeps its share of the pixels however thin it
is, where the most frequent class of each cell would lose what is thinner than half a cell, such as the outlines that
are ignored around objects. Where thumbnails are written is in `reporting`.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.report_form import Layer, Thumb, embedded, packed
from pipeline.report_sources import ReportItem, Sources
from storage.errors import ImageError, LabelError
from storage.image_reader import read_reduced, reduced_size
from storage.label_png import read_label_png

_LADDER = ((1.0, 80), (1.0, 60), (0.75, 60), (0.5, 50))
"""Share of the size that was asked for, and JPEG quality: what is tried until all thumbnails fit."""

_SAMPLE = 24
"""Items that tell how large thumbnails will be."""

_MARGIN = 1.03
"""Thumbnails are expected to take this much more than a sample of them did."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """An item's image and labels, made smaller to one size."""

    image: npt.NDArray[np.uint8] | None
    """(height, width, 3) uint8 RGB; None where it is not there, or cannot be read."""
    labels: dict[Layer, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """(height, width) uint8, class indices or ignore."""
    problems: tuple[str, ...] = ()


def make_pictures(sources: Sources, item: ReportItem, side: int) -> Pictures:
    """Read what there is of an item; what cannot be read, or does not fit the others, is a problem and left out.

    Args:
        sources: whose the item is.
        item: to be shown.
        side: pixels of the longer side.
    """
    image: npt.NDArray[np.uint8] | None = None
    problems: list[str] = []
    done = item.entry is not None and item.entry.status == "done"
    size = (item.entry.height, item.entry.width) if item.entry is not None and done else None
    if item.image is not None:
        try:
            image, whole = read_reduced(item.image, side)
            if size is not None and whole != size:
                problems.append(f"{item.image} is {whole[1]}x{whole[0]} by now, its label {size[1]}x{size[0]}")
                image = None
            size = size or whole
        except ImageError as error:
            if done:  # of a failed item that is known
                problems.append(str(error))
    labels: dict[Layer, npt.NDArray[np.uint8]] = {}
    for layer, file in item.labels.items() if size is not None else ():
        try:
            values = read_label_png(file.path, sources.schema, file.ids, size).values
            labels[layer] = _reduced(values, reduced_size(values.shape, side))
        except (LabelError, OSError) as error:
            problems.append(str(error))
    return Pictures(image, labels, tuple(problems))


def _reduced(values: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    rows, columns = ((2 * np.arange(to) + 1) * of // (2 * to) for of, to in zip(values.shape, size, strict=True))
    reduced: npt.NDArray[np.uint8] = values[np.ix_(rows, columns)]
    return reduced


@dataclass(frozen=True, slots=True)
class Thumbnailer:
    """Makes thumbnails of one form; threads may share it."""

    sources: Sources
    side: int
    """Pixels of the longer side."""
    quality: int
    """Of the JPEG."""

    def make(self, item: ReportItem) -> tuple[Thumb | None, tuple[str, ...]]:
        """Make an item's thumbnail; None where there is nothing to be shown. And what could not be read."""
        found = make_pictures(self.sources, item, self.side)
        shapes = [p.shape[:2] for p in (found.image, *found.labels.values()) if p is not None]
        if not shapes:
            return None, found.problems
        height, width = shapes[0]
        image = "" if found.image is None else embedded(_jpeg(found.image, self.quality))
        return Thumb(width, height, image, {k: packed(v) for k, v in found.labels.items()}), found.problems


def _jpeg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality, optimize=True)
    return content.getvalue()


@dataclass(frozen=True, slots=True)
class ThumbPlan:
    """How thumbnails are made, and of how many items."""

    maker: Thumbnailer
    asked: int
    """Pixels of the longer side that were asked for."""
    fitting: int
    """Items whose thumbnails will fit."""

    def notes(self, made: int, total: int, limit: str) -> list[str]:
        """What the page must say of it.

        Args:
            made: thumbnails.
            total: items that could have one.
            limit: bytes that thumbnails may take, for people.
        """
        notes = []
        if (self.maker.side, self.maker.quality) != (self.asked, _LADDER[0][1]):
            notes.append(
                f"Thumbnails are {self.maker.side} pixels long, of JPEG quality {self.maker.quality} instead of "
                f"{self.asked} and {_LADDER[0][1]}, so that they fit into {limit}; --thumb-bytes gives them more room."
            )
        if made < total:
            chosen = (
                "the worst" if self.fitting >= total else "half of them the worst, half drawn evenly from the others"
            )
            notes.append(
                f"{made} of {total} items have a thumbnail, {chosen}; more do not fit into {limit} (--thumb-bytes)."
            )
        return notes


def plan_thumbs(sources: Sources, asked: int, limit: int, pool: ThreadPoolExecutor) -> ThumbPlan:
    """Find the form in which the thumbnails of all items fit; or the smallest, and how many of these do.

    Args:
        sources: whose items are shown.
        asked: pixels of the longer side, at most.
        limit: bytes that all thumbnails may take together.
        pool: threads that make the sample.
    """
    visible = [item for item in sources.items if item.image is not None or item.labels]
    places = np.linspace(0, len(visible) - 1, min(_SAMPLE, len(visible))).round().astype(int).tolist()
    sample = [visible[place] for place in places]
    maker, fitting = Thumbnailer(sources, asked, _LADDER[0][1]), len(visible)
    for ratio, quality in _LADDER if sample else ():
        maker = Thumbnailer(sources, max(1, round(asked * ratio)), quality)
        sizes = [thumb.size for thumb, _ in pool.map(maker.make, sample) if thumb is not None]
        each = _MARGIN * max(1, sum(sizes)) / len(sample)
        fitting = min(len(visible), int(limit / each))
        if fitting == len(visible):
            break
    return ThumbPlan(maker, asked, fitting)


def choose_items(badness: Sequence[float | None], count: int) -> Iterator[int]:
    """Which items get a thumbnail, in the order in which they are made: the worst first, as the page shows them.

    Args:
        badness: of each item that could have one, by its place; None: not known, after all others.
        count: items to choose. Of less than all, half are the worst, and half evenly spread over the rest.

    Yields:
        Places in `badness`.
    """
    ranked = sorted(range(len(badness)), key=lambda place: (badness[place] is None, -(badness[place] or 0), place))
    if count >= len(ranked):
        yield from ranked
        return
    worst = ranked[: count - count // 2]
    rest = sorted(set(ranked) - set(worst))
    yield from worst
    yield from (rest[(2 * number + 1) * len(rest) // (2 * (count // 2))] for number in range(count // 2))
