"""Running the steps of an exported program, one after another, on a device.

Nothing is compiled: each step calls torch's own operator, as torch does for a network in Python.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from storage.errors import CheckpointError, ImageError
from teacher.foreign.arithmetic import in_precision
from teacher.foreign.program_file import Program
from teacher.foreign.program_steps import Step
from teacher.foreign.program_values import Name, OwnDevice
from teacher.precision import Precision


class ProgramRun:
    """A program as it is run; satisfies `teacher.foreign.file_model.Run`.

    Args:
        program: that is run.
        where: the file, for messages.
        device: on which, wherever it was exported.
        precision: of convolutions and products, by autocast.
    """

    def __init__(self, program: Program, where: str, device: torch.device, precision: Precision) -> None:
        self._program, self._where, self._device = program, where, device
        self._precision = precision
        self._tensors = {name: tensor.to(device) for name, tensor in program.tensors.items()}
        self._last_uses = _last_uses(program)
        self.weight_bytes = sum(tensor.nbytes for tensor in self._tensors.values())

    def __call__(self, images: Tensor, /) -> Tensor:
        """As `Run`.

        Raises:
            ImageError: the program was exported for images of other sizes.
        """
        for guard in self._program.guards:
            if not guard.holds(images.shape):
                raise ImageError(
                    f"{self._where} does not hold for images of {images.shape[-1]}x{images.shape[-2]} pixels: it was "
                    f"exported for those where {guard.text[:200]}; leave the image or the scale out"
                )
        values: dict[str, Any] = dict(self._tensors)
        values[self._program.image] = images.to(self._program.image_type)
        with in_precision(self._device, self._precision):
            for step, over in zip(self._program.steps, self._last_uses, strict=True):
                self._take(step, values)
                for name in over:
                    values.pop(name, None)
        made = values.get(self._program.output)
        if not isinstance(made, Tensor):
            raise CheckpointError(f"{self._where} gives no tensor, expected scores; it is damaged")
        return made

    def _take(self, step: Step, values: dict[str, Any]) -> None:
        try:
            by_name = {name: self._filled(value, values) for name, value in step.by_name.items()}
            in_order = [self._filled(value, values) for value in step.in_order]
            if step.autocast is None:
                made = step.function(*in_order, **by_name)
            else:
                with torch.autocast(self._device.type, step.autocast.dtype, enabled=step.autocast.enabled):
                    made = step.function(*in_order, **by_name)
        except (KeyError, TypeError, ArithmeticError, IndexError, ValueError) as error:
            raise CheckpointError(
                f"{self._where}: its step {step.function} cannot be run ({type(error).__name__}: {str(error)[:200]}); "
                f"it is damaged"
            ) from error
        _name(step.results, made, values)

    def _filled(self, value: Any, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any argument
        if isinstance(value, Name):
            return values[value.text]
        if isinstance(value, OwnDevice):
            return self._device
        return [self._filled(each, values) for each in value] if isinstance(value, list) else value


def _name(names: Any, made: Any, values: dict[str, Any]) -> None:  # noqa: ANN401 - as operators give them
    if isinstance(names, str):
        values[names] = made
    elif isinstance(names, list) and isinstance(made, Sequence):
        for name, each in zip(names, made, strict=False):
            _name(name, each, values)


def _last_uses(program: Program) -> list[list[str]]:
    """For each step the values that nobody needs after it, so that their memory is free."""
    last: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for name in (*_names_in(list(step.by_name.values())), *_names_in(list(step.in_order)), *_texts(step.results)):
            last[name] = index
    over: list[list[str]] = [[] for _ in program.steps]
    for name, index in last.items():
        if name != program.output:
            over[index].append(name)
    return over


def _names_in(values: list[Any]) -> list[str]:
    found: list[str] = []
    for value in values:
        if isinstance(value, Name):
            found.append(value.text)
        elif isinstance(value, list):
            found += _names_in(value)
    return found


def _texts(names: Any) -> list[str]:  # noqa: ANN401 - as operators give them
    if isinstance(names, list):
        return [text for name in names for text in _texts(name)]
    return [names] if isinstance(names, str) else []
