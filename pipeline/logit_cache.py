"""What a frozen teacher says of images at each scale, kept on disk: each image is predicted once, whatever happens.

One safetensors file an image: the logits of each scale at the teacher's own stride, float16, and the truth. Only the
part that is needed is read.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.settings import settings_difference
from storage.atomic_file import as_ours
from storage.errors import DiskFullError, ForeignSettingsError, WorkspaceError
from storage.json_text import parse_json
from storage.label_map import LabelMap
from storage.workspace import remove_partial_files, write_atomically
from teacher.fusion import ScaledPrediction

FLOOR = -1e4
"""What is below a pixel's highest logit by more than this is kept as this: such a class cannot be, and float16 ends."""

Window = tuple[slice, slice]
"""Rows and columns."""


@dataclass(frozen=True, slots=True)
class KeptImage:
    """One image's file: what the teacher says of it, and the truth."""

    path: Path

    def logits(self, number: int, window: Window | None = None) -> Tensor:
        """Logits of a scale, or of a part of them, less each pixel's highest, which changes no fusion.

        Args:
            number: of the scale, 0 for the largest.
            window: the part; None: all.

        Returns:
            (1, class, h, w) float32.
        """
        return self._part(str(number), window).float().unsqueeze(0)

    def truth(self, window: Window | None = None) -> Tensor:
        """The label, or a part of it, (height, width) uint8."""
        return self._part("truth", window)

    def size(self, number: int | None = None) -> tuple[int, int]:
        """(h, w) of a scale's logits; None: (height, width) of the image."""
        with safetensors.safe_open(self.path, framework="pt") as file:
            *_, height, width = file.get_slice("truth" if number is None else str(number)).get_shape()
        return height, width

    @property
    def classes(self) -> int:
        """Of the logits."""
        with safetensors.safe_open(self.path, framework="pt") as file:
            return int(file.get_slice("0").get_shape()[0])

    def _part(self, name: str, window: Window | None) -> Tensor:
        with safetensors.safe_open(self.path, framework="pt") as file:
            if window is None:
                found: Tensor = file.get_tensor(name)
            else:
                found = file.get_slice(name)[(..., *window)]
        return found

    def is_whole(self) -> bool:
        """Whether the file is there and can be read."""
        try:
            with safetensors.safe_open(self.path, framework="pt"):
                return True
        except (safetensors.SafetensorError, OSError):
            return False

    def write(self, view: Sequence[ScaledPrediction], truth: LabelMap) -> int:
        """Write the file, whole or not at all.

        Args:
            view: the predictions of this image alone, from the largest scale to the smallest.
            truth: of the image's size.

        Returns:
            Bytes of the file.

        Raises:
            WorkspaceError: it cannot be written.
        """
        entries = {"truth": torch.from_numpy(truth.values.copy())}
        for number, prediction in enumerate(view):
            logits = prediction.logits[0].float()
            below = (logits - logits.amax(dim=0)).clamp(min=FLOOR)
            entries[str(number)] = below.half().cpu().contiguous()
        content = safetensors.torch.save(entries)
        write_atomically(self.path, content)
        return len(content)


@dataclass(frozen=True, slots=True)
class LogitCache:
    """A folder of such files, all made by one teacher at the same scales."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, question: Mapping[str, Any]) -> "LogitCache":
        """Take a folder into use, or go on with it.

        Args:
            folder: made where there is none.
            question: what decides its content, plain values.

        Raises:
            ForeignSettingsError: it holds the answers to another question.
            WorkspaceError: it cannot be used.
        """
        file = folder / "question.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial_files(folder)
            before = parse_json(file.read_bytes()) if file.exists() else None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise as_ours(f"cannot use {folder}", error) from error
            raise WorkspaceError(f"{file} is damaged; remove {folder}") from error
        now = json.loads(json.dumps(question))
        if before is None:
            write_atomically(file, json.dumps(now, indent=1).encode())
        elif before != now:
            raise ForeignSettingsError(
                f"{folder} holds logits that were made otherwise:\n{settings_difference(before, now)}\nchoose another "
                f"--out, or remove {folder}"
            )
        return cls(folder)

    def image(self, number: int) -> KeptImage:
        """The file of an image, which may not be there yet."""
        return KeptImage(self.folder / f"{number:06}.safetensors")

    def done(self, count: int) -> list[int]:
        """Which of so many images are there, whole."""
        return [number for number in range(count) if self.image(number).is_whole()]

    def require_room(self, needed: int) -> None:
        """Refuse to begin what the disk has no room for.

        Args:
            needed: bytes that are still to be written.

        Raises:
            DiskFullError: it has less.
        """
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DiskFullError(
                f"the logits of the images still to be predicted take about {needed / 1e9:.3g} GB in {self.folder}, "
                f"and {free / 1e9:.3g} GB are free: free some space, take fewer images with --max-images, or leave out "
                f"the largest scale; the same command goes on"
            )

    def remove(self) -> None:
        """Throw the folder away."""
        with suppress(OSError):
            shutil.rmtree(self.folder)
