"""The soft store: what a teacher knew of each pixel beside its label, quantised, one zarr chunk an image.

It holds the top class also where the label is ignore, so that other thresholds can be applied without the teacher.
Chunks are encoded and read here; the workspace publishes them, whole or not at all. Writers share no file but the
metadata of an array, which all of them write alike, and so need no locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from storage.errors import ForeignSettingsError, LabelError, SettingsError
from storage.json_text import parse_json
from storage.schema import IGNORE

Keep = Literal["none", "confidence", "top2"]
"""What is kept beside the labels: nothing, class and confidence, or these and the runner-up class."""

DEFAULT_STEPS = 100
"""Thresholds 0.00, 0.01, ..., 0.99 can be applied exactly later."""

MAX_STEPS = 255
"""Codes are 8 bits, and one of them says that there is no confidence."""

NO_CONFIDENCE = 255
"""Code of a pixel whose scores are no numbers: it is ignored at every threshold."""

FORMAT = 1

_PLANES: dict[str, tuple[str, ...]] = {
    "confidence": ("class", "confidence"),
    "top2": ("class", "confidence", "runner_up"),
}
# Of the levels tried on labels of real photographs, the last that is still faster than the PNG of the label.
_ZSTD_LEVEL = 5

Planes = npt.NDArray[np.uint8]
"""(plane, height, width) uint8: class index, confidence code and, with top2, class index of the runner-up."""


def threshold_grid(steps: int) -> npt.NDArray[np.float32]:
    """The thresholds that a store can apply exactly: k / steps for k = 0..steps-1, (steps,) float32.

    The code of a confidence p is the largest k with p > k / steps, both as float32; that is ceil(p * steps) - 1 but
    for rounding, and decides `p > threshold` exactly for every threshold of the grid.

    Raises:
        SettingsError: steps is out of range.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise SettingsError(f"the confidence is to be kept in {steps} steps, expected 1 to {MAX_STEPS}")
    return (np.arange(steps) / steps).astype(np.float32)


def is_on_grid(threshold: float, steps: int) -> bool:
    """Whether a store of so many steps decides a threshold exactly."""
    return bool(np.any(threshold_grid(steps) == np.float32(threshold)))


def level_of(threshold: float, steps: int) -> int:
    """The k of a threshold k / steps.

    Raises:
        SettingsError: the threshold is not on the grid; the message names its neighbours.
    """
    grid = threshold_grid(steps)
    (found,) = np.nonzero(grid == np.float32(threshold))
    if not found.size:
        below = max(0, min(steps - 1, int(np.floor(threshold * steps))))
        near = " and ".join(f"{k / steps!r}" for k in (below, below + 1) if k < steps)
        raise SettingsError(
            f"threshold {threshold:g} is not on the grid of the kept confidence, whose steps are {1 / steps:g}; "
            f"the nearest are {near}"
        )
    return int(found[0])


def apply_thresholds(planes: Planes, thresholds: Sequence[float], steps: int) -> npt.NDArray[np.uint8]:
    """Make the label that labelling at these thresholds makes.

    Args:
        planes: of one image, as read from a store.
        thresholds: by class index; keep where confidence > threshold.
        steps: of the store.

    Returns:
        (height, width) uint8, a class index or 255.

    Raises:
        SettingsError: a threshold is not on the store's grid.
        LabelError: a pixel has a class that has no threshold.
    """
    classes, codes = planes[0], planes[1]
    if int(classes.max()) >= len(thresholds):
        raise LabelError(f"a pixel is of class {int(classes.max())}, expected 0..{len(thresholds) - 1}")
    levels = np.array([level_of(threshold, steps) for threshold in thresholds], np.uint8)
    keep = (codes >= levels[classes]) & (codes != NO_CONFIDENCE)
    return np.where(keep, classes, np.uint8(IGNORE))


@dataclass(frozen=True, slots=True)
class StoreForm:
    """What a store holds of a pixel."""

    keep: Literal["confidence", "top2"]
    steps: int
    """The confidence's grid is 1 / steps."""
    classes: tuple[str, ...]
    """Names, in the order of the class indices."""

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the planes of a chunk."""
        return _PLANES[self.keep]

    def encode(self, planes: Planes) -> bytes:
        """Compress one image's planes to the content of its chunk.

        Raises:
            LabelError: they are not such planes.
        """
        if planes.ndim != 3 or planes.dtype != np.uint8 or len(planes) != len(self.planes):
            raise LabelError(
                f"kept are {', '.join(self.planes)}: expected uint8 ({len(self.planes)}, height, width), "
                f"got {planes.dtype} {planes.shape}"
            )
        memory = MemoryStore()
        _new_array(memory, self, planes.shape[1:], 1)[0] = planes
        return _content(memory, "c.0.0.0.0")

    def group_metadata(self) -> bytes:
        """Content of the zarr.json that says what the store is."""
        memory = MemoryStore()
        attributes = {
            "format": FORMAT,
            "keep": self.keep,
            "planes": list(self.planes),
            "steps": self.steps,
            "classes": list(self.classes),
            "rule": "confidence code k: the largest k with confidence > k / steps, as float32; 255: no confidence. "
            "A label keeps the class where k >= threshold * steps.",
        }
        zarr.create_group(memory, attributes={"autocoarse": attributes})
        return _content(memory, "zarr.json")

    def array_metadata(self, size: tuple[int, int], capacity: int) -> bytes:
        """Content of the zarr.json of the array of all images of a size (height, width)."""
        memory = MemoryStore()
        _new_array(memory, self, size, capacity)
        return _content(memory, "zarr.json")


def _new_array(memory: MemoryStore, form: StoreForm, size: tuple[int, ...], capacity: int) -> "zarr.Array[Any]":
    chunk = (1, len(form.planes), *size)
    return zarr.create_array(
        memory,
        shape=(capacity, *chunk[1:]),
        chunks=chunk,
        dtype="uint8",
        compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
        fill_value=NO_CONFIDENCE,
        # one folder a size, and no folders below it: twenty thousand images would have sixty thousand
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("image", "plane", "height", "width"),
        attributes={"planes": list(form.planes)},
    )


def _content(memory: MemoryStore, key: str) -> bytes:
    return memory._store_dict[key].to_bytes()  # noqa: SLF001 - its public reading is asynchronous


@dataclass(frozen=True, slots=True)
class SoftStore:
    """A store on the disk: a zarr group with one array for each size of image.

    A chunk is found by its image's size and by its slot, the number that the ledger has given the item.
    """

    root: Path
    form: StoreForm
    _arrays: dict[tuple[int, int], Any] = field(default_factory=dict, compare=False, repr=False)
    """Opened arrays: reading their metadata takes longer than reading a chunk."""

    @classmethod
    def find(cls, root: Path) -> Self | None:
        """The store in a folder; None where there is none.

        Raises:
            ForeignSettingsError: there is one that this version does not read.
        """
        try:
            content = parse_json((root / "zarr.json").read_text("utf-8"))["attributes"]["autocoarse"]
            form = StoreForm(content["keep"], int(content["steps"]), tuple(content["classes"]))
            readable = content["format"] == FORMAT and content["keep"] in _PLANES
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            readable = False
        if not readable:
            raise ForeignSettingsError(
                f"{root / 'zarr.json'} is no store of confidence that this autocoarse reads; "
                f"use the version that made it, or move {root} away and label again"
            )
        return cls(root, form)

    def array_path(self, size: tuple[int, int]) -> Path:
        """Folder of the array of the images of a size (height, width)."""
        return self.root / f"h{size[0]}w{size[1]}"

    def chunk_path(self, slot: int, size: tuple[int, int]) -> Path:
        """File of an image's chunk."""
        return self.array_path(size) / f"c.{slot}.0.0.0"

    def array_sizes(self) -> tuple[tuple[int, int], ...]:
        """The (height, width) of all arrays."""
        names = sorted(path.parent.name for path in self.root.glob("h*w*/zarr.json"))
        return tuple((int(h), int(w)) for h, w in (name[1:].split("w") for name in names))

    def chunk_slot(self, path: Path) -> int | None:
        """The slot of a chunk's file; None where a file is no chunk."""
        parts = path.name.split(".")
        fits = len(parts) == 5 and parts[0] == "c" and parts[2:] == ["0"] * 3 and parts[1].isdecimal()
        return int(parts[1]) if fits else None

    def remove(self, unwanted: Sequence[int]) -> int:
        """Delete the chunks of slots, whatever size of image they are of, and say how many bytes they had.

        Args:
            unwanted: by slot, whether its chunk is to go; a byte each, as there may be millions.
        """
        freed = 0
        for size in self.array_sizes():
            for path in self.array_path(size).iterdir():
                slot = self.chunk_slot(path)
                if slot is not None and slot < len(unwanted) and unwanted[slot]:
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def read(self, slot: int, size: tuple[int, int]) -> Planes:
        """Read one image's planes.

        Raises:
            LabelError: the chunk is missing or damaged.
        """
        path = self.chunk_path(slot, size)
        if not path.is_file():  # zarr would give its fill value
            raise LabelError(f"{path}: no confidence is kept for this image; label it again with --keep")
        try:
            if size not in self._arrays:
                store = LocalStore(self.array_path(size), read_only=True)
                self._arrays[size] = zarr.open_array(store, mode="r")
            planes = np.asarray(self._arrays[size][slot])
        except Exception as error:  # each codec has errors of its own
            raise LabelError(f"{path}: cannot be read, the kept confidence is damaged: {error}") from error
        if planes.dtype != np.uint8 or planes.shape != (len(self.form.planes), *size):
            raise LabelError(
                f"{path}: holds {planes.dtype} {planes.shape}, expected uint8 {(len(self.form.planes), *size)}"
            )
        return planes
