"""TorchScript archives: checked before torch reads them, checked again before they are run.

TorchScript is code, of a language of its own that torch's interpreter runs. Reading an archive can run some of it: what
restores a class from its state, and default values of arguments. And its operators can read and write files. So an
archive with such in it is not read, and one whose graph has a node that is not known to be harmless is not run.
"""

import pickletools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from storage.errors import CheckpointError, first_line
from teacher.foreign.archive import Archive
from teacher.foreign.arithmetic import in_precision
from teacher.foreign.operators import TRAINING_ARGUMENTS, is_allowed_in_script
from teacher.foreign.scores import scores_of

_PICKLES = ("data.pkl", "constants.pkl")
_KEPT = re.compile(r"data\.pkl|constants\.pkl|version|byteorder|\.data/\w+|(data|constants)/\d+|code/[\w/]+\.py")
"""Members that torch needs: without those it reads for messages, or hands to the caller."""
_GLOBALS = re.compile(
    r"torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|collections OrderedDict|torch (\w+Storage|device)"
    r"|torch\.jit\._pickle (build_\w+list|build_tensor_from_id|restore_type_tag)"
    r"|__torch__(?!\.torch\.classes)[\w.]* \w+"
)
"""What the archive's pickles may name, module and name: makers of plain values and tensors, and its own classes."""
_STRANGE_OPCODES = ("INST", "OBJ", "NEWOBJ_EX", "STACK_GLOBAL", "PERSID", "EXT1", "EXT2", "EXT4")
_RUN_ON_READING = re.compile(
    # also within strings and comments, so that nobody has to see a string end where torch's lexer does
    r"\b(__setstate__|__reduce__|from_file|_print)\b"
    r"|\btorch\s*\.\s*(classes|save|warn|manual_seed|seed)\b"
    r"|(?<![.\w])ops\s*\.\s*(?!prim\b|aten\b)\w*"
    r"|(?<![.\w])ops\s*\.\s*aten\s*\.\s*(save|warn|manual_seed|seed)\b"
    r"|\bgetattr(?!\((?!torch\b|ops\b)\w)"
)


def open_script(archive: Archive, device: torch.device) -> Any:  # noqa: ANN401 - torch's own class is untyped
    """Read and check an archive.

    Args:
        archive: what torch.jit.save wrote.
        device: where its weights go.

    Returns:
        The module in evaluation mode.

    Raises:
        CheckpointError: it could do more than compute, is damaged, or takes other than one tensor; nothing was run.
    """
    where = str(archive.path)
    _check_code(archive)
    _check_pickles(archive)
    needed = archive.rebuilt(lambda name: _KEPT.fullmatch(name) is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises torch.export, which is not the reader's to choose
        try:
            module = torch.jit.load(needed, map_location=device)  # type: ignore[no-untyped-call]
        except Exception as error:  # its parser, its unpickler and its compiler raise their own
            raise CheckpointError(f"{where} cannot be read as TorchScript: {first_line(error)}") from error
        module.eval()
        method = getattr(module, "forward", None)
        if method is None:
            raise CheckpointError(f"{where} has no method forward; it is no network")
        _check_arguments(method.schema, where)
        _check_graph(method.inlined_graph, where)
    return module


def _check_code(archive: Archive) -> None:
    for name in archive.names("code/"):
        if name.endswith(".py") and (found := _RUN_ON_READING.search(archive.read_text(name))):
            raise CheckpointError(
                f"{archive.path}: its code has {found[0]!r} in it, which may run, or reach a file, as soon as it is "
                f"read: it is not read. Export the network by torch.export instead (a quantised one to ONNX)"
            )


def _check_pickles(archive: Archive) -> None:
    for member in _PICKLES:
        content = archive.read(member)
        try:
            operations = [(opcode.name, value) for opcode, value, _ in pickletools.genops(content)]
        except (ValueError, IndexError, EOFError) as error:
            raise CheckpointError(f"{archive.path}: its {member!r} is no pickle ({error}); it is damaged") from error
        for name, value in operations:
            if name in _STRANGE_OPCODES or (name == "GLOBAL" and not _GLOBALS.fullmatch(str(value))):
                raise CheckpointError(
                    f"{archive.path}: its {member!r} would make {str(value or name)[:100]!r} when it is unpickled, "
                    f"which is neither a tensor nor a plain value: it is not unpickled"
                )


def _check_arguments(schema: Any, where: str) -> None:  # noqa: ANN401
    given = [each for each in schema.arguments if each.name != "self"]
    needed = [each for each in given if not each.has_default_value()]
    if not given or len(needed) > 1 or str(given[0].type) != "Tensor":
        told = ", ".join(f"{each.name}: {each.type}" for each in given) or "nothing"
        raise CheckpointError(
            f"{where} is a program of other inputs: it takes {told[:200]}, expected one tensor of images, (batch, 3, "
            f"height, width)"
        )


def _check_graph(graph: Any, where: str) -> None:  # noqa: ANN401
    for node in _nodes(graph):
        kind = node.kind()
        if not is_allowed_in_script(kind):
            raise CheckpointError(
                f"{where} uses {kind!r}, which is not among the operators that a program from a file may use; export "
                f"the network without it, or use --teacher python:..."
            )
        if kind.startswith("aten::") and _trains(node):
            raise CheckpointError(f"{where}: its {kind!r} is in training mode; export it after .eval()")


def _nodes(block: Any) -> Iterator[Any]:  # noqa: ANN401
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _trains(node: Any) -> bool:  # noqa: ANN401
    names = [argument.name for argument in torch._C.parse_schema(node.schema()).arguments]  # noqa: SLF001
    return any(
        name in TRAINING_ARGUMENTS and value.node().kind() == "prim::Constant" and value.toIValue() is True
        for name, value in zip(names, node.inputs(), strict=False)
    )


class ScriptRun:
    """A TorchScript module as it is run; satisfies `teacher.foreign.file_model.Run`.

    Its graph is run as it is written: torch would fuse operators after some calls, and the labels of a run that goes on
    would be rounded otherwise than those before.

    Args:
        module: that is run, in evaluation mode.
        where: the file, for messages.
        device: where it is.
    """

    def __init__(self, module: Any, where: str, device: torch.device) -> None:  # noqa: ANN401
        self._module, self._where, self._device = module, where, device
        self.weight_bytes = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))

    def __call__(self, images: Tensor, /) -> Tensor:
        """As `Run`."""
        before = torch._C._get_graph_executor_optimize()  # noqa: SLF001 - the public way is deprecated
        torch._C._set_graph_executor_optimize(False)  # noqa: SLF001
        try:
            with in_precision(self._device, "fp32"):
                made = self._module.forward(images)
        except torch.jit.Error as error:
            raise RuntimeError(f"{self._where} raised {_last_line(error)}") from error
        finally:
            torch._C._set_graph_executor_optimize(before)  # noqa: SLF001
        return scores_of(made, self._where)


def _last_line(error: Exception) -> str:
    return ([line.strip()[:300] for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
