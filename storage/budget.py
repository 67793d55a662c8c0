"""Bytes: what labels will take before they are made, and what they take once they are.

It adds up sizes; which limit holds and what to do about it is decided above.
"""

import heapq
import math
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage.errors import MissingFileError
from storage.object_io import find_file
from storage.object_walk import is_folder, walk_objects
from storage.paths import is_remote
from storage.workspace import Workspace

REFERENCE_PIXELS = 1920 * 1080
"""Size of image that the model of label bytes is anchored at."""

REFERENCE_BYTES = 34_300
"""Measured median size of a 1920x1080 label PNG of which 4 % is ignore (benchmarks/label_png.py --model, noise 1.4)."""

SIZE_EXPONENT = 0.72
"""How label bytes grow with pixels: boundaries grow with the side, speckle with the area (same benchmark)."""

LEDGER_BYTES = 32_000
"""Of a ledger without entries, the settings and the classes."""

LEDGER_ENTRY_BYTES, LEDGER_CLASS_BYTES = 340, 9
"""What the ledger grows by for an item, and for each class of it: measured with 2000 entries of 11 to 65 classes."""

_LARGEST = 5


@dataclass(frozen=True, slots=True)
class SizeEstimate:
    """Bytes of a label set in three forms."""

    count: int
    classes: int
    soft_fp32_bytes: int
    """One float32 probability per class and pixel, uncompressed."""
    soft_fp16_bytes: int
    """The same in float16."""
    hard_png_bytes: int
    """One class index per pixel, as this project writes it; by the model above, so within a factor of two or three."""


def estimate_label_bytes(sizes: Sequence[tuple[int, int]], count: int, classes: int) -> SizeEstimate:
    """Estimate the bytes of a label set.

    Args:
        sizes: (height, width) of the images, or of a fair sample of them.
        count: number of images that they stand for.
        classes: number of classes.
    """
    pixels = [height * width for height, width in sizes]
    mean_pixels = sum(pixels) / len(pixels)
    png = sum(REFERENCE_BYTES * (p / REFERENCE_PIXELS) ** SIZE_EXPONENT for p in pixels) / len(pixels)
    values = round(count * mean_pixels) * classes
    return SizeEstimate(count, classes, 4 * values, 2 * values, round(count * png))


def ledger_bytes(count: int, classes: int) -> int:
    """Model the bytes of a run's ledger and its few small files.

    Args:
        count: items in it.
        classes: number of classes, whose pixels each entry tells.
    """
    return LEDGER_BYTES + count * (LEDGER_ENTRY_BYTES + LEDGER_CLASS_BYTES * classes)


@dataclass(slots=True)
class LabelGroup:
    """Labels that were added up together."""

    labels: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FolderBytes:
    """Bytes that a run or a label folder takes."""

    label_bytes: int
    store_bytes: int
    """What is kept beside the labels."""
    ledger_bytes: int
    other_bytes: int
    """Settings, lists of failures, files that are still being written, and whatever else lies there."""
    sizes: tuple[int, ...]
    """Bytes of each label file, ascending."""
    largest: tuple[tuple[str, int], ...]
    """The largest labels: path below the folder of labels, and bytes; the largest first."""
    folders: Mapping[str, LabelGroup]
    """By the topmost folder that labels lie in; "." for those that lie in none."""

    @property
    def labels(self) -> int:
        """Number of label files."""
        return len(self.sizes)

    @property
    def total_bytes(self) -> int:
        """All files."""
        return self.label_bytes + self.store_bytes + self.ledger_bytes + self.other_bytes

    def quantile(self, share: float) -> int | None:
        """Size of the smallest label that is not smaller than a share of them; None without labels."""
        if not self.sizes:
            return None
        return self.sizes[max(0, math.ceil(share * self.labels) - 1)]


def measure_bytes(root: Path) -> FolderBytes:
    """Add up the bytes of all files of a run, or of any folder of label PNGs; a run may be at work meanwhile.

    Raises:
        MissingFileError: there is no such folder.
    """
    workspace = Workspace(root)
    is_run = workspace.is_run()
    if not is_run and not is_folder(root):
        raise MissingFileError(f"no run or label folder {root}")
    label_root = workspace.labels if is_run else root
    by_kind = dict.fromkeys(("labels", "store", "ledger", "other"), 0)
    sizes: list[int] = []
    largest: list[tuple[int, str]] = []
    folders: dict[str, LabelGroup] = defaultdict(LabelGroup)
    for path, size in _objects(workspace) if workspace.is_remote else _files(root):
        kind = _kind(path, workspace, label_root) if is_run or path.suffix.lower() == ".png" else "other"
        by_kind[kind] += size
        if kind == "labels":
            sizes.append(size)
            relative = PurePosixPath(str(path.relative_to(label_root)))
            group = folders[relative.parts[0] if len(relative.parts) > 1 else "."]
            group.labels, group.bytes = group.labels + 1, group.bytes + size
            largest = heapq.nlargest(_LARGEST, [*largest, (size, relative.as_posix())])
    return FolderBytes(
        label_bytes=by_kind["labels"],
        store_bytes=by_kind["store"],
        ledger_bytes=by_kind["ledger"],
        other_bytes=by_kind["other"],
        sizes=tuple(sorted(sizes)),
        largest=tuple((name, size) for size, name in largest),
        folders=dict(folders),
    )


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """Every file below a folder and its bytes."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:
                continue  # a journal or a temporary file, gone since the folder was listed


def _objects(workspace: Workspace) -> Iterator[tuple[Path, int]]:
    """The same of a store; the ledger here counts, to which its copy grows with the next minute."""
    ledger = find_file(workspace.ledger)
    for found in walk_objects(workspace.root):
        path = workspace.root / found.relative
        if path != workspace.ledger_copy or ledger is None:
            yield path, found.size
    if ledger is not None:
        yield workspace.ledger_copy, ledger.size


def _kind(path: Path, workspace: Workspace, label_root: Path) -> str:
    if path.suffix.lower() == ".png" and path.is_relative_to(label_root):
        return "labels"
    if path.is_relative_to(workspace.soft):
        return "store"
    # the journal beside the ledger has its name and more
    is_ledger = path.parent == workspace.root and path.name.startswith(workspace.ledger.name)
    return "ledger" if is_ledger else "other"


def free_bytes(path: Path) -> int:
    """Free space on the file system that holds a path, or would hold it once it is made; a store has no end."""
    if is_remote(path):
        return sys.maxsize
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
