"""Networks that the user's own code makes, as foreign models.

The code is imported and run because the user names it: nothing of it is checked but what it gives. For files of others
there are `onnx_model` and `exported`.
"""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import AutocoarseError, CheckpointError, SettingsError
from teacher.foreign.arithmetic import in_precision
from teacher.foreign.contract import ModelSettings
from teacher.foreign.file_model import FileModel
from teacher.foreign.image_form import ImageForm, Side
from teacher.foreign.notes import Notes
from teacher.foreign.scores import scores_of
from teacher.weights import state_digest


def open_factory(reference: str, how: ModelSettings) -> FileModel:
    """Make a foreign model by a function of the user's.

    The function is called as FACTORY(device=...), and gives a `nn.Module`, or any other callable, from normalised
    images (batch, 3, height, width), float32, to logits (batch, label, h, w), or to a table with them under "logits" or
    "out".
    A module is put into evaluation mode and on the device. What is made may have `labels`, the names of its outputs.

    The module is looked for where Python looks, and last in the current directory.

    What the model is known by is the source of the module that is named, and the weights if it is a `nn.Module`. Other
    modules that it imports, and weights that a callable keeps elsewhere, are not in it: labels made before a change of
    those are taken for labels of the same teacher.

    Args:
        reference: MODULE:FACTORY, such as "my_networks.segmenter:make".
        how: the precision bf16 or fp16 is that of convolutions and products, by autocast.

    Raises:
        SettingsError: there is no such module or function, or it fails; the message says in which line.
        CheckpointError: what it made gives no scores.
    """
    where = f"python:{reference}"
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise SettingsError(f"{where}: expected python:MODULE:FACTORY, such as python:my_networks:make")
    module = _imported(module_name, where)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = ", ".join(sorted(each for each in vars(module) if not each.startswith("_"))[:20])
        raise SettingsError(f"{where}: {module.__file__} has no function {name!r}; it has {known or 'none'}")
    try:
        made = factory(device=how.device)
    except AutocoarseError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise SettingsError(f"{where} failed in {_line(error, module)}: {_told(error)}") from error
    if not callable(made):
        raise SettingsError(f"{where} gave {type(made).__name__}, expected a nn.Module or another callable")
    source = Path(str(module.__file__))
    content = hashlib.sha256(source.read_bytes())
    content.update(f"\0{name}\0".encode())
    facts = {"made by": f"{name} of {source}", "known by": "the source of its module alone"}
    if isinstance(made, nn.Module):
        made = made.eval().to(how.device)
        content.update(state_digest(_tensors(made)).encode())
        facts["known by"] = "its weights and the source of its module"
    run = _FactoryRun(made, module, where, how)
    notes = Notes(labels=_labels(made, where))
    return FileModel(type(made).__name__, where, content.hexdigest(), run, ImageForm(Side(), Side()), notes, how, facts)


class _FactoryRun:
    """What a factory made, as it is run; satisfies `teacher.foreign.file_model.Run`."""

    def __init__(self, made: Callable[[Tensor], Any], module: ModuleType, where: str, how: ModelSettings) -> None:
        self._made, self._module, self._where, self._how = made, module, where, how
        self.weight_bytes = 0
        if isinstance(made, nn.Module):
            self.weight_bytes = sum(tensor.nbytes for tensor in _tensors(made).values())

    def __call__(self, images: Tensor, /) -> Tensor:
        """As `Run`."""
        try:
            with in_precision(self._how.device, self._how.precision):
                made = self._made(images)
        except (AutocoarseError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever the user's code raises
            raise RuntimeError(f"{self._where} failed in {_line(error, self._module)}: {_told(error)}") from error
        return scores_of(made, self._where)


def _imported(name: str, where: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing that is installed is hidden; and for good, as it may import later
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except Exception as error:  # importing runs it
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{name}.".startswith(f"{error.name}.")
        ):
            raise SettingsError(
                f"{where}: there is no module {error.name!r} where Python looks, nor in {here}: install it, run "
                f"autocoarse in the folder it is in, or name that folder in the variable PYTHONPATH"
            ) from error
        raise SettingsError(f"{where} cannot be imported, {_line(error, None)}: {_told(error)}") from error
    source = getattr(module, "__file__", None)
    if not source or not Path(source).is_file():
        raise SettingsError(f"{where}: {name!r} is no module with a source of its own; name the one the function is in")
    return module


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def _labels(made: object, where: str) -> tuple[str, ...] | None:
    labels = getattr(made, "labels", None)
    if labels is None:
        return None
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not all(isinstance(each, str) for each in labels):
        raise CheckpointError(f"{where}: its labels are {str(labels)[:100]}, expected names, in the outputs' order")
    return tuple(labels)


def _line(error: Exception, module: ModuleType | None) -> str:
    """Where an error was raised: the last line of the module, or, where none of it was running, of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if module is not None and frame.filename == module.__file__]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
