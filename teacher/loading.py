"""Teachers by what they are called.

That is a checkpoint of autocoarse, a network's name with a file of public weights, a network of another library, or a
description of one or several of these.
"""

from itertools import chain
from pathlib import Path

import torch
from torch import nn

from storage.errors import MissingFileError, SettingsError
from storage.schema import ClassSchema, load_schema
from teacher.checkpoint import checkpoint_of, is_own
from teacher.device import find_device
from teacher.inference import Teacher
from teacher.networks.registry import NetworkSpec, build_network, default_spec, network_names
from teacher.precision import Precision
from teacher.references import FORMS, Reference
from teacher.weights import StateDict, load_strictly, read_content, state_dict_of

_OTHERS = {".onnx": "onnx", ".pt2": "exported", ".ts": "exported"}
"""Endings of files of other libraries, and their kinds."""


def load_teacher(
    name_or_checkpoint: str | Path,
    weights: str | Path | None = None,
    *,
    schema: ClassSchema | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    compiled: bool = False,
) -> Teacher:
    """Make a teacher.

    Args:
        name_or_checkpoint: the path of a checkpoint, which carries its network, classes and normalisation; "hrnet-ocr";
            a reference to a network of another library, as in `teacher.references.FORMS`; or the path of a description
            (`teacher.description`), which ends in .toml.
        weights: file of the named network's weights.
        schema: what the classes are: with a checkpoint, what they are expected to be; with a name, Cityscapes if left
            out; of a network of another library, what its labels are to become, and its labels themselves if left out.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: of the network.
        compiled: have torch compile the network.

    Raises:
        MissingFileError: neither a network nor a file, or the weights are missing.
        CheckpointError: the file is damaged or does not fit.
        SettingsError: what was asked for contradicts itself.
    """
    find_device(device)  # refuses before the weights are read, which takes long
    name = str(name_or_checkpoint)
    if name in network_names():
        return _named_teacher(name, weights, schema, device, precision, compiled=compiled)
    path, reference = Path(name_or_checkpoint), Reference.parse(name)
    if reference is not None or path.suffix == ".toml":
        from teacher.foreign.loading import Wish, load_described, load_foreign

        if weights is not None:
            raise SettingsError(f"weights belong to a network's name, and {name} has its own: leave them out")
        wish = Wish(load_teacher, schema, device, precision, compiled)
        return load_foreign(reference, wish) if reference is not None else load_described(path, wish)
    refuse_others(path)
    return _own_teacher(path, weights, schema, device, precision, compiled=compiled)


def refuse_others(path: Path) -> None:
    """See that a path may be that of a checkpoint, by its name and by what is there.

    Raises:
        MissingFileError: there is nothing.
        SettingsError: it is a folder, or the file of another library; the message says how that is called.
    """
    if not path.exists():
        raise MissingFileError(
            f"no teacher {str(path)!r}: there is no {path.absolute()}; expected the path of a checkpoint, or one of "
            f"{', '.join(network_names())}, or a teacher of another library: {FORMS}"
        )
    if path.is_dir() or path.suffix in _OTHERS:
        raise SettingsError(
            f"{path} is no checkpoint of autocoarse; a teacher of another library is called by its kind, such as "
            f"{_OTHERS.get(path.suffix, 'hf')}:{path}; expected one of {FORMS}"
        )


def network_with(spec: NetworkSpec, state_dict: StateDict, where: str) -> nn.Module:
    """Build a network around weights, without start values: that would take as long, and as much memory, again.

    Args:
        spec: what to build.
        state_dict: its weights; they become the network's own and are taken out, so that nobody else keeps them.
        where: where they come from, for messages.

    Raises:
        CheckpointError: the weights do not fit.
        SettingsError: as `build_network`.
    """
    with torch.device("meta"):
        network = build_network(spec)
    load_strictly(network, state_dict, where, assign=True)
    if any(tensor.is_meta for tensor in chain(network.parameters(), network.buffers())):
        # an encoder with something that it computes once and does not save
        network = build_network(spec)
        load_strictly(network, state_dict, where)
    state_dict.clear()
    return network


def _own_teacher(
    path: Path,
    weights: str | Path | None,
    schema: ClassSchema | None,
    device: str,
    precision: Precision,
    *,
    compiled: bool,
) -> Teacher:
    if weights is not None:
        raise SettingsError(f"{path} is a checkpoint with weights of its own, got {weights} besides: leave one out")
    checkpoint = checkpoint_of(read_content(path), path)
    if schema is not None and schema.digest != checkpoint.schema.digest:
        raise SettingsError(
            f"{path} was trained on other classes than were asked for: it has {_short(checkpoint.schema)}, "
            f"asked for were {_short(schema)}; leave out the schema, or take a teacher of that schema"
        )
    network = network_with(checkpoint.spec, checkpoint.state_dict, str(path))
    images = checkpoint.record.get("images")
    return Teacher.of_network(
        network, checkpoint.spec, checkpoint.schema, device, precision, images, compiled=compiled, take_over=True
    )


def _named_teacher(
    name: str,
    weights: str | Path | None,
    schema: ClassSchema | None,
    device: str,
    precision: Precision,
    *,
    compiled: bool,
) -> Teacher:
    if name != "hrnet-ocr":
        raise SettingsError(
            f"there are no public weights for {name}: train a teacher and give its checkpoint instead of the name"
        )
    if weights is None:
        raise SettingsError(f"{name} needs a file of weights (autocoarse fetches none), got no weights")
    schema = schema or load_schema("cityscapes")
    spec = default_spec("hrnet-ocr", len(schema))
    network = network_with(spec, _public_weights(name, Path(weights)), str(weights))
    return Teacher.of_network(network, spec, schema, device, precision, compiled=compiled, take_over=True)


def _public_weights(name: str, path: Path) -> StateDict:
    content = read_content(path)
    if is_own(content):
        raise SettingsError(
            f"{path} is a checkpoint of autocoarse and says itself what it is: give it instead of the name {name}"
        )
    return state_dict_of(content, path)


def _short(schema: ClassSchema) -> str:
    shown = ", ".join(schema.names[:6]) + (", ..." if len(schema) > 6 else "")
    return f"{schema.name!r} ({len(schema)}: {shown})"
