"""Label Studio's tasks: labels as brushes in predictions, which people turn into annotations.

Source: labelstud.io, "Label Studio JSON format"; brushes as label-studio-converter reads them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated as Restricted
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipeline.review_json import JsonList, parse
from pipeline.review_regions import Annotated, Region, ReviewImage, Size, class_masks, ignore_name, refused
from storage.brush_rle import decode_brush, encode_brush
from storage.label_map import LabelMap
from storage.polygon_fill import fill_polygon
from storage.run_lengths import Mask
from storage.schema import ClassSchema

ANNOTATIONS = "tasks.json"
CONFIG = "label-config.xml"
"""The labelling interface, to be pasted into the project's settings."""

_FROM, _TO = "label", "image"
_WITHOUT_PIXELS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime")


class LabelStudioWriter:
    """Writes tasks.json and label-config.xml.

    Args:
        root: the folder.
        schema: the classes.
        images: all that will come.
        prefix: of the images' URLs; what Label Studio calls local files of the export's folder by default.
    """

    def __init__(self, root: Path, schema: ClassSchema, images: Sequence[ReviewImage], prefix: str) -> None:  # noqa: ARG002 - as all writers
        self._names, self._prefix = schema.names, prefix
        labels = [(c.name, c.color) for c in schema.classes] + [(ignore_name(schema), (0, 0, 0))]
        lines = [
            f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>' for name, (r, g, b) in labels
        ]
        config = [
            "<View>",
            f'  <Image name="{_TO}" value="$image" zoom="true" zoomControl="true"/>',
            f'  <BrushLabels name="{_FROM}" toName="{_TO}">',
            *lines,
            "  </BrushLabels>",
            "</View>",
        ]
        (root / CONFIG).write_text("\n".join(config) + "\n", "utf-8")
        self._list = JsonList(root / ANNOTATIONS)

    def add(self, image: ReviewImage, label: LabelMap) -> None:
        """Write an image's label."""
        result = [
            {
                "id": f"region{index}",
                "type": "brushlabels",
                "from_name": _FROM,
                "to_name": _TO,
                "original_width": image.width,
                "original_height": image.height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [self._names[index]]},
            }
            for index, mask in class_masks(label)
        ]
        data = {"image": self._prefix + quote(image.file), "key": image.key}
        self._list.add({"data": data, "predictions": [{"model_version": "autocoarse", "result": result}]})

    def close(self) -> None:
        """End the file."""
        self._list.close()


class _Brush(BaseModel):
    rle: list[Restricted[int, Field(ge=0, le=255)]]
    brushlabels: list[str] = Field(min_length=1, max_length=1)


class _Polygon(BaseModel):
    points: list[tuple[float, float]]
    """Per cent of the image's width and height."""
    polygonlabels: list[str] = Field(min_length=1, max_length=1)


class _Result(BaseModel):
    type: str = ""
    original_width: int | None = None
    original_height: int | None = None
    image_rotation: float = 0
    value: dict[str, Any] = {}


class _Annotation(BaseModel):
    result: list[_Result]
    was_cancelled: bool | None = False


class _Task(BaseModel):
    data: dict[str, Any]
    annotations: list[_Annotation] = []


_FORM = TypeAdapter(list[_Task])


def read_label_studio(content: bytes, where: str) -> Iterator[Annotated]:
    """What a JSON export of Label Studio says of its images; it is not to be trusted.

    Tasks that nobody has submitted an annotation of are left out: predictions are no review.

    Args:
        content: of an export in the format "JSON".
        where: the file's name, for messages.

    Raises:
        LabelError: it is no such file.
    """
    expected = "JSON export of Label Studio (not JSON-MIN)"
    for task in parse(content, _FORM, where, expected):
        submitted = [one for one in task.annotations if not one.was_cancelled]
        if not submitted:
            continue
        name = _name(task)
        if len(submitted) > 1:
            problem = f"{len(submitted)} annotations were submitted of it; keep one in Label Studio"
            yield Annotated(name, None, (), problem)
            continue
        results = [one for one in submitted[0].result if one.type not in _WITHOUT_PIXELS]
        yield Annotated(name, _size(results), tuple(_region(one) for one in results))


def _name(task: _Task) -> str:
    """The key that was given to the task, or what its image's URL names."""
    if isinstance(key := task.data.get("key"), str):
        return key
    url = str(task.data.get("image", ""))
    _, _, local = url.partition("?d=")
    return unquote(local or urlsplit(url).path)


def _size(results: Sequence[_Result]) -> Size | None:
    sizes = {(one.original_height, one.original_width) for one in results}
    if len(sizes) != 1:
        return None
    height, width = sizes.pop()
    return None if height is None or width is None else (height, width)


def _region(one: _Result) -> Region:
    if one.image_rotation:
        return refused("", f"the image was turned by {one.image_rotation:g} degrees; turn it back in Label Studio")
    try:
        if one.type == "brushlabels":
            brush = _Brush.model_validate(one.value)
            return Region(brush.brushlabels[0], lambda size: decode_brush(brush.rle, size))
        if one.type == "polygonlabels":
            polygon = _Polygon.model_validate(one.value)
            return Region(polygon.polygonlabels[0], lambda size: _fill(polygon, size))
    except ValidationError as error:
        first = error.errors()[0]
        return refused("", f"a region of type {one.type!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    return refused("", f"a region of type {one.type!r} says of no pixel what it is; use the brush or a polygon")


def _fill(polygon: _Polygon, size: Size) -> Mask:
    corners = [v for x, y in polygon.points for v in (x / 100 * size[1], y / 100 * size[0])]
    return fill_polygon(corners, size)
