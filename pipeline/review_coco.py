"""COCO's annotations: one mask a class and image, as run lengths, as COCO-Stuff has them.

Source: cocodataset.org, "Data format"; masks as in the COCO API's maskApi.c, by columns.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, TypeAdapter

from pipeline.review_json import JsonList, parse
from pipeline.review_regions import Annotated, Region, ReviewImage, Size, bounds, class_masks, ignore_name, refused
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.polygon_fill import fill_polygon
from storage.run_lengths import Mask, coco_text, count_runs, expand_runs, parse_coco_text
from storage.schema import ClassSchema

ANNOTATIONS = "annotations/instances_default.json"


class CocoRle(BaseModel):
    """A mask as COCO holds it, not to be trusted."""

    counts: str | list[int]
    size: tuple[int, int]
    """(height, width)."""

    def decode(self, size: Size) -> Mask:
        """The mask: (height, width) bool.

        Raises:
            LabelError: it is none of this size.
        """
        if self.size != size:
            raise LabelError(
                f"a mask of {self.size[1]}x{self.size[0]} pixels, but its image has {size[1]}x{size[0]}; masks must "
                f"have their image's size"
            )
        pixels = size[0] * size[1]
        runs = parse_coco_text(self.counts, pixels) if isinstance(self.counts, str) else self.counts
        return expand_runs(runs, pixels).reshape(size[1], size[0]).T

    @classmethod
    def text_of(cls, mask: Mask) -> dict[str, object]:
        """A mask, (height, width) bool, as plain values; its run lengths as text."""
        return {"size": list(mask.shape), "counts": coco_text(count_runs(mask.ravel(order="F")))}


class CocoWriter:
    """Writes annotations/instances_default.json.

    Args:
        root: the folder.
        schema: the classes.
        images: all that will come.
    """

    def __init__(self, root: Path, schema: ClassSchema, images: Sequence[ReviewImage]) -> None:
        self._image_ids = {image.key: number for number, image in enumerate(images, 1)}
        self._next = 1
        head = {
            "info": {"description": "labels for review", "version": "1.0"},
            "licenses": [],
            "images": [
                {"id": self._image_ids[i.key], "file_name": i.file, "height": i.height, "width": i.width}
                for i in images
            ],
            "categories": [
                {"id": number, "name": name, "supercategory": ""}
                for number, name in enumerate((*schema.names, ignore_name(schema)), 1)
            ],
        }
        self._list = JsonList(root / ANNOTATIONS, head, "annotations")

    def add(self, image: ReviewImage, label: LabelMap) -> None:
        """Write an image's label."""
        for index, mask in class_masks(label):
            top, left, height, width = bounds(mask)
            self._list.add(
                {
                    "id": self._next,
                    "image_id": self._image_ids[image.key],
                    "category_id": index + 1,
                    "segmentation": CocoRle.text_of(mask),
                    "area": int(label.counts[index]),
                    "bbox": [left, top, width, height],
                    "iscrowd": 0,
                }
            )
            self._next += 1

    def close(self) -> None:
        """End the file."""
        self._list.close()


class _Image(BaseModel):
    id: int | str
    file_name: str
    height: int
    width: int


class _Category(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int
    segmentation: CocoRle | list[list[float]] | None = None


class _File(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


_FORM = TypeAdapter(_File)


def read_coco(content: bytes, where: str) -> Iterator[Annotated]:
    """What a COCO file says of its images; it is not to be trusted.

    Args:
        content: of an instances_*.json.
        where: the file's name, for messages.

    Raises:
        LabelError: it is no such file.
    """
    file = parse(content, _FORM, where, "COCO file of instances")
    names = {category.id: category.name for category in file.categories}
    regions: dict[int | str, list[Region]] = defaultdict(list)
    for one in file.annotations:
        if one.category_id not in names:
            raise LabelError(f"{where}: an annotation is of category {one.category_id}, which the file does not name")
        regions[one.image_id].append(_region(names[one.category_id], one.segmentation))
    for image in file.images:
        yield Annotated(image.file_name, (image.height, image.width), tuple(regions.pop(image.id, ())))
    if regions:
        raise LabelError(f"{where}: an annotation is of image {next(iter(regions))!r}, which the file does not list")


def _region(name: str, segmentation: CocoRle | list[list[float]] | None) -> Region:
    if not segmentation:
        return refused(name, "an annotation has no segmentation, so that no pixel is known; draw a mask instead")
    if isinstance(segmentation, CocoRle):
        return Region(name, segmentation.decode)
    return Region(name, lambda size: np.logical_or.reduce([fill_polygon(one, size) for one in segmentation]))
