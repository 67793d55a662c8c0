"""A report's pictures for use elsewhere, such as in a README: the long tail, precision against coverage, a few images.

It draws and returns PNGs; where they are saved is the caller's business.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.pictures import contact_sheet
from pipeline.report_form import ClassRow, Curve, Layer
from pipeline.report_sources import ReportItem, Sources
from pipeline.report_thumbs import Pictures, make_pictures
from storage.schema import IGNORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT = "#303236", "#ced0d4"
_BARS = {"coarse": "#b8bcc4", "auto": "#2f6db5", "merged": "#e08a1e"}
"""Told apart also without colour: by their lightness."""

_DPI = 130
_LONGEST_NAME = 28
_LEAST_COVERAGE = 0.005
_SHEET_ROWS, _SHEET_SIDE = 3, 480


def long_tail(rows: Sequence[ClassRow]) -> bytes | None:
    """Draw the pixels of each class before (coarse) and after (auto, merged), the most frequent class first.

    Returns:
        A PNG; None where no class has a pixel.
    """
    pixels = {
        "coarse": [row.pixels_coarse for row in rows],
        "auto": [row.pixels_auto for row in rows],
        "merged": [row.pixels_merged for row in rows],
    }
    sets = {name: [count or 0 for count in counts] for name, counts in pixels.items() if any(counts)}
    if not sets:
        return None
    first = sets.get("auto") or next(iter(sets.values()))
    order = sorted(range(len(rows)), key=lambda index: -first[index])
    from matplotlib.figure import Figure  # heavy, and needed here alone

    figure = Figure(figsize=(max(6.0, 1.6 + 0.5 * len(rows)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    thick = 0.84 / len(sets)
    for number, (name, counts) in enumerate(sets.items()):
        places = np.arange(len(rows)) - 0.42 + (number + 0.5) * thick
        axes.bar(places, [counts[index] for index in order], thick * 0.94, color=_BARS[name], label=name)
    axes.set_yscale("log")
    axes.set_ylabel("labelled pixels")
    axes.set_xticks(range(len(rows)), [_name(rows[index]) for index in order], rotation=40, ha="right")
    axes.grid(axis="y", color=_FAINT, linewidth=0.5)
    figure.legend(loc="outside upper center", ncols=len(sets), frameon=False)
    return _png(figure, axes)


def precision_coverage(rows: Sequence[ClassRow], curves: Sequence[Curve]) -> bytes | None:
    """Draw precision against coverage of each class, over the thresholds; a dot where its labels are kept now.

    Returns:
        A PNG; None where nothing is known of any class.
    """
    dots = [(i, r.coverage, r.precision) for i, r in enumerate(rows) if r.coverage is not None and r.precision]
    if not curves and not dots:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    styles = ("-", "--", ":", "-.")
    shown = sorted({curve.class_index for curve in curves} | {index for index, *_ in dots})
    looks = {index: (f"C{place % 10}", styles[place // 10 % len(styles)]) for place, index in enumerate(shown)}
    for curve in curves:
        # where next to nothing is kept, a few pixels decide
        kept = [p for p in curve.points if p.precision is not None and p.coverage >= _LEAST_COVERAGE]
        points = [(100 * p.coverage, 100 * (p.precision or 0)) for p in kept]
        if points:
            color, style = looks[curve.class_index]
            axes.plot(*zip(*points, strict=True), color=color, linestyle=style, linewidth=1.4)
    for index, coverage, precision in dots:
        axes.plot(100 * coverage, 100 * precision, "o", color=looks[index][0], markersize=5)
    for index in shown:
        axes.plot([], [], color=looks[index][0], linestyle=looks[index][1], label=_name(rows[index]))
    axes.set_xlabel("coverage: rightly labelled pixels of those of the class, %")
    axes.set_ylabel("precision: right pixels of those labelled so, %")
    axes.grid(color=_FAINT, linewidth=0.5)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    return _png(figure, axes)


def _name(row: ClassRow) -> str:
    """A class's name as matplotlib shows it: no formula, and no underscore in front, which hides it from a legend."""
    name = " ".join(row.name.split()).replace("$", r"\$")
    return f" {name}" if len(name) <= _LONGEST_NAME else f" {name[: _LONGEST_NAME - 1]}…"


def _png(figure: "Figure", axes: "Axes") -> bytes:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def triptych(sources: Sources) -> bytes | None:
    """Put image and labels of a few items side by side, under their names, with a legend.

    Returns:
        A PNG; None where no item has an image and a label.
    """
    shown = sources.layers
    rows: list[list[npt.NDArray[np.uint8]]] = []
    for item in _spread(sources, shown):
        pictures = make_pictures(sources, item, _SHEET_SIDE)
        cells = _cells(pictures, shown)
        if cells and (not rows or rows[0][0].shape == cells[0].shape):
            rows.append(cells)
        if len(rows) == _SHEET_ROWS:
            break
    if not rows:
        return None
    content = io.BytesIO()
    contact_sheet(rows, ["image", *shown], sources.schema).save(content, "PNG")
    return content.getvalue()


def _spread(sources: Sources, shown: Sequence[Layer]) -> Iterator[ReportItem]:
    """Items that have an image and all labels before those that lack one, evenly spread; a few more than are needed."""
    items = [item for item in sources.items if item.image is not None and item.labels]
    full = [item for item in items if set(shown) <= item.labels.keys()] or items
    places = np.linspace(0, len(full) - 1, min(len(full), 2 * _SHEET_ROWS + 1)).round().astype(int)
    yield from (full[place] for place in places[1::2].tolist() or places.tolist())


def _cells(pictures: Pictures, shown: Sequence[Layer]) -> list[npt.NDArray[np.uint8]]:
    """The cells of a row; nothing without an image. A label that is missing is all ignore."""
    if pictures.image is None:
        return []
    blank = np.full(pictures.image.shape[:2], IGNORE, np.uint8)
    return [pictures.image, *(pictures.labels.get(layer, blank) for layer in shown)]
