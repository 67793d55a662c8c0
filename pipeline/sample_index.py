"""What every label holds, read once before training: pixels by class, and where a crop of a class may be cut.

Which crops are drawn from it is decided in `sampling`. Labels are read as they are trained on.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.samples import Sample, check_sizes_agree
from pipeline.threads import map_ahead
from storage.atomic_file import as_ours
from storage.errors import LabelError, MissingFileError, SettingsError, WorkspaceError
from storage.image_reader import read_image_size
from storage.label_png import read_label_png
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.schema import ClassSchema
from storage.workspace import Workspace, write_atomically

FORMAT = 1
"""Version of the cache file and of what its arrays mean; one of another version is made anew."""

PLACE = np.dtype([("sample", "<i4"), ("class_index", "u1"), ("row", "<i4"), ("column", "<i4"), ("pixels", "<i4")])
"""A place to cut a crop of a class: a pixel of that class, and how many pixels of it its tile has."""

_READERS = (4, 16)
"""Fewest and most readers: some wait for the disk while others decode."""

Values = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class SampleIndex:
    """What the labels hold, and which images they belong to."""

    samples: tuple[Sample, ...]
    counts: npt.NDArray[np.int64]
    """Pixels of each class in each sample: (sample, class)."""
    places: npt.NDArray[np.void]
    """One record of `PLACE` for each class in each tile of each sample, (place,), in the order of the samples."""
    image_digests: tuple[str, ...]
    """Hash of each sample's image file, sha256 in hexadecimal."""
    digest: str
    """Hash of the samples' keys, kinds, labels and images."""


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far the reading is; the last one has the index."""

    done: int
    total: int
    index: SampleIndex | None = None
    cached: bool = False
    """Whether the index is from an earlier run, and no label was read."""


def build_index(
    samples: Sequence[Sample],
    schema: ClassSchema,
    *,
    tile: tuple[int, int],
    cache: Path | None,
    workers: int | None = None,
) -> Iterator[IndexProgress]:
    """Read every label once: what is wrong with any of them is known before training starts.

    Args:
        samples: what is trained on.
        schema: the classes that labels are read as.
        tile: (height, width) of the parts of a label in which places are looked for, pixels; about a crop.
        cache: file that keeps the index. It is used again as long as the files look the same (size and time, or the
            hash in a run's ledger), and the classes and the tile are the same; otherwise it is replaced.
        workers: threads that read; by default as many as processors, 4 to 16.

    Yields:
        Progress after each label; the last has the index.

    Raises:
        SettingsError: the tile has no pixels.
        MissingFileError: a file has vanished since it was listed.
        ImageError: an image's header cannot be read.
        LabelError: a label cannot be read, holds an illegal value or is not of its image's size; or no sample has a
            labelled pixel.
        WorkspaceError: a run's ledger cannot be read, or the cache cannot be written.

    Source: places by class: arXiv:1812.01593, section 3.3, there one centroid a tile.
    """
    if min(tile) < 1:
        raise SettingsError(f"tile is {tile[1]}x{tile[0]}, expected sides of at least 1 pixel")
    samples = tuple(samples)
    runs = _Runs()
    files = [_look_at(sample, runs) for sample in samples]
    key = _cache_key(samples, schema, tile, files)
    cached = None if cache is None else _load(cache, key, samples)
    if cached is not None:
        yield IndexProgress(len(samples), len(samples), cached, cached=True)
        return
    readings = []
    for reading in _read_all(samples, files, schema, tile, workers):
        readings.append(reading)
        yield IndexProgress(len(readings), len(samples))
    index = _assemble(samples, readings)
    if cache is not None:
        _save(cache, key, index)
    yield IndexProgress(len(samples), len(samples), index)


def refuse_other_file(cache: Path) -> None:
    """Never write an index over a file that is none, not even a damaged one; to be asked before the work.

    Raises:
        SettingsError: something else is there.
    """
    try:
        with cache.open("rb") as file:
            start = file.read(39)  # up to the name of the archive's first array
    except FileNotFoundError:
        return
    except OSError as error:
        raise as_ours(f"cannot read {cache}", error) from error
    if start and not (start.startswith(b"PK\x03\x04") and start.endswith(b"texts.npy")):
        raise SettingsError(f"{cache} is there and no index of labels, so it is not replaced: choose another --index")


def find_places(values: Values, classes: Sequence[int], tile: tuple[int, int]) -> npt.NDArray[np.void]:
    """Find where crops of each class may be cut: in each tile the pixel of the class nearest to its centroid there.

    The centroid itself may lie on another class, as that of a ring does; a pixel of the class cannot. What is left of
    the image beside whole tiles is a tile as well.

    Args:
        values: (height, width) uint8, class indices or ignore.
        classes: class indices to look for.
        tile: (height, width), pixels.

    Returns:
        Records of `PLACE`, (place,), tile by tile; `sample` is 0.
    """
    places: list[tuple[int, int, int, int, int]] = []
    for top in range(0, values.shape[0], tile[0]):
        for left in range(0, values.shape[1], tile[1]):
            part = np.ascontiguousarray(values[top : top + tile[0], left : left + tile[1]])
            for wanted in classes:
                mask = part == wanted
                by_row = np.count_nonzero(mask, axis=1)
                pixels = int(by_row.sum())
                if pixels:
                    row, column = _nearest_to_centroid(mask, by_row, pixels)
                    places.append((0, wanted, top + row, left + column, pixels))
    return np.array(places, PLACE)


def _nearest_to_centroid(mask: npt.NDArray[np.bool_], by_row: npt.NDArray[np.intp], pixels: int) -> tuple[int, int]:
    by_column = np.count_nonzero(mask, axis=0)
    row, column = (float(n @ np.arange(n.size)) / pixels for n in (by_row, by_column))
    if mask[round(row), round(column)]:  # no pixel is nearer than the one that the centroid lies in
        return round(row), round(column)
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    nearest = int(np.argmin((rows - row) ** 2 + (columns - column) ** 2))
    return int(rows[nearest]), int(columns[nearest])


@dataclass(frozen=True, slots=True)
class _Files:
    """What is known of a sample's files without reading them."""

    label: str
    image: str
    image_digest: str
    """Empty where the image must be read for it."""


class _Runs:
    """What the ledgers of runs say of their labels; each ledger is read once."""

    def __init__(self) -> None:
        self._entries: dict[Path, dict[str, Entry]] = {}

    def entry(self, label: Path) -> Entry | None:
        """The entry of a label file; None where it is not a run's."""
        for folder in label.absolute().parents:
            if folder.name != "labels":
                continue
            if folder not in self._entries:
                self._entries[folder] = self._read(Workspace(folder.parent))
            if self._entries[folder]:
                return self._entries[folder].get(label.absolute().relative_to(folder).with_suffix("").as_posix())
        return None

    @staticmethod
    def _read(run: Workspace) -> dict[str, Entry]:
        if not run.is_run():
            return {}
        with Ledger(run.ledger, read_only=True) as ledger:
            return {entry.key: entry for entry in ledger if entry.status == "done"}


def _look_at(sample: Sample, runs: _Runs) -> _Files:
    try:
        label, image = sample.label.path.stat(), sample.image.stat()
    except OSError as error:
        raise MissingFileError(
            f"{error.filename}: {error.strerror}, but it was there when its folder was listed; run the command again"
        ) from error
    seen = [(file.st_size, file.st_mtime_ns) for file in (label, image)]
    entry = runs.entry(sample.label.path)
    label_digest = entry.sha256 if entry and (entry.bytes, entry.modified_ns) == seen[0] else ""
    image_digest = entry.image_sha256 if entry and (entry.image_bytes, entry.image_modified_ns) == seen[1] else ""
    return _Files(label_digest or str(seen[0]), str(seen[1]), image_digest)


def _cache_key(samples: Sequence[Sample], schema: ClassSchema, tile: tuple[int, int], files: Sequence[_Files]) -> str:
    rows = [[s.key, s.kind, s.label.ids, f.label, f.image] for s, f in zip(samples, files, strict=True)]
    content = [FORMAT, schema.digest, sorted(schema.ignored_source_ids), tile, rows]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Reading:
    counts: npt.NDArray[np.int64]
    places: npt.NDArray[np.void]
    label_digest: str
    image_digest: str


def _read(sample: Sample, files: _Files, schema: ClassSchema, tile: tuple[int, int]) -> _Reading:
    label = read_label_png(sample.label.path, schema, sample.label.ids)
    size = read_image_size(sample.image)
    check_sizes_agree(sample.image, size, sample.label.path, (label.height, label.width))
    counts = label.counts[: len(schema)]
    places = find_places(label.values, np.flatnonzero(counts).tolist(), tile)
    digest = hashlib.sha256(f"{label.height} {label.width} ".encode() + label.values.tobytes()).hexdigest()
    return _Reading(counts, places, digest, files.image_digest or file_digest(sample.image))


def _read_all(
    samples: Sequence[Sample],
    files: Sequence[_Files],
    schema: ClassSchema,
    tile: tuple[int, int],
    workers: int | None,
) -> Iterator[_Reading]:
    """Readings in the order of the samples; only so many are read ahead that no reader is idle."""
    # Threads, not processes: decoding, comparing and hashing let other threads run, and nothing need be copied.
    readers = workers or min(max(os.cpu_count() or 1, _READERS[0]), _READERS[1])
    with ThreadPoolExecutor(readers, "index") as pool:
        try:
            pairs = zip(samples, files, strict=True)
            yield from map_ahead(lambda pair: _read(*pair, schema, tile), pairs, pool, 2 * readers + 1)
        finally:
            pool.shutdown(cancel_futures=True)


def _assemble(samples: tuple[Sample, ...], readings: Sequence[_Reading]) -> SampleIndex:
    counts = np.array([reading.counts for reading in readings], np.int64)
    if not counts.any():
        raise LabelError(f"none of the {len(samples)} labels has a pixel with a class: there is nothing to learn from")
    places = np.concatenate([reading.places for reading in readings])
    places["sample"] = np.repeat(np.arange(len(samples)), [reading.places.size for reading in readings])
    content = [[s.key, s.kind, r.label_digest, r.image_digest] for s, r in zip(samples, readings, strict=True)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return SampleIndex(samples, counts, places, tuple(r.image_digest for r in readings), digest)


def _save(cache: Path, key: str, index: SampleIndex) -> None:
    file = io.BytesIO()
    texts = np.array([key, index.digest, *index.image_digests])
    np.savez(file, texts=texts, counts=index.counts, places=index.places)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(f"cannot make folder {cache.parent}: {error.strerror}") from error
    write_atomically(cache, file.getvalue())


def _load(cache: Path, key: str, samples: tuple[Sample, ...]) -> SampleIndex | None:
    """The index of a cache file, or None where there is none, it is damaged, or it was made from something else."""
    try:
        with np.load(cache, allow_pickle=False) as file:
            found, digest, *image_digests = file["texts"].tolist()
            if found != key:
                return None
            return SampleIndex(samples, file["counts"], file["places"], tuple(image_digests), digest)
    except Exception:  # noqa: BLE001 - damaged archives raise errors of many kinds, and all it takes is to read again
        return None
