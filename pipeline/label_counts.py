"""How much a label set says: labelled pixels by class, from a RUN's ledger, or by reading the labels once.

It does not say how right they are; `evaluation` does, where there is a truth.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.reviewed_samples import override
from pipeline.samples import Kind, Sample, collect_samples
from storage.json_text import parse_json
from storage.label_png import read_label_png
from storage.layouts import Layout, pairing_key
from storage.ledger import Ledger
from storage.schema import ClassSchema, Ids
from storage.workspace import Workspace, write_atomically

_READERS = 4

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What the labels of a set of images hold."""

    images: int
    """Images that have a label."""
    images_without_label: int
    pixels: int
    """Of the images that have a label."""
    by_class: dict[str, int]
    """Labelled pixels by class name."""

    @property
    def labelled(self) -> int:
        """Pixels that are given a class."""
        return sum(self.by_class.values())

    @property
    def coverage(self) -> float:
        """Share of `pixels` that is given a class, in [0, 1]."""
        return self.labelled / self.pixels if self.pixels else 0.0


@dataclass(frozen=True, slots=True)
class CountProgress:
    """How far the counting of a label set is."""

    done: int
    total: int
    """Labels."""
    counts: LabelCounts | None = None
    """With the last one."""


def count_labels(
    images: Path,
    labels: Path,
    kind: Kind,
    schema: ClassSchema,
    layout: Layout,
    ids: Ids | None,
    cache: Path,
    reviewed: Path | None = None,
) -> Iterator[CountProgress]:
    """Count the labelled pixels of those images of a folder that have a label.

    Args:
        images: image folder.
        labels: what `label --out` made, whose ledger has the counts; or a folder, whose labels are read.
        kind: of the labels; every image must have one where it is fine.
        schema: the classes.
        layout: how the folders lie on disk.
        ids: what the values of a label folder are.
        reviewed: labels that stand instead of those of the same images, as in `reviewed_samples`.
        cache: file that keeps the counts of a label folder until one of its files changes; its folder exists.

    Yields:
        Progress; the last has the counts.

    Raises:
        MissingFileError, LayoutError: a folder is not there, or nothing in it can be paired.
        LabelError: a label cannot be read, or holds an illegal value.
        WorkspaceError: a ledger cannot be read, or the cache not be written.
    """
    collection = collect_samples(images, labels, kind, layout, ids, partial=kind != "fine", schema=schema)
    samples, missing = collection.samples, len(collection.images_without_label)
    sources = [labels]
    if reviewed is not None:
        overridden = override(samples, images, reviewed, layout, ids, schema)
        samples, missing = overridden.samples, missing - overridden.added
        sources.append(reviewed)
    signature = _signature(samples, schema)
    counts = _from_ledgers(samples, missing, sources, schema) or _cached(cache, signature, len(samples), missing)
    if counts is None:
        totals = np.zeros(len(schema), np.int64)
        pixels = 0
        for done, (more, size) in enumerate(_read(samples, schema), 1):
            totals, pixels = totals + more, pixels + size
            yield CountProgress(done, len(samples))
        by_class = dict(zip(schema.names, totals.tolist(), strict=True))
        counts = LabelCounts(len(samples), missing, pixels, by_class)
        write_atomically(cache, json.dumps({"signature": signature, **asdict(counts)}, indent=1).encode())
    yield CountProgress(len(samples), len(samples), counts)


def _read(samples: Sequence[Sample], schema: ClassSchema) -> Iterator[tuple[Counts, int]]:
    """Pixels by class, and all pixels, of each label."""

    def read(sample: Sample) -> tuple[Counts, int]:
        label = read_label_png(sample.label.path, schema, sample.label.ids)
        return label.counts[: len(schema)], label.height * label.width

    with ThreadPoolExecutor(_READERS, "count") as pool:
        try:
            yield from pool.map(read, samples)
        finally:
            pool.shutdown(cancel_futures=True)


def _from_ledgers(
    samples: Sequence[Sample], missing: int, sources: Sequence[Path], schema: ClassSchema
) -> LabelCounts | None:
    """The counts that RUNs recorded when they wrote their labels; None where one is none, or has other classes."""
    totals: Counter[str] = Counter(dict.fromkeys(schema.names, 0))
    pixels = 0
    for number, labels in enumerate(sources):
        run = Workspace.holding(labels)
        if run is None:
            return None
        # the second source is that of reviewed labels
        wanted = {sample.key for sample in samples if (sample.kind == "reviewed") == bool(number)}
        with Ledger(run.ledger, read_only=True) as ledger:
            for entry in ledger:
                if entry.status != "done" or pairing_key(entry.key) not in wanted:
                    continue
                if len(entry.counts) != len(schema):
                    return None
                totals.update(dict(zip(schema.names, entry.counts, strict=True)))
                pixels += entry.height * entry.width
    return LabelCounts(len(samples), missing, pixels, dict(totals))


def _signature(samples: Sequence[Sample], schema: ClassSchema) -> str:
    """Changes when a label is added, removed or written again, or is to be read as something else."""
    digest = hashlib.sha256(schema.digest.encode())
    for sample in samples:
        found = sample.label.path.stat()
        digest.update(f"{sample.key}\0{sample.label.ids}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _cached(cache: Path, signature: str, images: int, missing: int) -> LabelCounts | None:
    try:
        content = parse_json(cache.read_text("utf-8"))
        if content["signature"] == signature:
            return LabelCounts(images, missing, content["pixels"], content["by_class"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: the labels are read again
    return None
