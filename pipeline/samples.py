"""Samples to learn from or to evaluate on: an image, its label, and of what kind the label is.

The kind is a field given by whoever names the folder; nothing is read from paths, and no file is opened here but to
read a sample.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.threads import map_ahead
from storage.errors import ImageError, LabelError, LayoutError
from storage.image_reader import read_image
from storage.label_map import LabelMap
from storage.label_png import read_label_png
from storage.layouts import LabelFile, Layout, list_images, list_labels, pairing_key
from storage.schema import ClassSchema, Ids

Kind = Literal["fine", "coarse", "auto", "reviewed"]
"""How a label came to be; `fine` and `reviewed` labels are complete, the others may miss things."""

_NAMED = 3

AHEAD = 4
"""Samples that are read, or wait, beside the one that is used."""

_READERS = 2

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with a label."""

    key: str
    """What image and label share: relative posix path without suffix."""
    image: Path
    label: LabelFile
    kind: Kind


@dataclass(frozen=True, slots=True)
class Collection:
    """The samples of an image folder and a label folder."""

    samples: tuple[Sample, ...]
    """Sorted by key; keys are unique."""
    images_without_label: tuple[str, ...]
    labels_without_image: tuple[str, ...]


def collect_samples(
    images: Path,
    labels: Path,
    kind: Kind,
    layout: Layout = "folder",
    ids: Ids | None = None,
    *,
    partial: bool,
    schema: ClassSchema | None = None,
) -> Collection:
    """Pair the images of a folder with the labels of another.

    Args:
        images: image folder.
        labels: label folder, or what `label --out` made.
        kind: of the labels.
        layout: how the data set lies on disk.
        ids: what label values are; None means class indices, or what a Cityscapes file's name says.
        partial: whether images may lack a label, as after a labelling run with failed items.
        schema: the classes that the labels are to be read as; a RUN must be of these. None: not known here.

    Raises:
        MissingFileError: there is no such folder.
        SchemaError: the labels are a RUN's of other classes.
        LayoutError: images share a key or have none, no image has a label, one has none and `partial` is false, or one
            is its own label.
    """
    listing = list_images(images, layout)
    if listing.problems:
        raise LayoutError(listing.problems[0][1])
    by_key: Mapping[str, Path] = {pairing_key(item.key): item.image for item in listing.items}
    if len(by_key) < len(listing.items):
        raise LayoutError(f"{images}: {len(listing.items)} images have {len(by_key)} different keys; rename the others")
    label_of = list_labels(labels, layout, ids, schema)
    paired = sorted(by_key.keys() & label_of.keys())
    unlabelled = sorted(by_key.keys() - label_of.keys())
    if not paired:
        raise LayoutError(
            f"no image of {images} has a label in {labels}: looked for {unlabelled[0]}.png among labels such as "
            f"{min(label_of)}.png; labels must mirror the image tree"
        )
    if same := [key for key in paired if by_key[key] == label_of[key].path]:
        raise LayoutError(
            f"{by_key[same[0]]} is given as an image and as its own label, as are {len(same)} of {len(by_key)}; name "
            f"the folder of the images, and that of the labels"
        )
    if unlabelled and not partial:
        named = ", ".join(unlabelled[:_NAMED]) + (", ..." if len(unlabelled) > _NAMED else "")
        raise LayoutError(
            f"{len(unlabelled)} of {len(by_key)} images of {images} have no {kind} label in {labels}: {named}; "
            f"add the labels, or take the images out"
        )
    samples = tuple(Sample(key, by_key[key], label_of[key], kind) for key in paired)
    return Collection(samples, tuple(unlabelled), tuple(sorted(label_of.keys() - by_key.keys())))


def fingerprint_files(samples: Sequence[Sample]) -> str:
    """Hash of the samples' files by name, size and time, sha256; no file is read."""
    files = [(s.key, *((f.st_size, f.st_mtime_ns) for f in (s.image.stat(), s.label.path.stat()))) for s in samples]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def check_sizes_agree(image: Path, image_size: tuple[int, int], label: Path, label_size: tuple[int, int]) -> None:
    """Refuse a label that is not of its image's size, (height, width) each.

    Raises:
        LabelError: the sizes differ; the message names both files.
    """
    if image_size != label_size:
        raise LabelError(
            f"{label} is {label_size[1]}x{label_size[0]} but its image {image} is {image_size[1]}x{image_size[0]}; "
            f"labels must have their image's size"
        )


def read_ahead(
    samples: Sequence[Sample], schema: ClassSchema
) -> Iterator[tuple[Sample, tuple[npt.NDArray[np.uint8], LabelMap] | str]]:
    """Read samples in order, in threads, a few ahead of the consumer.

    Yields:
        Each sample with what `read_sample` gives, or why it cannot be read.

    Raises:
        WorkspaceError: a store does not answer, which is no fault of one sample.
    """

    def read(sample: Sample) -> tuple[npt.NDArray[np.uint8], LabelMap] | str:
        try:
            return read_sample(sample, schema)
        except (ImageError, LabelError) as error:
            return str(error)

    yield from zip(samples, _map_ahead(read, samples), strict=True)


def read_samples(samples: Sequence[Sample], schema: ClassSchema) -> Iterator[tuple[npt.NDArray[np.uint8], LabelMap]]:
    """As `read_ahead`, where all samples are needed: one that cannot be read is an error, raised in its turn.

    Raises:
        ImageError, LabelError: as `read_sample`.
    """
    return _map_ahead(lambda sample: read_sample(sample, schema), samples)


def _map_ahead(read: Callable[[Sample], Content], samples: Sequence[Sample]) -> Iterator[Content]:
    with ThreadPoolExecutor(_READERS, "read") as pool:
        try:
            yield from map_ahead(read, samples, pool, AHEAD)
        finally:
            pool.shutdown(cancel_futures=True)


def read_sample(sample: Sample, schema: ClassSchema) -> tuple[npt.NDArray[np.uint8], LabelMap]:
    """Read image and label.

    Returns:
        Image (height, width, 3) uint8 RGB, and the label of the same height and width.

    Raises:
        ImageError: the image cannot be read.
        LabelError: the label cannot be read, holds an illegal value, or is of another size.
    """
    image = read_image(sample.image)
    label = read_label_png(sample.label.path, schema, sample.label.ids)
    check_sizes_agree(sample.image, image.shape[:2], sample.label.path, (label.height, label.width))
    return image, label
