"""Values in the text form of an exported program: arguments of operators, tensors of weights.

The text is data to us: it names operators, values and numbers, and nothing in it is evaluated.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from storage.errors import CheckpointError
from teacher.foreign.archive import Archive

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""By their number in the text form."""
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_STRIDED = 7
_NO_NUMBERS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
"""Floats that JSON has not, as torch writes them."""
_PLAIN = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
_LISTS = {"as_ints": int, "as_floats": float, "as_bools": bool, "as_strings": str}
_SYMBOLIC = ("as_sym_int", "as_sym_float", "as_sym_bool")
_SYMBOLIC_LISTS = ("as_sym_ints", "as_sym_floats", "as_sym_bools")
_TENSOR_LISTS = ("as_tensors", "as_optional_tensors")
_OPTIONAL = ("as_optional_tensor",)


@dataclass(frozen=True, slots=True)
class Name:
    """A value that an earlier step, or the image, gives."""

    text: str


class OwnDevice:
    """Stands for a device in a program: it is run on that of the teacher, wherever it was exported."""


def only(union: Any) -> tuple[str, Any]:  # noqa: ANN401 - parsed JSON
    """Kind and content of a value of several kinds.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(union, dict) or len(union) != 1:
        raise ValueError(f"a value is {str(union)[:80]}")
    return next(iter(union.items()))


def argument(union: Any) -> Any:  # noqa: ANN401 - parsed JSON in, any argument out
    """An operator's argument: a plain value, a `Name`, an `OwnDevice`, or a list of such.

    Raises:
        ValueError: it is of a kind that no network needs, as a graph or an object.
    """
    kind, content = only(union)
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return _float(content) if kind == "as_float" else _typed(content, _PLAIN[kind])
    if kind in _LISTS:
        return [_float(each) if kind == "as_floats" else _typed(each, _LISTS[kind]) for each in _typed(content, list)]
    if kind == "as_tensor":
        return Name(_typed(content["name"], str))
    if kind in _SYMBOLIC:
        return _symbolic(content)
    if kind in _SYMBOLIC_LISTS:
        return [_symbolic(each) for each in _typed(content, list)]
    if kind in _OPTIONAL:
        return argument(content)
    if kind in _TENSOR_LISTS:
        return [Name(_typed(each["name"], str)) if "name" in each else argument(each) for each in _typed(content, list)]
    return _of_torch(kind, content)


def _of_torch(kind: str, content: Any) -> Any:  # noqa: ANN401
    if kind == "as_scalar_type":
        return DTYPES[content]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[content]
    if kind == "as_layout" and content == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return OwnDevice()
    raise ValueError(f"an argument is of the kind {kind[:80]}")


def results(unions: Any) -> Any:  # noqa: ANN401
    """What an operator's results are called: a text, None, or a list of these, as the operator gives them.

    Raises:
        ValueError: they are no tensors and numbers.
    """
    made = [_result(union) for union in _typed(unions, list)]
    return made[0] if len(made) == 1 else made


def _result(union: Any) -> Any:  # noqa: ANN401
    kind, _ = only(union)
    if kind not in ("as_none", "as_tensor", *_SYMBOLIC, *_TENSOR_LISTS):
        raise ValueError(f"a result is of the kind {kind[:80]}")
    value = argument(union)
    if isinstance(value, list):
        return [each.text if isinstance(each, Name) else None for each in value]
    return value.text if isinstance(value, Name) else None


def _symbolic(content: Any) -> Any:  # noqa: ANN401
    kind, value = only(content)
    if kind == "as_name":
        return Name(_typed(value, str))
    return _float(value) if kind == "as_float" else _typed(value, {"as_int": int, "as_bool": bool}[kind])


def _float(value: Any) -> float:  # noqa: ANN401
    """A float, which JSON may have as 1, or as a text where it is no number."""
    if isinstance(value, str) and value in _NO_NUMBERS:
        return _NO_NUMBERS[value]
    return float(value) if type(value) is int else float(_typed(value, float))


def _typed(value: Any, kind: type) -> Any:  # noqa: ANN401
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {str(value)[:80]}")
    return value


def read_tensors(archive: Archive, config: Mapping[str, Any], folder: str) -> dict[str, Tensor]:
    """Read weights from their bytes.

    Args:
        archive: that holds them.
        config: the text that describes them, by their names.
        folder: of the archive, in which they are.

    Raises:
        CheckpointError: they are pickled, are not the bytes they are said to be, or were written on a machine that
            orders bytes the other way.
    """
    where = str(archive.path)
    if "byteorder" in archive and archive.read_text("byteorder") != sys.byteorder:
        raise CheckpointError(f"{where} was written on a machine that orders bytes the other way: export it here")
    stores: dict[tuple[str, torch.dtype], Tensor] = {}
    made: dict[str, Tensor] = {}
    for name, entry in config.items():
        if entry.get("use_pickle") is not False:
            raise CheckpointError(
                f"{where}: {name[:100]!r} is a Python object and no plain tensor. Objects are not read, as reading "
                f"them runs code; export the network with plain tensors"
            )
        meta = entry["tensor_meta"]
        dtype, member = DTYPES[meta["dtype"]], folder + _typed(entry["path_name"], str)
        store = stores.get((member, dtype))
        if store is None:
            content = archive.read(member)
            if len(content) % dtype.itemsize:
                raise CheckpointError(f"{where}: {name[:100]!r} has {len(content)} bytes, no whole number of {dtype}")
            store = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
            stores[member, dtype] = store
        sizes, strides = ([_typed(only(each)[1], int) for each in meta[key]] for key in ("sizes", "strides"))
        if min(sizes, default=0) < 0 or math.prod(sizes) > len(store):
            raise CheckpointError(
                f"{where}: {name[:100]!r} is {sizes}, more than its {len(store)} numbers; it is damaged"
            )
        made[name] = store.as_strided(sizes, strides, _typed(only(meta["storage_offset"])[1], int))
    return made
