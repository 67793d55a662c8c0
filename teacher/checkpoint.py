"""Our own checkpoints: a network's weights with all that is needed to use them, written whole or not at all.

Weights in general are the business of `teacher.weights` and `teacher.encoder_weights`.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import CheckpointError, SchemaError, SettingsError
from storage.schema import ClassSchema
from storage.workspace import write_atomically
from teacher.networks.registry import NetworkSpec
from teacher.weights import StateDict, read_content, state_dict_of

FORMAT = "autocoarse checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What an own checkpoint holds."""

    spec: NetworkSpec
    schema: ClassSchema
    state_dict: StateDict
    record: dict[str, Any]
    """How it came about, and what is needed to go on: plain values and tensors."""


def is_own(content: Mapping[str, Any]) -> bool:
    """Whether a file's content is in the form that `save_checkpoint` writes."""
    return isinstance(content.get("format"), str) and content["format"] == FORMAT


def save_checkpoint(
    path: Path, network: nn.Module, spec: NetworkSpec, schema: ClassSchema, record: dict[str, Any]
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: where to; an existing file is replaced. Its folder exists.
        network: built from `spec`.
        spec: what the network is, and how its images are normalised.
        schema: what its classes are.
        record: how it came about; plain values and tensors.

    Raises:
        SettingsError: schema and specification differ in the number of classes, or the record holds other objects.
        WorkspaceError: the file cannot be written; what was there before is still there.
    """
    if len(schema) != spec.num_classes:
        raise SettingsError(f"{path}: schema {schema.name!r} has {len(schema)} classes, the network {spec.num_classes}")
    if not _is_plain(record):
        raise SettingsError(
            f"{path}: the record may hold only None, numbers, text, lists, dicts and tensors, got {record!r}"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "network": spec.to_dict(),
        "schema": schema.to_dict(),
        "state_dict": {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()},
        "record": record,
    }
    file = io.BytesIO()
    torch.save(content, file)
    write_atomically(path, file.getvalue())


def _is_plain(value: object) -> bool:
    """Whether a value can be read back without running code."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(v) for key, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return value is None or type(value) in (bool, int, float, str, Tensor)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check an own checkpoint.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, of a newer version, or not written by `save_checkpoint`.
    """
    return checkpoint_of(read_content(path), path)


def checkpoint_of(content: Mapping[str, Any], path: Path) -> Checkpoint:
    """Check the content of an own checkpoint.

    Args:
        content: as `read_content` gives it.
        path: the file, for the message.

    Raises:
        CheckpointError: as for `load_checkpoint`.
    """
    if not is_own(content):
        raise CheckpointError(
            f"{path}: holds weights but not what network and classes they are for. To use public HRNet-OCR weights, "
            f"name the teacher hrnet-ocr and give this file as its weights"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: is a checkpoint of version {content.get('version')!r}, expected {VERSION}; update autocoarse"
        )
    spec = NetworkSpec.from_dict(content.get("network"), str(path))
    try:
        schema = ClassSchema.from_dict(content.get("schema"), path.stem)
    except SchemaError as error:
        raise CheckpointError(f"{path}: its class schema cannot be used: {error}") from error
    if len(schema) != spec.num_classes:
        raise CheckpointError(
            f"{path}: its schema has {len(schema)} classes, its network {spec.num_classes}; it is damaged"
        )
    record = content.get("record")
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: its record is {type(record).__name__}, expected a dict; it is damaged")
    images = record.get("images", {})
    if not isinstance(images, dict) or not all(isinstance(one, str) for pair in images.items() for one in pair):
        raise CheckpointError(
            f"{path}: its record of the training cannot be used: images is {type(images).__name__}, expected keys by "
            f"the hash of each file; it is damaged"
        )
    return Checkpoint(spec, schema, state_dict_of(content, path), record)
