"""Weights in files: reading them without running code, loading them strictly, hashing them.

Knows no file format of our own (`teacher.checkpoint`) and fetches nothing.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from storage.errors import CheckpointError, MissingFileError

CLASSIFIERS = ("ocr.cls_head.weight", "classifier.weight")
"""The entries whose first axis is the number of classes."""
SHOWN = 10
"""How many entries of a kind a message names."""

StateDict = dict[str, Tensor]

_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    # Public checkpoints hold their mean IoU as a numpy number. The maker of such numbers runs no code of the file's.
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


def read_content(path: Path) -> dict[str, Any]:
    """Read a file of weights on the CPU, as plain values and tensors only.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote.

    Returns:
        The file's content, a dict with text as keys.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, is no checkpoint, or would run code.
    """
    if not path.exists():
        raise MissingFileError(f"no checkpoint at {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals(_NUMPY_SCALARS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no checkpoint fails in any way the parsers can
        # torch's own message gives advice to switch the protection off, before the cause and after it.
        cause = re.search(r"WeightsUnpickler error: (.*?)(?= Please use|$)", str(error), re.MULTILINE)
        reason = cause[1] if cause else f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason or 'it is something else'}). Expected tensors and plain "
            f"values, written by torch.save or as .safetensors. If it was cut short, copy it again; if it holds other "
            f"Python objects, save its state dict alone"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected a dict of named tensors: save its state dict"
        )
    return content


def state_dict_of(content: Mapping[str, Any], path: Path) -> StateDict:
    """Find the weights in a file's content.

    Args:
        content: as `read_content` gives it: own, or with a "state_dict" in it, or a flat state dict.
        path: the file, for the message.

    Returns:
        Tensors by name, without the `module.` that data-parallel wrapping puts before every name.

    Raises:
        CheckpointError: there are no weights in it.
    """
    weights = content.get("state_dict", content)
    foreign = not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
    if foreign or not weights:
        raise CheckpointError(
            f'{path}: no weights found in it. Expected tensors by name, flat or under "state_dict"; '
            f"got {list_some(sorted(content)) or 'nothing'}"
        )
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def read_state_dict(path: Path) -> StateDict:
    """Read the weights from a file: an own checkpoint, the public reference's, or a flat state dict.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is damaged, is no checkpoint, would run code, or holds no weights.
    """
    return state_dict_of(read_content(path), path)


def load_strictly(network: nn.Module, state_dict: StateDict, where: str, *, assign: bool = False) -> None:
    """Load weights into a network; every entry must be there and fit, and none may be left over.

    Args:
        network: takes the weights.
        state_dict: tensors by name.
        where: where they come from, for the message.
        assign: make the tensors themselves its weights, instead of copying their values.

    Raises:
        CheckpointError: entries are missing, unexpected or of another shape; the network is unchanged.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    common = [name for name in expected if name in state_dict]
    misshaped = [name for name in common if state_dict[name].shape != expected[name].shape]
    problems = [
        f"{len(names)} {kind}: {list_some(names)}"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if misshaped:
        shapes = [f"{n} {tuple(state_dict[n].shape)} instead of {tuple(expected[n].shape)}" for n in misshaped]
        problems.append(f"{len(misshaped)} of another shape: {list_some(shapes)}")
    for name in CLASSIFIERS:
        if name in misshaped and state_dict[name].ndim and state_dict[name].shape[1:] == expected[name].shape[1:]:
            got, wanted = state_dict[name].shape[0], expected[name].shape[0]
            problems.insert(0, f"the checkpoint has {got} classes, {wanted} were asked for")
    if problems:
        raise CheckpointError(
            f"{where}: the weights do not fit the network. {'; '.join(problems)}. "
            f"Use the network, encoder and class schema that the checkpoint was made with"
        )
    fitting = {name: value.to(expected[name].dtype) for name, value in state_dict.items()} if assign else state_dict
    network.load_state_dict(fitting, assign=assign)


def list_some(names: Iterable[str]) -> str:
    """The first few names with commas between them, for a message; dots where there are more."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


def state_digest(state_dict: Mapping[str, Tensor]) -> str:
    """Hash weights: sha256 over names in order, with data type, shape and bytes of each.

    Args:
        state_dict: tensors by name, on any device, in any memory layout.

    Returns:
        64 hexadecimal digits; the same for the same values wherever they lie.
    """
    total = hashlib.sha256()
    for name in sorted(state_dict):
        values = state_dict[name].detach().cpu().contiguous()
        total.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
