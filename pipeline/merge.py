"""The merge of two labels of one image: a human's coarse one and a teacher's, pixel by pixel, and its counts.

Pure functions on label maps; `merging` lists, reads and writes the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from storage.errors import SettingsError, ShapeError
from storage.label_map import LabelMap
from storage.schema import IGNORE

Policy = Literal["fill", "auto", "agree"]
"""`fill`: the human's class stays, the teacher's fills what is blank. `auto`: the teacher's alone.
`agree`: as fill, but where both have a class and the two differ the pixel becomes ignore."""

Border = tuple[int, int, int, int]
"""Rows at the top and at the bottom, columns at the left and at the right."""

NO_BORDER: Border = (0, 0, 0, 0)

_Values = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """Pixels of one merge, or of many added up; `kept + filled + ignored` are all pixels.

    Each tuple is by class index.
    """

    human: tuple[int, ...]
    """The coarse label's, by its class, whatever became of them."""
    kept: tuple[int, ...]
    """Those in the result whose class is the coarse label's."""
    filled: tuple[int, ...]
    """Those in the result whose class is the auto label's alone."""
    conflicts: tuple[int, ...]
    """Both labels have a class and the two differ; by the coarse label's class. The border holds none."""
    ignored: int
    """Those that are given no class."""
    unknown: int
    """Of both labels, those ignored because the schema does not know their source id."""

    @classmethod
    def zero(cls, num_classes: int) -> Self:
        """Counts of no image at all."""
        none = (0,) * num_classes
        return cls(none, none, none, none, 0, 0)

    @property
    def pixels(self) -> int:
        """All pixels."""
        return sum(self.kept) + sum(self.filled) + self.ignored

    def __add__(self, other: "MergeCounts") -> "MergeCounts":
        return MergeCounts(
            human=_add(self.human, other.human),
            kept=_add(self.kept, other.kept),
            filled=_add(self.filled, other.filled),
            conflicts=_add(self.conflicts, other.conflicts),
            ignored=self.ignored + other.ignored,
            unknown=self.unknown + other.unknown,
        )


def _add(some: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(some, more, strict=True))


def merge_labels(
    coarse: LabelMap,
    auto: LabelMap,
    policy: Policy = "fill",
    union_classes: Sequence[int] = (),
    border_ignore: Border = NO_BORDER,
) -> tuple[LabelMap, MergeCounts]:
    """Merge a human coarse label and a teacher's label of the same image.

    The border masks what the teacher contributes, and comes first; a human's pixel within it is treated like any
    other whose auto label is ignore. The union comes last: a human's pixel of a union class is in the result,
    whatever the policy and the border say. For `fill` that holds anyway.

    Args:
        coarse: (height, width), the human's; all ignore where there is none.
        auto: of the same size and classes, the teacher's; all ignore where there is none.
        policy: which of the two counts where.
        union_classes: indices of the classes whose human pixels always win.
        border_ignore: pixels at the top, bottom, left and right where the auto label is taken as ignore.

    Returns:
        The merged label, each pixel of which is one of the two given or ignore, and its counts.

    Raises:
        ShapeError: the labels differ in size or in number of classes.
        SettingsError: the policy is unknown, a union class is no class index, or the border is negative or leaves no
            pixel.

    Source: the union is what the reference implementation of arXiv:2005.10821 does with its "dropout classes" (truck,
        bus and train), and the border what it does with labels of Cityscapes; it only knows the policy `auto`.
    """
    classes = coarse.num_classes
    if coarse.values.shape != auto.values.shape or classes != auto.num_classes:
        raise ShapeError(
            f"the coarse label is {coarse.width}x{coarse.height} with {classes} classes, the auto label "
            f"{auto.width}x{auto.height} with {auto.num_classes}; both must be of one image and one schema"
        )
    if policy not in get_args(Policy):
        raise SettingsError(f"policy is {policy!r}, expected one of {', '.join(get_args(Policy))}")
    if illegal := [c for c in union_classes if not 0 <= c < classes]:
        raise SettingsError(f"union class {illegal[0]} is no class index, expected 0..{classes - 1}")

    human = coarse.values
    teacher = _without_border(auto.values, border_ignore)
    conflicts = (human != teacher) & (human != IGNORE) & (teacher != IGNORE)
    if policy == "auto":
        values = teacher
    else:
        values = np.where(human != IGNORE, human, teacher)
        if policy == "agree":
            values[conflicts] = IGNORE
    if union_classes:
        values = np.where(np.isin(human, list(union_classes)), human, values)

    merged = LabelMap(values, classes)
    return merged, _count(coarse, merged, conflicts, coarse.unknown + auto.unknown)


def _count(coarse: LabelMap, merged: LabelMap, conflicts: npt.NDArray[np.bool_], unknown: int) -> MergeCounts:
    classes, human = coarse.num_classes, coarse.values
    kept = _by_class(merged.values[merged.values == human], classes)
    return MergeCounts(
        human=tuple(coarse.counts[:classes].tolist()),
        kept=tuple(kept.tolist()),
        filled=tuple((merged.counts[:classes] - kept).tolist()),
        conflicts=tuple(_by_class(human[conflicts], classes).tolist()),
        ignored=merged.ignored,
        unknown=unknown,
    )


def _by_class(values: _Values, classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(values, minlength=256)[:classes]


def _without_border(values: _Values, border: Border) -> _Values:
    height, width = values.shape
    top, bottom, left, right = border
    if min(border) < 0:
        raise SettingsError(f"the border is {border}, expected four numbers of pixels that are not negative")
    if top + bottom >= height or left + right >= width:
        raise SettingsError(
            f"a border of {top},{bottom},{left},{right} (top,bottom,left,right) leaves no pixel of {width}x{height}; "
            f"ignore a narrower one"
        )
    inside = np.s_[top : height - bottom, left : width - right]
    masked = np.full_like(values, IGNORE)
    masked[inside] = values[inside]
    return masked
