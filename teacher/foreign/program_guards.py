"""Conditions on the images' sizes under which an exported program holds, as its file says them.

They are written as Python, and are not run as such: a condition is arithmetic on the sizes, or is not understood.
"""

import ast
import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

_MAX_TEXT = 4096
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
}
_BATCH = 0


class Guard:
    """One condition.

    Args:
        text: such as "(L['images'].size()[2] - 1) // 2 != 1".

    Raises:
        ValueError: it is not understood.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _MAX_TEXT:
            raise ValueError("it is too long")
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
            self._axes: set[int] = set()
            self._value(self._tree, (2, 3, 64, 64))  # finds what is not understood
        except (SyntaxError, RecursionError, MemoryError, ArithmeticError, TypeError) as error:
            raise ValueError(str(error)) from error

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether it holds for images (batch, 3, height, width).

        What it says of the batch is left out: torch tells a batch of one from others where no operator does.
        """
        if _BATCH in self._axes:
            return True
        try:
            return bool(self._value(self._tree, shape))
        except ArithmeticError:
            return False

    def _value(self, node: ast.AST, shape: Sequence[int]) -> Any:  # noqa: ANN401 - numbers and truth
        match node:
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, shape)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, shape)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _ARITHMETIC[type(op)](self._value(left, shape), self._value(right, shape))
            case ast.BoolOp(op=op, values=values):
                parts = [bool(self._value(value, shape)) for value in values]
                return all(parts) if isinstance(op, ast.And) else any(parts)
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
                terms = [self._value(term, shape) for term in (left, *others)]
                return all(_COMPARISONS[type(op)](*pair) for op, pair in zip(ops, pairwise(terms), strict=True))
            case ast.Call(func=name, args=terms, keywords=[]) if ast.unparse(name) in _FUNCTIONS:
                return _FUNCTIONS[ast.unparse(name)](*(self._value(term, shape) for term in terms))
            case ast.Subscript(
                value=ast.Call(
                    func=ast.Attribute(value=ast.Subscript(value=ast.Name(id="L")), attr="size"), args=[], keywords=[]
                ),
                slice=ast.Constant(value=int() as axis),
            ) if 0 <= axis < len(shape):
                self._axes.add(axis)
                return shape[axis]
        raise ValueError(f"{ast.unparse(node)[:100]!r} is not understood")
