"""Labels and the truth of the same images: paired, and read together by a few threads.

What is made of a pair is its reader's: scores in `evaluation`, agreement in `audit`.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.errors import LabelError, LayoutError
from storage.label_map import LabelMap
from storage.label_png import read_label_png
from storage.layouts import LabelFile, Layout, find_images, list_labels, pairing_key
from storage.schema import ClassSchema, Ids

_READERS = 4

Judgement = TypeVar("Judgement")


@dataclass(frozen=True, slots=True)
class PairedLabels:
    """The images that have both a label and a truth."""

    schema: ClassSchema
    """The classes that both are read as."""
    keys: tuple[str, ...]
    """Of the images, sorted."""
    labels: Mapping[str, LabelFile]
    truths: Mapping[str, LabelFile]
    """Both by key; also of images that lack the other."""

    @property
    def without_truth(self) -> int:
        """Labels that have no truth."""
        return len(self.labels) - len(self.keys)

    @property
    def without_label(self) -> int:
        """Truths that have no label."""
        return len(self.truths) - len(self.keys)

    def judge(self, judge: Callable[[str, LabelMap, LabelMap], Judgement]) -> Iterator[Judgement]:
        """Read each pair, and give what is made of it, in the order of the keys.

        Args:
            judge: of key, label and truth, which are of one size; called by a few threads.

        Raises:
            LabelError: a file cannot be read, holds an illegal value, or a label differs in size from its truth.
        """

        def read(key: str) -> Judgement:
            given, true = self.labels[key], self.truths[key]
            label = read_label_png(given.path, self.schema, given.ids)
            truth = read_label_png(true.path, self.schema, true.ids)
            if (label.height, label.width) != (truth.height, truth.width):
                raise LabelError(
                    f"{given.path} is {label.width}x{label.height} but its truth {true.path} is "
                    f"{truth.width}x{truth.height}; both must have their image's size"
                )
            return judge(key, label, truth)

        with ThreadPoolExecutor(_READERS, "judge") as pool:
            try:
                yield from pool.map(read, self.keys)
            finally:
                pool.shutdown(cancel_futures=True)


def pair_labels(
    labels: Path, truth: Path, schema: ClassSchema, layout: Layout = "folder", ids: Ids | None = None
) -> PairedLabels:
    """Pair the labels of a folder with a truth.

    Args:
        labels: what `label --out` made, or a label folder.
        truth: label folder of the truth.
        schema: the classes that both are read as.
        layout: how the folders lie on disk.
        ids: what their values are; a run says itself what its own labels are.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: a folder holds no labels, or they have no image in common.
        SchemaError: the labels are a RUN's of other classes.
        WorkspaceError: the RUN's ledger cannot be read.
    """
    given, true = list_labels(labels, layout, ids, schema), list_labels(truth, layout, ids, schema)
    keys = tuple(sorted(given.keys() & true.keys()))
    if not keys:
        raise LayoutError(
            f"no label of {labels} has a truth in {truth}: {min(given)} is not among labels such as {min(true)}; "
            f"labels and truth must lie in mirrored trees"
        )
    return PairedLabels(schema, keys, given, true)


def refuse_unrelated(images: Path, labels: Path, layout: Layout, labels_ids: Ids | None, schema: ClassSchema) -> None:
    """Refuse labels that are of none of these images, before there is work that is to be compared with them.

    Args:
        images: folder of the images.
        labels: label folder, or what `label --out` made.
        layout: how both lie on disk.
        labels_ids: what the values of the labels are.
        schema: the classes that the labels are to be read as.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: the labels' folder holds none, or none of these images.
        SchemaError: the labels are a RUN's of other classes.
        WorkspaceError: the RUN's ledger cannot be read.
    """
    given = list_labels(labels, layout, labels_ids, schema)
    if not any(pairing_key(key) in given for key, _ in find_images(images, layout)[1]):
        raise LayoutError(
            f"no image of {images} has a label in {labels}, which holds labels such as {min(given)}; images and labels "
            f"must lie in mirrored trees"
        )
