"""Bytes: what labels will take before they are made, and what they take once they are.

It adds up sizes; which limit holds and what to do about it is decided above.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import MissingFileError
from storage.workspace import Workspace

REFERENCE_PIXELS = 1920 * 1080
"""Size of image that the model of label bytes is anchored at."""

REFERENCE_BYTES = 33_000
"""Measured median size of a 1920x1080 label PNG of which 4 % is ignore (benchmarks/label_size.py, noise 1.4)."""

SIZE_EXPONENT = 0.72
"""How label bytes grow with pixels: boundaries grow with the side, speckle with the area (same benchmark)."""


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


@dataclass(frozen=True, slots=True)
class FolderBytes:
    """Bytes that a run or a label folder takes."""

    labels: int
    """Number of label files."""
    label_bytes: int
    total_bytes: int
    """All files: labels, ledger, settings; not those that are still being written."""


def measure_bytes(root: Path) -> FolderBytes:
    """Add up the bytes of a run, or of any folder of label PNGs; a run may be at work meanwhile.

    Raises:
        MissingFileError: there is no such folder.
    """
    if not root.is_dir():
        raise MissingFileError(f"no run or label folder {root}")
    workspace = Workspace(root)
    labels = label_bytes = total_bytes = 0
    label_root = workspace.labels if workspace.is_run() else root
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if Path(folder, f) != workspace.scratch]
        for name in files:
            path = Path(folder) / name
            try:
                size = path.lstat().st_size
            except FileNotFoundError:
                continue  # a journal or a temporary file, gone since the folder was listed
            total_bytes += size
            if path.suffix.lower() == ".png" and path.is_relative_to(label_root):
                labels += 1
                label_bytes += size
    return FolderBytes(labels, label_bytes, total_bytes)


def free_bytes(path: Path) -> int:
    """Free space on the file system that holds a path, or would hold it once it is made."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free
