"""A scale-attention head on the logits of a frozen teacher, and its file.

How the attention is used is in `teacher.fusion`; how a head is trained, in `pipeline.head_fitting`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from storage.errors import CheckpointError, MissingFileError, SettingsError, ShapeError
from storage.schema import MAX_CLASSES
from storage.workspace import write_atomically
from teacher.networks.layers import convolution
from teacher.weights import load_strictly, state_digest

FORMAT = "autocoarse scale head"
VERSION = 1

DEFAULT_CHANNELS = 32
MAX_CHANNELS = 512
REACH = 4
"""So far around a pixel a head looks, in pixels of the logits."""
MAX_BYTES = 256 * 2**20
"""Largest file that is read: a head of `MAX_CHANNELS` takes 25 MB, the rest is what it says of a great many images."""

_MEASURES = 4
"""Maps beside the probabilities."""
_FULL_LEAD = 10.0
"""Of the first class over the second, in logits: what is ahead by more than this is taken to be as far ahead."""
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """What a head was trained on, and for."""

    teacher_digest: str
    """Of the frozen teacher; the head is of no use to another."""
    schema_digest: str
    """Of its classes."""
    scales: tuple[float, ...]
    """Ascending; the head may be used at others."""
    images: Mapping[str, str]
    """sha256 of each image file that it was trained on -> key."""
    notes: Mapping[str, Any]
    """How it came about: plain values."""


class ScaleHead(nn.Module):
    """From the logits of one scale to how far they are to be trusted against those of the larger ones.

    The same for all scales, and for images of any size. It sees the classes' probabilities, the top one, its lead over
    the second, as a probability and in logits, and the entropy; and of these what lies around, up to `REACH` pixels of
    the teacher's own stride. There is no batch norm: what it sees is within [0, 1] whatever the teacher is, and a head
    that is trained on few images does the same in training and in use.

    Args:
        inputs: channels of the logits, from 2 to 256.
        channels: in between.

    Raises:
        SettingsError: either is out of range.

    Source: arXiv:2005.10821, section 3.1, whose head is on features: three convolutions and a sigmoid.
    """

    def __init__(self, inputs: int, channels: int = DEFAULT_CHANNELS) -> None:
        super().__init__()
        if not (2 <= inputs <= MAX_CLASSES + 1 and 1 <= channels <= MAX_CHANNELS):
            raise SettingsError(
                f"a scale head of {inputs} inputs and {channels} channels was asked for: expected 2 to "
                f"{MAX_CLASSES + 1} inputs and 1 to {MAX_CHANNELS} channels"
            )
        self.inputs = inputs
        self.channels = channels
        self.record: HeadRecord | None = None
        """What it was trained on; None: it was not."""
        self.conv0 = convolution(inputs + _MEASURES, channels, 3, bias=True)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        self.conv2 = convolution(channels, channels, 3, bias=True)
        self.conv3 = convolution(channels + inputs + _MEASURES, 1, 1, bias=True)
        self.relu = nn.ReLU(inplace=True)
        for layer in (self.conv0, self.conv1, self.conv2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        # it starts at an equal share everywhere
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)  # type: ignore[arg-type] # it has one

    def forward(self, logits: Tensor, larger: int = 1) -> Tensor:
        """Weigh one scale.

        Args:
            logits: (batch, inputs, h, w), float, at the teacher's own stride; -inf is a class that cannot be.
            larger: how many scales it is weighed against, which are one by then. What the head learns is by how much
                more than an equal share a scale counts, so that it starts at the average of however many there are.

        Returns:
            Weight of this scale against the larger ones, (batch, 1, h, w), float32 in [0, 1].

        Raises:
            ShapeError: the logits are of another number of classes.
        """
        if logits.ndim != 4 or logits.shape[1] != self.inputs:
            raise ShapeError(f"logits are {tuple(logits.shape)}, this scale head takes (batch, {self.inputs}, h, w)")
        seen = _seen(logits)
        x = self.relu(self.conv0(seen))
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        # what is there is also seen past the layers: how far a class is to be trusted is learned in a few steps
        return torch.sigmoid(self.conv3(torch.cat([x, seen], dim=1)).float() - math.log(larger))

    @property
    def digest(self) -> str:
        """Hash of all that decides its weights of scales; hexadecimal sha256."""
        content = [FORMAT, VERSION, self.inputs, self.channels, state_digest(self.state_dict())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def teacher_digest(self) -> str | None:
        """Of the teacher whose logits it was trained on; None: it was not trained."""
        return None if self.record is None else self.record.teacher_digest

    @property
    def trained_on(self) -> dict[str, str]:
        """The images that it was trained on, sha256 of the file -> key."""
        return {} if self.record is None else dict(self.record.images)


def _seen(logits: Tensor) -> Tensor:
    """What the head sees of logits (batch, class, h, w): (batch, class + 4, h, w) float32 in [0, 1]."""
    shares = logits.float().softmax(dim=1)
    top = shares.topk(2, dim=1).values
    first, second = top[:, :1], top[:, 1:]
    lead = (first / second.clamp(min=1e-30)).log().clamp(max=_FULL_LEAD) / _FULL_LEAD
    entropy = torch.special.entr(shares).sum(dim=1, keepdim=True) / math.log(logits.shape[1])
    return torch.cat([shares, first, first - second, lead, entropy], dim=1)


def save_head(path: Path, head: ScaleHead, record: HeadRecord) -> None:
    """Write a head, whole or not at all; the same head and record give the same bytes.

    Args:
        path: a `.safetensors` file; its folder exists.
        head: the head.
        record: what it was trained on.

    Raises:
        SettingsError: the record's notes are not plain values.
        WorkspaceError: the file cannot be written.
    """
    content = {"format": FORMAT, "version": VERSION, "inputs": head.inputs, "channels": head.channels}
    try:
        said = json.dumps(content | {"record": asdict(record)}, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{path}: the record's notes may hold plain values only: {error}") from error
    weights = {name: value.detach().float().cpu().contiguous() for name, value in head.state_dict().items()}
    # one entry: several would come in any order
    write_atomically(path, safetensors.torch.save(weights, metadata={"autocoarse": said}))


def load_head(path: Path) -> ScaleHead:
    """Read and check a head that `save_head` wrote; nothing in the file is run.

    Args:
        path: the file.

    Returns:
        The head on the CPU, ready to be used, with its record.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no such file, of a newer version, damaged, or does not hold what it says.
    """
    if not path.is_file():
        raise MissingFileError(f"no scale head at {path}; check the path, or make one with `autocoarse fit-attention`")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise CheckpointError(f"{path}: has {size} bytes, a scale head has at most {MAX_BYTES}: it is something else")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = _said(file.metadata(), path)
            head = _unfilled(said, path)
            _check_entries({name: file.get_slice(name) for name in file.keys()}, head, path)  # noqa: SIM118 - no dict
            weights = {name: file.get_tensor(name) for name in head.state_dict()}
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as safetensors ({error}); copy it again, or fit it anew"
        ) from error
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise CheckpointError(f"{path}: holds weights that are no numbers; it is damaged, fit it anew")
    load_strictly(head, weights, str(path))
    head.record = _record(said.get("record"), path)
    return head.eval().requires_grad_(requires_grad=False)


def _said(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    """What the file says of itself, of which nothing but form and version is checked."""
    try:
        said = json.loads((metadata or {}).get("autocoarse", "null"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no scale head of autocoarse; `autocoarse fit-attention` makes them")
    if said.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: is a scale head of version {said.get('version')!r}, expected {VERSION}; update autocoarse"
        )
    return said


def _unfilled(said: Mapping[str, Any], path: Path) -> ScaleHead:
    inputs, channels = said.get("inputs"), said.get("channels")
    if type(inputs) is not int or type(channels) is not int:
        raise CheckpointError(f"{path}: says neither how many inputs it has nor how many channels; it is damaged")
    try:
        return ScaleHead(inputs, channels)
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error}; it is damaged") from error


def _check_entries(entries: Mapping[str, Any], head: ScaleHead, path: Path) -> None:
    """Refuse tensors other than the head's before any is read."""
    expected = {name: (list(value.shape), "F32") for name, value in head.state_dict().items()}
    found = {name: (entry.get_shape(), entry.get_dtype()) for name, entry in entries.items()}
    if found != expected:
        differing = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{path}: does not hold the head that it says it does; {', '.join(differing[:4])} are missing, of another "
            f"shape, or no part of it: it is damaged"
        )


def _record(value: object, path: Path) -> HeadRecord:
    """Check what a head was trained on."""
    found = value if isinstance(value, dict) else {}
    digests = [found.get("teacher_digest"), found.get("schema_digest")]
    scales, images, notes = found.get("scales"), found.get("images"), found.get("notes")
    if not (
        all(_is_digest(digest) for digest in digests)
        and isinstance(scales, list)
        and all(type(s) in (int, float) and math.isfinite(s) and s > 0 for s in scales)
        and isinstance(images, dict)
        and all(_is_digest(digest) and isinstance(key, str) for digest, key in images.items())
        and isinstance(notes, dict)
    ):
        raise CheckpointError(f"{path}: what it says of its training cannot be used; it is damaged, fit it anew")
    return HeadRecord(str(digests[0]), str(digests[1]), tuple(map(float, scales)), images, notes)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) >= 16 and set(value) <= _HEX
