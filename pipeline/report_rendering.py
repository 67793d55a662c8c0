"""Turn what a report holds into the text of its files: one page, and scripts of data that it loads when asked to.

Scripts, because a page opened from a folder may load a script beside it, and nothing else. Collects and writes nothing.
"""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from pipeline.report_form import THUMBS_PER_FILE, ItemColumns, Summary, Thumb

STYLES = ("page.css", "charts.css", "gallery.css", "viewer.css")
"""Files of `report_page`, in the order in which they are put into the page."""

SCRIPTS = (
    "base.js",
    "colors.js",
    "charts.js",
    "overview.js",
    "store.js",
    "paint.js",
    "filters.js",
    "ranges.js",
    "sidebar.js",
    "results.js",
    "grid.js",
    "worst.js",
    "viewer.js",
    "main.js",
)

ITEMS_PATH = "data/items.js"
"""Where the page looks for `items_script`, relative to itself."""


def thumbs_path(file: int) -> str:
    """Where the page looks for the thumbnails from number `file * THUMBS_PER_FILE` on, relative to itself."""
    return f"data/thumbs-{file:05d}.js"


def items_script(columns: ItemColumns, class_count: int) -> str:
    """The script that hands the table of all items to the page.

    Args:
        columns: of equal length, the shares of 0..1.
        class_count: of the schema; every class index is below it.
    """
    table: dict[str, Any] = {
        "key": columns.key,
        "folders": columns.folders,
        "folder": columns.folder,
        "width": columns.width,
        "height": columns.height,
        "state": [state[0] for state in columns.state],
        "reviewed": [int(reviewed) for reviewed in columns.reviewed],
        "thumb": columns.thumb,
        "classes": _bits(columns.classes, class_count),
    }
    for name in ("ignore", "confidence", "disagreement", "error"):
        table[name] = [None if share is None else round(share, 4) for share in getattr(columns, name)]
    return f"window.autocoarse.addItems({_script_json(table)});\n"


def thumbs_script(first: int, thumbs: Sequence[Thumb]) -> str:
    """The script that hands thumbnails to the page.

    Args:
        first: number of the first of them, a multiple of `THUMBS_PER_FILE`.
        thumbs: at most `THUMBS_PER_FILE`, in order.
    """
    entries = [{"w": thumb.width, "h": thumb.height, "image": thumb.image, **thumb.labels} for thumb in thumbs]
    return f"window.autocoarse.addThumbs({first}, {_script_json(entries)});\n"


def page(summary: Summary) -> str:
    """The page, with its style, its scripts and the summary in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "report_page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(_part(name) for name in STYLES)
    script = "".join(_part(name) for name in SCRIPTS)
    data = {**dataclasses.asdict(summary), "thumbs_per_file": THUMBS_PER_FILE}
    return environment.get_template("index.html.j2").render(
        summary=summary,
        style=Markup(style),  # noqa: S704 - the project's own files, which hold no "</style>" or "</script>"
        script=Markup(script),  # noqa: S704 - the same
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(_script_json(data)),  # noqa: S704 - escaped for a script by that function
    )


def _part(name: str) -> str:
    return (resources.files("pipeline") / "report_page" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """What the page's content security policy knows an inlined part by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _bits(classes: Sequence[Sequence[int]], class_count: int) -> str:
    """Which classes each item has: a row of whole bytes an item, class 0 the lowest bit of the first; base64."""
    present = np.zeros((len(classes), class_count), bool)
    for row, indices in enumerate(classes):
        present[row, list(indices)] = True
    return base64.b64encode(np.packbits(present, axis=1, bitorder="little").tobytes()).decode("ascii")


def _script_json(value: object) -> str:
    """JSON that is safe within a script element and as a script: no markup, and no line ends that only JSON allows.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
