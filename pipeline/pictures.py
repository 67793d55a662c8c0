"""Pictures for people: labels in their classes' colours, and sheets that show images and labels side by side.

It composes and returns; where a picture is saved is the caller's business.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from storage.errors import SettingsError, ShapeError
from storage.schema import IGNORE, ClassSchema

PAPER, INK, FAINT = (255, 255, 255), (32, 34, 38), (206, 208, 212)
IGNORED, HATCH = (46, 48, 54), (62, 65, 72)
"""Ignore is dark with a faint hatch, so that it is not taken for a class."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

HATCH_STEP = 8
"""Columns from one line of the hatch to the next, pixels."""


def paint_label(label: npt.NDArray[np.uint8], schema: ClassSchema) -> npt.NDArray[np.uint8]:
    """Paint a label map in its classes' colours, ignore as a dark hatch.

    Args:
        label: class indices or ignore, (height, width) uint8.
        schema: the classes.

    Returns:
        Picture (height, width, 3) uint8.
    """
    picture: npt.NDArray[np.uint8] = schema.palette[label]
    height, width = label.shape
    hatched = (np.arange(height)[:, None] + np.arange(width)) % HATCH_STEP < 2
    ignored = label == IGNORE
    picture[ignored] = IGNORED
    picture[ignored & hatched] = HATCH
    return picture


def contact_sheet(
    rows: Sequence[Sequence[npt.NDArray[np.uint8]]],
    titles: Sequence[str],
    schema: ClassSchema,
    zoom: int = 1,
) -> Image.Image:
    """Compose rows of images and labels under column titles, with a legend of the classes below.

    Args:
        rows: of cells, each an image (height, width, 3) uint8 RGB or a label map (height, width) uint8; all of one
            height and width.
        titles: one a column.
        schema: the classes of the labels.
        zoom: pixels of the sheet a pixel of a cell.

    Returns:
        The sheet; `.save("sheet.png")` writes it.

    Raises:
        ShapeError: there is no row, a row has another number of cells than titles, or cells differ in size.
        SettingsError: zoom is less than 1.
    """
    if zoom < 1:
        raise SettingsError(f"contact sheet: got zoom {zoom}, expected 1 or more")
    height, width = _cell_size(rows, titles)
    height, width = height * zoom, width * zoom
    gap, margin = max(4, width // 40), max(10, width // 16)
    text = max(11, width // 17)
    font = ImageFont.load_default(size=text)
    head = round(text * 1.8)
    sheet_width = 2 * margin + len(titles) * width + (len(titles) - 1) * gap
    legend = _legend(schema, font, text, sheet_width - 2 * margin)
    body = len(rows) * (height + gap) - gap
    sheet = Image.new("RGB", (sheet_width, margin // 2 + head + body + margin + legend.height + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = margin + column * (width + gap)
        draw.text((left + width / 2, margin // 2 + head / 2), title, INK, font, anchor="mm")
        for row, cells in enumerate(rows):
            top = margin // 2 + head + row * (height + gap)
            sheet.paste(_enlarged(cells[column], schema, zoom), (left, top))
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FAINT)
    sheet.paste(legend, (margin, margin // 2 + head + body + margin))
    return sheet


def _cell_size(rows: Sequence[Sequence[npt.NDArray[np.uint8]]], titles: Sequence[str]) -> tuple[int, int]:
    counts = {len(cells) for cells in rows}
    if counts != {len(titles)} or not titles:
        raise ShapeError(
            f"contact sheet: got {len(titles)} titles and rows of {sorted(counts)} cells, expected at least one row "
            f"and as many cells in each as titles"
        )
    sizes = {cell.shape[:2] for cells in rows for cell in cells}
    if len(sizes) > 1:
        raise ShapeError(
            f"contact sheet: got cells of {sorted(sizes)} (height, width), expected one size; crop or resize them first"
        )
    height, width = sizes.pop()
    return height, width


def _enlarged(cell: npt.NDArray[np.uint8], schema: ClassSchema, zoom: int) -> Image.Image:
    if cell.ndim == 2:
        # Enlarged before it is painted: class borders stay sharp and the hatch keeps its width.
        return Image.fromarray(paint_label(cell.repeat(zoom, 0).repeat(zoom, 1), schema))
    picture = Image.fromarray(cell)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.LANCZOS)


def _legend(schema: ClassSchema, font: Font, text: int, width: int) -> Image.Image:
    """A swatch and a name for every class and for ignore, broken into centred lines of at most this width."""
    swatch, line = round(text * 0.95), round(text * 1.7)
    lines: list[list[tuple[int, str, int]]] = [[]]
    used = 0
    for value, name in [*enumerate(schema.names), (IGNORE, "ignore")]:
        entry = round(swatch * 1.5 + font.getlength(name) + swatch)
        if used + entry > width and lines[-1]:
            lines.append([])
            used = 0
        lines[-1].append((value, name, entry))
        used += entry
    picture = Image.new("RGB", (width, line * len(lines)), PAPER)
    draw = ImageDraw.Draw(picture)
    for row, entries in enumerate(lines):
        left = (width - sum(entry for *_, entry in entries) + swatch) // 2
        middle = row * line + line // 2
        for value, name, entry in entries:
            patch = paint_label(np.full((swatch, swatch), value, np.uint8), schema)
            picture.paste(Image.fromarray(patch), (left, middle - swatch // 2))
            box = (left, middle - swatch // 2, left + swatch - 1, middle - swatch // 2 + swatch - 1)
            draw.rectangle(box, outline=FAINT)
            draw.text((left + swatch * 1.45, middle), name, INK, font, anchor="lm")
            left += entry
    return picture
