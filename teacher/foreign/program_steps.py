"""The steps of an exported program: each an operator that is allowed, with plain arguments.

Parts that torch wraps, for another precision or without gradients, become steps like all others.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from storage.errors import CheckpointError
from teacher.foreign.operators import is_allowed, trains
from teacher.foreign.program_values import Name, argument, results

_NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le", "gt", "ge")
} | {
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_not": operator.not_,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "math.trunc": int,
}
"""Operators on sizes, which are plain numbers when a program is run."""
_WRAPPERS = {"torch.ops.higher_order.wrap_with_set_grad_enabled": 1, "torch.ops.higher_order.wrap_with_autocast": 4}
"""What wraps a part of a program, and how many arguments stand before the part: whether gradients are on; device, type,
whether it is on, and whether it keeps weights, of autocast."""
_ASSERTED = "_assert_tensor_metadata"
"""Says of which type and on which device a tensor was at the export; left out, as neither has to be the same."""


@dataclass(frozen=True, slots=True)
class Autocast:
    """The precision that a part of a program asks for by itself."""

    enabled: bool
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a program."""

    function: Callable[..., Any]
    by_name: Mapping[str, Any]
    in_order: tuple[Any, ...]
    """Arguments: those of ATen's operators by name, those of operators on numbers in order."""
    results: Any
    """What its results are called, as `program_values.results` gives it."""
    autocast: Autocast | None = None
    """None: the precision that is asked for."""


def read_steps(nodes: list[Any], where: str, prefix: str = "", autocast: Autocast | None = None) -> list[Step]:
    """Read the steps of a program, or of a part of one.

    Args:
        nodes: as the program's text has them.
        where: the file, for messages.
        prefix: before the names of all values, so that those of parts differ.
        autocast: the precision that is asked for around the part.

    Raises:
        CheckpointError: an operator is not allowed, or is in training mode.
        ValueError, KeyError, TypeError: they are no steps.
    """
    steps: list[Step] = []
    for node in nodes:
        target, inputs = str(node["target"]), node["inputs"]
        if target in _WRAPPERS:
            part = f"{prefix}{len(steps)}/"
            steps += _part(node, where, prefix, part, autocast)
            continue
        names = _named(results(node["outputs"]), prefix)
        if target in _NUMBERS:
            numbers = tuple(_inside(argument(given["arg"]), prefix) for given in inputs)
            steps.append(Step(_NUMBERS[target], {}, numbers, names, autocast))
            continue
        match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
        if match is None or not is_allowed(match[1]):
            raise CheckpointError(
                f"{where} uses {target[:100]!r}, which is not among the operators that a program from a file may use; "
                f"export the network without it (run_decompositions may take it apart), or use --teacher python:..."
            )
        if match[1] == _ASSERTED:
            continue
        by_name = {str(given["name"]): _inside(argument(given["arg"]), prefix) for given in inputs}
        if trains(by_name):
            raise CheckpointError(
                f"{where} was exported in training mode: its {match[1]} still learns, or drops at random; export it "
                f"after .eval()"
            )
        steps.append(Step(getattr(getattr(torch.ops.aten, match[1]), match[2]), by_name, (), names, autocast))
    return steps


def _part(node: dict[str, Any], where: str, outside: str, inside: str, autocast: Autocast | None) -> list[Step]:
    before = _WRAPPERS[node["target"]]
    unions = [given["arg"] for given in node["inputs"]]
    graph = unions[before]["as_graph"]["graph"]
    if before > 1:
        autocast = Autocast(argument(unions[2]) is True, argument(unions[1]))
    taken = [_inside(argument(union), outside) for union in unions[before + 1 :]]
    inner = [_inside(argument(union), inside) for union in graph["inputs"]]
    given = [_inside(argument(union), inside) for union in graph["outputs"]]
    names = _named(results(node["outputs"]), outside)
    names = names if isinstance(names, list) else [names]
    if len(taken) != len(inner) or len(given) != len(names) or not all(isinstance(each, Name) for each in inner):
        raise ValueError("a part of the program takes or gives other values than it is said to")
    return [
        *(_same(value, name.text) for value, name in zip(taken, inner, strict=True)),
        *read_steps(graph["nodes"], where, inside, autocast),
        *(_same(value, name) for value, name in zip(given, names, strict=True) if name is not None),
    ]


def _same(value: Any, name: str) -> Step:  # noqa: ANN401 - any argument
    """A step that gives a value another name."""
    return Step(_identity, {}, (value,), name)


def _identity(value: Any) -> Any:  # noqa: ANN401
    return value


def _inside(value: Any, prefix: str) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_inside(each, prefix) for each in value]
    return Name(prefix + value.text) if isinstance(value, Name) else value


def _named(names: Any, prefix: str) -> Any:  # noqa: ANN401
    if isinstance(names, list):
        return [_named(name, prefix) for name in names]
    return None if names is None else prefix + names
