"""ONNX files as what they are: parsed and checked before anything of them is run.

A graph holds no code of the file's own, only operators that the runtime knows. What could reach beyond it is refused
here: weights in files elsewhere, and operators that a library of somebody's would have to bring.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import CheckpointError, MissingFileError, SettingsError, first_line
from storage.object_io import file_digest
from teacher.foreign.image_form import ImageForm, Side
from teacher.foreign.notes import Notes

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto, TensorProto, ValueInfoProto

MISSING = "pip install 'autocoarse[onnx]'"
MAX_BYTES = 2**31 - 1
"""Of the file itself, as protobuf has it; weights in files beside it come on top."""

_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Of operators that the runtime brings itself and that compute from tensors alone."""
_UNSAFE = ("EPContext", "PythonOp", "PythonOpGrad", "ATen")
"""Operators of these domains that run what is not in the graph."""
_INPUT_TYPES = {"FLOAT": "float32", "FLOAT16": "float16"}
_INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL")
_USUAL_NAMES = ("logits", "out")


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What is known of an ONNX file before it is run."""

    input_name: str
    input_type: str
    """float32 or float16."""
    output_name: str
    form: ImageForm
    notes: Notes
    digest: str
    """Hash of the file and of the files of weights that it refers to."""
    weight_bytes: int
    """Of the weights as they are stored."""
    facts: dict[str, str]


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ONNX file, without running anything of it.

    Raises:
        MissingFileError: there is no such file, or a file of weights that it refers to is missing.
        SettingsError: the library that reads it is not installed.
        CheckpointError: it is no ONNX, is damaged, refers to files elsewhere, needs operators that the runtime does not
            bring, or is no network from images to scores; the message says which.
    """
    if not path.is_file():
        raise MissingFileError(f"no ONNX file at {path}; check the path")
    model = _parse(path)
    _check_operators(model, path)
    tensors = list(_tensors(model))
    beside = _files_beside(tensors, path)
    _check_form(path)
    given = {initializer.name for initializer in model.graph.initializer}
    image = _image_input([value for value in model.graph.input if value.name not in given], path)
    output = _output(list(model.graph.output), path)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    opset = max((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=0)
    several = "" if len(model.graph.output) == 1 else f", of {len(model.graph.output)} outputs"
    facts = {"opset": str(opset), "output": output.name + several}
    if model.producer_name:
        facts["made by"] = f"{model.producer_name} {model.producer_version}".strip()[:100]
    return OnnxFile(
        image.name,
        _INPUT_TYPES[_type_name(image)],
        output.name,
        _form(image, path),
        Notes.from_texts(texts, str(path)),
        _digest(path, beside),
        sum(_bytes_of(tensor) for tensor in tensors),
        facts,
    )


def _parse(path: Path) -> "ModelProto":
    try:
        import onnx
    except ImportError as error:
        raise SettingsError(f"{path} is read by the library onnx, which is not installed: {MISSING}") from error
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, and an ONNX file at most {MAX_BYTES}: it is none")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # whatever a parser makes of a file that is none
        raise CheckpointError(
            f"{path} cannot be read as ONNX ({first_line(error)}); if it was cut short, copy it again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise CheckpointError(f"{path} holds no ONNX graph: it is empty, or another file")
    return model


def _check_form(path: Path) -> None:
    """The library's own check; last, as it looks for the files of weights."""
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # it is written in C++ and raises its own
        raise CheckpointError(f"{path} is not valid ONNX ({first_line(error)}); export it again") from error


def _check_operators(model: "ModelProto", path: Path) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    for node in _messages(model, "NodeProto"):
        domain, kind = str(getattr(node, "domain", "")), str(getattr(node, "op_type", ""))
        if (domain, kind) in own and domain not in _DOMAINS:
            continue
        if domain not in _DOMAINS or kind in _UNSAFE:
            raise CheckpointError(
                f"{path} needs the operator {kind!r} of {domain or 'ai.onnx'!r}, which a library of its own would have "
                f"to bring; none is loaded. Export the network with operators of ONNX alone"
            )


def _messages(message: "Message", kind: str) -> Iterator["Message"]:
    """All parts of a message that are of a kind, however deep."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if part.DESCRIPTOR.name == kind:
            yield part
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _tensors(model: "ModelProto") -> Iterator["TensorProto"]:
    from onnx import TensorProto

    for message in _messages(model, "TensorProto"):
        assert isinstance(message, TensorProto), "by its name"
        yield message


def _bytes_of(tensor: "TensorProto") -> int:
    length = next((entry.value for entry in tensor.external_data if entry.key == "length"), "0")
    return len(tensor.raw_data) or (int(length) if length.isdecimal() else 0) or tensor.ByteSize()


def _files_beside(tensors: list["TensorProto"], path: Path) -> list[Path]:
    """The files of weights that it refers to, all of them in its own folder; sorted."""
    folder = path.parent.resolve()
    found: set[Path] = set()
    for tensor in tensors:
        if not tensor.external_data and tensor.data_location == 0:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        parts = Path(location.replace("\\", "/")).parts
        if not location or ".." in parts or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise CheckpointError(
                f"{path}: its weights {tensor.name[:100]!r} are in {location[:200]!r}, which is not in its own folder: "
                f"nothing elsewhere is read. Put the weights into the file, or beside it"
            )
        if not file.is_file():
            raise MissingFileError(f"{path}: its weights are in {file}, and there is no such file; copy it as well")
        found.add(file)
    return sorted(found)


def _digest(path: Path, beside: list[Path]) -> str:
    if not beside:
        return file_digest(path)
    return hashlib.sha256(" ".join(file_digest(file) for file in (path, *beside)).encode()).hexdigest()


def _type_name(value: "ValueInfoProto") -> str:
    from onnx import TensorProto

    kind = value.type.tensor_type.elem_type
    known = kind in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(kind)) if known else f"of the unknown type {kind}"


def _lengths(value: "ValueInfoProto") -> list[int | None] | None:
    """Lengths of the axes, None where one is open; None where nothing is said."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]


def _told(value: "ValueInfoProto") -> str:
    if not value.type.HasField("tensor_type"):
        return f"{value.name[:100]!r}, which is no tensor"
    lengths = _lengths(value)
    shape = "of any shape" if lengths is None else f"({', '.join('open' if n is None else str(n) for n in lengths)})"
    return f"{value.name[:100]!r} {_type_name(value).lower()} {shape}"


def _image_input(inputs: list["ValueInfoProto"], path: Path) -> "ValueInfoProto":
    wanted = "expected one input of images, (batch, 3, height, width) float32 or float16"
    told = ", ".join(map(_told, inputs[:10])) or "none"
    if len(inputs) != 1:
        raise CheckpointError(f"{path} has {len(inputs)} inputs, {told}: {wanted}; export it with the images alone")
    image = inputs[0]
    lengths = _lengths(image)
    if not image.type.HasField("tensor_type") or _type_name(image) not in _INPUT_TYPES:
        raise CheckpointError(f"{path} takes {told}: {wanted}; export it so that it takes normalised images")
    if lengths is None or len(lengths) != 4:
        raise CheckpointError(f"{path} takes {told}: {wanted}")
    if lengths[1] != 3 and lengths[3] == 3:
        raise CheckpointError(f"{path} takes {told}, colours last: {wanted}; export it with a transposition before it")
    if lengths[1] not in (3, None):
        raise CheckpointError(f"{path} takes {told}, {lengths[1]} channels: {wanted}, of red, green and blue")
    return image


def _form(image: "ValueInfoProto", path: Path) -> ImageForm:
    lengths = _lengths(image)
    assert lengths is not None, "checked before"
    batch, _, height, width = lengths
    if batch not in (None, 1):
        raise CheckpointError(
            f"{path} takes exactly {batch} images at a time: export it with a batch of 1, or one that is left open"
        )
    for length in (height, width):
        if length is not None and length < 1:
            raise CheckpointError(f"{path} takes {_told(image)}, which no image can be; it is damaged")
    return ImageForm(Side(height), Side(width), single=batch == 1)


def _output(outputs: list["ValueInfoProto"], path: Path) -> "ValueInfoProto":
    told = ", ".join(map(_told, outputs[:10])) or "none"
    tensors = [value for value in outputs if value.type.HasField("tensor_type")]
    if len(tensors) == 1 and _type_name(tensors[0]) in _INTEGERS:
        raise CheckpointError(
            f"{path} gives {told}: that seems to be the best label rather than scores, (batch, labels, height, width) "
            f"of floating point; export the network without its argmax"
        )
    usable = [value for value in tensors if _type_name(value) not in _INTEGERS and _is_scores(value)]
    if not usable:
        raise CheckpointError(
            f"{path} gives {told}: expected an output of scores, (batch, labels, height, width) of floating point, "
            f"with two labels at least; export the network's logits"
        )
    named = [value for name in _USUAL_NAMES for value in usable if value.name == name]
    return (named or usable)[0]


def _is_scores(value: "ValueInfoProto") -> bool:
    lengths = _lengths(value)
    return lengths is None or (len(lengths) == 4 and (lengths[1] is None or lengths[1] > 1))
