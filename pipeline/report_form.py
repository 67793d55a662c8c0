"""What a report's page is given: the summary, the table of all items, and the thumbnails.

Only the form; collected by the `report_*` modules, turned into files by `report_rendering`. No input or output here.
"""

import base64
from dataclasses import dataclass, field
from typing import Literal

import deflate
import numpy as np
import numpy.typing as npt

Layer = Literal["coarse", "auto", "merged", "truth"]
"""A kind of label map that can lie over an image."""

LAYERS: tuple[Layer, ...] = ("coarse", "auto", "merged", "truth")
"""In the order in which the page offers them."""

THUMBS_PER_FILE = 50
"""Thumbnails in one file: so many are loaded at once, by the first of them that is seen."""

CONFIDENCE_BINS = 20
"""Of the histogram of confidence, equally wide, from 0 to 1."""

State = Literal["done", "failed", "left"]
"""Of an item: labelled; failed at; not come to yet."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: its pixels before and after, and what is known of its labels' quality."""

    name: str
    color: tuple[int, int, int]
    """RGB, 0..255, the schema's."""
    pixels_auto: int | None
    """None: of a merged run whose automatic labels are not there any more."""
    pixels_coarse: int | None = None
    """None: the report was made without coarse labels."""
    pixels_merged: int | None = None
    """None: the report was made without a merged run."""
    precision: float | None = None
    """Of 0..1, as `precision_source` measured it; None: nothing to judge it by."""
    precision_low: float | None = None
    precision_high: float | None = None
    coverage: float | None = None
    threshold: float | None = None
    """The class is kept where the confidence is above it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Items by state; their sum is the number of items."""

    done: int
    failed: int = 0
    left: int = 0
    reviewed: int = 0
    """Of those that are done: corrected by a person."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """What the run takes on disk, against what it was allowed."""

    labels: int
    soft: int
    total: int
    """Labels, soft store, ledger and all else of the run."""
    budget: int | None = None
    soft_fp32: int | None = None
    """What every class's probability as 32-bit floats would take for these images."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A class's labels, were they kept above this threshold."""

    threshold: float
    precision: float | None
    """None: nothing would be kept, or judged."""
    low: float | None
    """Lower end of the precision's interval."""
    high: float | None
    coverage: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision against coverage of one class, over the thresholds, ascending."""

    class_index: int
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Pixels of about the same confidence, and the share of them that is right."""

    confidence: float
    """Their mean."""
    right: float
    pixels: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be labelled, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture that lies beside the page."""

    path: str
    """Relative to the page, posix."""
    label: str


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the page says of the run as a whole."""

    title: str
    made: tuple[tuple[str, str], ...]
    """What was made with what: (label, value) rows, teacher, digests, scales, thresholds, version, dates."""
    classes: tuple[ClassRow, ...]
    """In the order of the class indices."""
    counts: Counts
    bytes: Bytes
    layers: tuple[Layer, ...]
    """Those that at least one thumbnail has."""
    seconds: float | None = None
    """That labelling took."""
    images_per_second: float | None = None
    labelled: float | None = None
    """Share of all pixels that were given a class."""
    precision: float | None = None
    """Of all classes together, with `coverage`, as `precision_source` measured them."""
    precision_low: float | None = None
    precision_high: float | None = None
    coverage: float | None = None
    precision_source: str = ""
    """A sentence on what precision and coverage were measured against; "" where they are not known."""
    failures: tuple[Failure, ...] = ()
    """The first of them; `counts.failed` says how many there are."""
    curves: tuple[Curve, ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    """Ascending confidence; empty where nothing is known."""
    ece: float | None = None
    """Expected calibration error, 0..1."""
    confidence_histogram: tuple[float, ...] = ()
    """Pixels, or their share, in each of `CONFIDENCE_BINS` bins; empty where no confidence was kept."""
    coverage_map: tuple[tuple[float | None, ...], ...] = ()
    """Rows of the share of images that have a class at that place, at most 45 by 80; None: no image there."""
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader must know to judge the figures: bias of coarse labels, thumbnails left out."""


@dataclass(frozen=True, slots=True)
class ItemColumns:
    """The table of all items, a column a field, all of the same length except `folders`. Shares are of 0..1.

    None in a column: not known of that item (no label, no confidence kept, no coarse label, no truth).
    """

    key: tuple[str, ...]
    folders: tuple[str, ...]
    """Names of the folders that items are in."""
    folder: tuple[int, ...]
    """Index into `folders`."""
    width: tuple[int, ...]
    """Of the full image; 0: not known."""
    height: tuple[int, ...]
    state: tuple[State, ...]
    reviewed: tuple[bool, ...]
    ignore: tuple[float | None, ...]
    """Share of pixels without a class."""
    confidence: tuple[float | None, ...]
    """Mean over the pixels."""
    disagreement: tuple[float | None, ...]
    """Share of the pixels that both the coarse and the auto label judge, on which they differ."""
    error: tuple[float | None, ...]
    """Share of the pixels with a class and a known truth whose class is wrong."""
    classes: tuple[tuple[int, ...], ...]
    """Class indices present in the item's label."""
    thumb: tuple[int | None, ...]
    """Which thumbnail is the item's, counted over all files; None: it has none."""


@dataclass(frozen=True, slots=True)
class Thumb:
    """One item's pictures, all of the same (height, width), ready for a script file."""

    width: int
    height: int
    image: str
    """JPEG, `embedded`; "": none."""
    labels: dict[Layer, str] = field(default_factory=dict)
    """`packed` label maps; a layer that the item lacks is left out."""

    @property
    def size(self) -> int:
        """About how many bytes it takes in its file."""
        return len(self.image) + sum(len(packed) for packed in self.labels.values()) + 64


def embedded(picture: bytes) -> str:
    """A picture file's bytes in base64."""
    return base64.b64encode(picture).decode("ascii")


def packed(labels: npt.NDArray[np.uint8]) -> str:
    """A label map for the page, which colours it itself: zlib, then base64, of its rows.

    No PNG: the page would have to read its values back from a canvas, which browsers that resist fingerprinting
    answer with noise.

    Args:
        labels: (height, width), class indices and 255 for ignore.
    """
    # a quarter of zlib's time at its level 9, for the same bytes
    return embedded(bytes(deflate.zlib_compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 9)))
