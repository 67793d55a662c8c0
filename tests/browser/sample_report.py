"""A small report with everything that a page can show, and with names that would break out of a careless one."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.report_form import (
    THUMBS_PER_FILE,
    Bytes,
    ClassRow,
    Counts,
    Curve,
    CurvePoint,
    Failure,
    ItemColumns,
    Layer,
    ReliabilityBin,
    State,
    Summary,
    Thumb,
    embedded,
    packed,
)
from pipeline.report_rendering import ITEMS_PATH, items_script, page, thumbs_path, thumbs_script

HOSTILE_KEY = "b/<img src=x onerror=alert(1)>\u2028'\"&amp;</script><script>alert(2)</script>"
HOSTILE_CLASS = "</script><script>alert(3)</script>\u2029<b>\"pole'"
ITEMS = 130
FAILED = 7
"""The item that failed."""
WITHOUT_COARSE = 3
"""The item that no human labelled."""
SIZE = (48, 80)
"""Height and width of the thumbnails."""
CLASSES = (
    ClassRow("road", (128, 64, 128), 9_000_000, 4_000_000, 9_500_000, 0.99, 0.985, 0.995, 0.97, 0.5),
    ClassRow("sky", (70, 130, 180), 5_000_000, 2_100_000, 5_100_000, 0.98, 0.97, 0.99, 0.95, 0.6),
    ClassRow(HOSTILE_CLASS, (220, 20, 60), 80_000, 900, 81_000, 0.81, 0.7, 0.9, 0.41, 0.9),
    ClassRow("never seen", (0, 0, 230), 0, 0, 0),
)


@dataclass(frozen=True)
class Expected:
    """What a test may ask of the sample."""

    columns: ItemColumns

    def keys(self, *places: int) -> list[str]:
        """Keys of the items at these places."""
        return [self.columns.key[place] for place in places]


def label_maps(item: int) -> dict[Layer, npt.NDArray[np.uint8]]:
    """An item's label maps: sky over road, a pole in every third; the border between them differs by layer."""
    height = SIZE[0]
    maps: dict[Layer, npt.NDArray[np.uint8]] = {}
    layers: tuple[Layer, ...] = ("coarse", "auto", "merged", "truth")
    for shift, layer in enumerate(layers):
        labels = np.zeros(SIZE, np.uint8)
        labels[: height // 2 + shift] = 1
        if item % 3 == 0:
            labels[8:40, 30:34] = 2
        if layer != "truth":
            labels[:, : 4 + item % 10] = 255
        maps[layer] = labels
    if item == WITHOUT_COARSE:
        del maps["coarse"]
    return maps


def make_thumb(item: int) -> Thumb:
    """An item's thumbnail."""
    height, width = SIZE
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(40, 220, width, dtype=np.uint8)
    pixels[..., 1] = np.linspace(60, 200, height, dtype=np.uint8)[:, None]
    pixels[..., 2] = item
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    if item == FAILED:
        return Thumb(width, height, embedded(content.getvalue()))
    maps = {layer: packed(labels) for layer, labels in label_maps(item).items()}
    return Thumb(width, height, embedded(content.getvalue()), maps)


def make_columns() -> ItemColumns:
    """Items in two folders; their shares go up with their number."""
    numbers = range(ITEMS)
    done: tuple[State, ...] = tuple("failed" if n == FAILED else "done" for n in numbers)
    known = [state == "done" for state in done]
    return ItemColumns(
        key=tuple(HOSTILE_KEY if n == ITEMS - 1 else f"{'ab'[n % 2]}/image {n:03}" for n in numbers),
        folders=("a", "b <i>"),
        folder=tuple(n % 2 for n in numbers),
        width=(960,) * ITEMS,
        height=(576,) * ITEMS,
        state=done,
        reviewed=tuple(n in {10, 20} for n in numbers),
        ignore=tuple(n / 200 if known[n] else None for n in numbers),
        confidence=tuple(1 - n / 400 if known[n] else None for n in numbers),
        disagreement=tuple(n / 300 if known[n] and n != WITHOUT_COARSE else None for n in numbers),
        error=tuple(n / 500 if known[n] else None for n in numbers),
        classes=tuple(() if not known[n] else (0, 1, 2) if n % 3 == 0 else (0, 1) for n in numbers),
        thumb=tuple(ITEMS - 1 - n for n in numbers),
    )


def make_summary() -> Summary:
    """All figures that a page can show."""
    points = tuple(CurvePoint(t / 20, 0.8 + t / 100, 0.78 + t / 100, 0.81 + t / 100, 1 - t / 40) for t in range(20))
    return Summary(
        title="run <b>one</b>",
        made=(("teacher", HOSTILE_KEY), ("scales", "0.5, 1, 2"), ("threshold", "0.9")),
        classes=CLASSES,
        counts=Counts(done=ITEMS - 1, failed=1, reviewed=2),
        bytes=Bytes(labels=4_000_000, soft=9_000_000, total=13_500_000, budget=20_000_000, soft_fp32=9_000_000_000),
        layers=("coarse", "auto", "merged", "truth"),
        seconds=321.5,
        images_per_second=0.4,
        labelled=0.91,
        precision=0.97,
        precision_low=0.96,
        precision_high=0.98,
        coverage=0.93,
        precision_source="Measured on 101 held-out images.",
        failures=(Failure(f"b/image {FAILED:03}", "cannot decode <img src=x onerror=alert(4)>"),),
        curves=tuple(Curve(index, points) for index in range(3)),
        reliability=tuple(ReliabilityBin(0.05 + t / 10, (0.05 + t / 10) ** 1.2, 10**t) for t in range(10)),
        ece=0.034,
        confidence_histogram=tuple(float(2**t) for t in range(20)),
        coverage_map=tuple(tuple(0.5 + x / 80 if y else None for x in range(32)) for y in range(18)),
        notes=("Coarse labels cover <u>interiors</u>: agreement with them is an upper bound.",),
    )


def write_report(folder: Path) -> Expected:
    """Write the sample into a folder."""
    columns = make_columns()
    (folder / "data").mkdir(parents=True)
    (folder / "index.html").write_text(page(make_summary()), "utf-8")
    (folder / ITEMS_PATH).write_text(items_script(columns, len(CLASSES)), "utf-8")
    for first in range(0, ITEMS, THUMBS_PER_FILE):
        thumbs = [make_thumb(ITEMS - 1 - n) for n in range(first, min(ITEMS, first + THUMBS_PER_FILE))]
        (folder / thumbs_path(first // THUMBS_PER_FILE)).write_text(thumbs_script(first, thumbs), "utf-8")
    return Expected(columns)
