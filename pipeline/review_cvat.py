"""CVAT's "CVAT for images 1.1": masks as run lengths in XML, exact, with the classes' names and colours.

The other of CVAT's formats for masks, "Segmentation mask 1.1", knows classes by their colours only.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from pipeline.review_regions import Annotated, Region, ReviewImage, Size, bounds, class_masks, ignore_name, refused
from storage.errors import LabelError, SettingsError
from storage.label_map import LabelMap
from storage.polygon_fill import fill_polygon
from storage.run_lengths import Mask, count_runs, expand_runs
from storage.schema import ClassSchema

ANNOTATIONS = "annotations.xml"
LABELS = "labels.json"
"""The labels in the form that CVAT's "Raw" label editor takes."""

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CHUNK = 1 << 20
_WITHOUT_PIXELS = ("box", "polyline", "points", "cuboid", "ellipse", "skeleton")


class CvatWriter:
    """Writes annotations.xml and labels.json.

    Args:
        root: the folder.
        schema: the classes.
        images: all that will come, in this order, which becomes that of CVAT's frames.

    Raises:
        SettingsError: a name cannot stand in XML.
    """

    def __init__(self, root: Path, schema: ClassSchema, images: Sequence[ReviewImage]) -> None:
        if bad := [n for n in (*schema.names, *(image.file for image in images)) if _NOT_IN_XML.search(n)]:
            raise SettingsError(f"{bad[0]!r} has a character that XML cannot hold; rename it, or choose another format")
        self._names = schema.names
        self._frames = {image.key: number for number, image in enumerate(images)}
        labels = [(c.name, c.color) for c in schema.classes] + [(ignore_name(schema), (0, 0, 0))]
        colours = [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in labels]
        raw = [{"name": name, "color": color, "type": "any", "attributes": []} for name, color in colours]
        (root / LABELS).write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
        self._file = (root / ANNOTATIONS).open("w", encoding="utf-8", newline="\n")
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>')
        self._file.write(f"<size>{len(images)}</size><mode>annotation</mode><overlap>0</overlap><labels>\n")
        for name, color in colours:
            self._file.write(
                f"<label><name>{escape(name)}</name><color>{color}</color><type>any</type><attributes></attributes></label>\n"
            )
        self._file.write("</labels></task></meta>\n")

    def add(self, image: ReviewImage, label: LabelMap) -> None:
        """Write an image's label."""
        self._file.write(
            f'<image id="{self._frames[image.key]}" name={quoteattr(image.file)} width="{image.width}" '
            f'height="{image.height}">\n'
        )
        for index, mask in class_masks(label):
            top, left, height, width = bounds(mask)
            runs = count_runs(mask[top : top + height, left : left + width].ravel())
            self._file.write(
                f'<mask label={quoteattr(self._names[index])} source="auto" occluded="0" '
                f'rle="{", ".join(map(str, runs.tolist()))}" left="{left}" top="{top}" width="{width}" '
                f'height="{height}" z_order="0"></mask>\n'
            )
        self._file.write("</image>\n")

    def close(self) -> None:
        """End the file."""
        self._file.write("</annotations>\n")
        self._file.close()


@dataclass
class _Parser:
    """What is found while the XML is parsed."""

    where: str
    done: list[Annotated] = field(default_factory=list)
    image: tuple[str, Size] | None = None
    regions: list[Region] = field(default_factory=list)

    def refuse_doctype(self, *_: object) -> None:
        """Never expand entities, nor fetch what a document type names."""
        raise LabelError(f"{self.where} has a document type, which CVAT never writes; it is not read")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        if tag == "track":
            raise LabelError(f"{self.where} has tracks of a video; export it from CVAT as 'CVAT for images 1.1'")
        if tag == "image":
            size = _integers(attributes, "height", "width", what=f"{self.where}: an image")
            self.image, self.regions = (attributes.get("name", ""), (size[0], size[1])), []
        elif self.image is not None and (tag in ("mask", "polygon") or tag in _WITHOUT_PIXELS):
            self.regions.append(self._region(tag, attributes))

    def end(self, tag: str) -> None:
        """An element ends."""
        if tag == "image" and self.image is not None:
            self.done.append(Annotated(*self.image, tuple(self.regions)))
            self.image = None

    def _region(self, tag: str, attributes: dict[str, str]) -> Region:
        label = attributes.get("label", "")
        if tag in _WITHOUT_PIXELS:
            return refused(label, f"a {tag} says of no pixel what it is; draw a mask or a polygon instead")
        (order,) = _integers({"z_order": "0", **attributes}, "z_order", what=f"{self.where}: a {tag}")
        return Region(label, lambda size: (_mask if tag == "mask" else _polygon)(attributes, size), order)


def _integers(attributes: dict[str, str], *names: str, what: str) -> list[int]:
    try:
        return [int(attributes[name]) for name in names]
    except (KeyError, ValueError) as error:
        raise LabelError(f"{what} has no whole numbers for {', '.join(names)}") from error


def _mask(attributes: dict[str, str], size: Size) -> Mask:
    left, top, width, height = _integers(attributes, "left", "top", "width", "height", what="a mask")
    if left < 0 or top < 0 or width < 1 or height < 1 or top + height > size[0] or left + width > size[1]:
        raise LabelError(
            f"a mask of {width}x{height} pixels at {left},{top} lies outside of the image of {size[1]}x{size[0]}"
        )
    text = attributes.get("rle", "")
    if text.count(",") > width * height:
        raise LabelError(f"a mask of {width}x{height} pixels has {text.count(',') + 1} run lengths, more than pixels")
    try:
        runs = [int(run) for run in text.split(",")]
    except ValueError as error:
        raise LabelError("a mask's run lengths are no whole numbers") from error
    mask = np.zeros(size, np.bool_)
    mask[top : top + height, left : left + width] = expand_runs(runs, width * height).reshape(height, width)
    return mask


def _polygon(attributes: dict[str, str], size: Size) -> Mask:
    try:
        corners = [float(v) for pair in attributes.get("points", "").split(";") for v in pair.split(",")]
    except ValueError as error:
        raise LabelError("a polygon's points are no numbers") from error
    return fill_polygon(corners, size)


def read_cvat(content: bytes, where: str) -> Iterator[Annotated]:
    """What a file of CVAT says of its images, one after the other; it is not to be trusted.

    Args:
        content: of an annotations.xml.
        where: the file's name, for messages.

    Raises:
        LabelError: it is no such file, or is damaged, or has a document type.
    """
    found = _Parser(where)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = found.refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
    try:
        for at in range(0, len(content), _CHUNK):
            parser.Parse(content[at : at + _CHUNK], False)
            yield from found.done
            found.done.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise LabelError(f"{where} is no XML, or was cut off: {error}; export 'CVAT for images 1.1' again") from error
    yield from found.done
