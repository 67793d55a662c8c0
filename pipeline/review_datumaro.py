"""Datumaro's own format: one JSON a subset, masks as COCO's run lengths, and the classes' colours.

Source: files that datumaro 1.13 writes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from pipeline.review_coco import CocoRle
from pipeline.review_json import JsonList, parse
from pipeline.review_regions import Annotated, Region, ReviewImage, class_masks, ignore_name, refused
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.polygon_fill import fill_polygon
from storage.schema import ClassSchema

ANNOTATIONS = "annotations/default.json"

_WITHOUT_PIXELS = ("label", "caption")
"""Of the image as a whole; they are left where they are."""


class DatumaroWriter:
    """Writes annotations/default.json.

    Args:
        root: the folder.
        schema: the classes.
        images: all that will come.
    """

    def __init__(self, root: Path, schema: ClassSchema, images: Sequence[ReviewImage]) -> None:  # noqa: ARG002 - as all writers
        names = (*schema.names, ignore_name(schema))
        colours = [*(c.color for c in schema.classes), (0, 0, 0)]
        head = {
            "dm_format_version": "1.0",
            "media_type": 2,
            "infos": {},
            "categories": {
                "label": {
                    "labels": [{"name": name, "parent": "", "attributes": []} for name in names],
                    "label_groups": [],
                    "attributes": [],
                },
                "mask": {
                    "colormap": [
                        {"label_id": number, "r": red, "g": green, "b": blue}
                        for number, (red, green, blue) in enumerate(colours)
                    ]
                },
            },
        }
        self._list = JsonList(root / ANNOTATIONS, head, "items")

    def add(self, image: ReviewImage, label: LabelMap) -> None:
        """Write an image's label."""
        masks = [
            {
                "id": number,
                "type": "mask",
                "attributes": {},
                "group": 0,
                "label_id": index,
                "rle": CocoRle.text_of(mask),
                "z_order": 0,
            }
            for number, (index, mask) in enumerate(class_masks(label))
        ]
        media = {"path": image.file, "size": [image.height, image.width]}
        self._list.add({"id": image.key, "annotations": masks, "image": media})

    def close(self) -> None:
        """End the file."""
        self._list.close()


class _Label(BaseModel):
    name: str


class _Labels(BaseModel):
    labels: list[_Label]


class _Categories(BaseModel):
    label: _Labels


class _Annotation(BaseModel):
    type: str
    label_id: int | None = None
    rle: CocoRle | None = None
    points: list[float] | None = None
    z_order: int = 0


class _Media(BaseModel):
    size: tuple[int, int] | None = None


class _Item(BaseModel):
    id: str
    annotations: list[_Annotation] = []
    image: _Media | None = None


class _File(BaseModel):
    categories: _Categories
    items: list[_Item]


_FORM = TypeAdapter(_File)


def read_datumaro(content: bytes, where: str) -> Iterator[Annotated]:
    """What a file of datumaro's own format says of its images; it is not to be trusted.

    Args:
        content: of annotations/SUBSET.json.
        where: the file's name, for messages.

    Raises:
        LabelError: it is no such file.
    """
    file = parse(content, _FORM, where, "file of datumaro's own format")
    names = [label.name for label in file.categories.label.labels]
    for item in file.items:
        regions = tuple(_region(one, names, where) for one in item.annotations if one.type not in _WITHOUT_PIXELS)
        yield Annotated(item.id, item.image.size if item.image else None, regions)


def _region(one: _Annotation, names: Sequence[str], where: str) -> Region:
    if one.label_id is None or not 0 <= one.label_id < len(names):
        raise LabelError(f"{where}: an annotation is of label {one.label_id}, and there are {len(names)} labels")
    name = names[one.label_id]
    if one.type == "mask" and one.rle is not None:
        return Region(name, one.rle.decode, one.z_order)
    if one.type == "polygon" and (corners := one.points) is not None:
        return Region(name, lambda size: fill_polygon(corners, size), one.z_order)
    return refused(name, f"a {one.type} says of no pixel what it is; draw a mask or a polygon instead")
