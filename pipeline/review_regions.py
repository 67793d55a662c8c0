"""What annotation tools know of an image: regions of a class, which together become a label map, and back.

How regions stand in a tool's files is the formats' (`review_cvat` and its like).
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.run_lengths import Mask
from storage.schema import IGNORE, ClassSchema

FormatName = Literal["cvat", "coco", "label-studio", "datumaro"]
"""The formats that labels are handed out in, and come back in."""

Size = tuple[int, int]
"""(height, width), pixels."""


@dataclass(frozen=True, slots=True)
class ReviewImage:
    """An image that was handed to a tool."""

    key: str
    """What image and label share: relative posix path without suffix."""
    file: str
    """Relative posix path of the image, which is its name in the tool."""
    height: int
    width: int
    image_bytes: int
    image_modified_ns: int
    image_sha256: str
    """Of the image file."""
    label_sha256: str
    """Of the label file that was handed out."""

    @property
    def size(self) -> Size:
        """(height, width), pixels."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image that is given a class."""

    label: str
    """The class's name, as the tool has it."""
    decode: Callable[[Size], Mask]
    """Its pixels for an image of a (height, width); raises LabelError where it is none of such an image."""
    order: int = 0
    """Regions of higher order cover those of lower, and of equal order the later ones the earlier."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """What a tool's file says of one image."""

    name: str
    """Of the image, as the tool has it."""
    size: Size | None
    """None where the file does not say."""
    regions: tuple[Region, ...]
    """In the order of the file."""
    problem: str = ""
    """Why it cannot be taken; empty where it can."""


class AnnotationWriter(Protocol):
    """Writes the files of one tool into a folder, one image after the other."""

    def add(self, image: ReviewImage, label: LabelMap) -> None:
        """Write an image's label; images come in the order in which they were announced."""

    def close(self) -> None:
        """End the files."""


def ignore_name(schema: ClassSchema) -> str:
    """Name of the extra label that tools offer for pixels of no class; no class has it."""
    name = "ignore"
    while name in schema.names:
        name = f"_{name}"
    return name


def class_masks(label: LabelMap) -> Iterator[tuple[int, Mask]]:
    """Index and pixels, (height, width) bool, of each class that a label has; what is ignored is in none."""
    for index in np.flatnonzero(label.counts[: label.num_classes]).tolist():
        yield index, label.values == index


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Top, left, height and width of the smallest rectangle that holds a mask's pixels; there must be some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left


def refused(label: str, why: str) -> Region:
    """A region that has no pixels to take, and says so when they are asked for."""

    def decode(_: Size) -> Mask:
        raise LabelError(why)

    return Region(label, decode)


def compose(regions: Sequence[Region], size: Size, schema: ClassSchema, *, drawn: bool) -> tuple[LabelMap, int]:
    """The label map of an image's regions; what is in no region is ignored.

    Args:
        regions: in the order of their file.
        size: (height, width) of the image.
        schema: the classes; `ignore_name` of it is a name, too.
        drawn: whether the tool shows which region is on top, which then has the pixels. Where it does not, pixels that
            several classes claim are ignored.

    Returns:
        The label, and how many pixels several classes claim.

    Raises:
        LabelError: a region is of no class, or its mask is none of this size.
    """
    indices = {name: index for index, name in enumerate(schema.names)} | {ignore_name(schema): IGNORE}
    values = np.full(size, IGNORE, np.uint8)
    taken, claimed_again = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    for region in sorted(regions, key=lambda one: one.order) if drawn else regions:
        try:
            mask = region.decode(size)
        except LabelError as error:
            raise LabelError(f"a region of {region.label!r}: {error}" if region.label else str(error)) from error
        if region.label not in indices:
            raise LabelError(_unknown_class(region.label, schema))
        index = indices[region.label]
        claimed_again |= mask & taken & (values != index)
        values[mask] = index
        taken |= mask
    if not drawn:
        values[claimed_again] = IGNORE
    return LabelMap(values, len(schema)), int(np.count_nonzero(claimed_again))


def _unknown_class(name: str, schema: ClassSchema) -> str:
    near = difflib.get_close_matches(name, schema.names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(schema.names)}"
    return (
        f"{name!r} is no class of {schema.name!r}: {hint}; rename the label in the tool, "
        f"or use {ignore_name(schema)!r} for pixels of no class"
    )
