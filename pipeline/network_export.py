"""Our own networks for other runtimes: a checkpoint's network as ONNX, or as a program of torch.export.

What is exported predicts at one scale, as the network does: fusing several scales, and labels, are not in it.
"""

import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipeline.padded_like_tensorflow import evenly_padded, pad_same_upper
from storage.atomic_file import refuse_existing
from storage.errors import CheckpointError, SettingsError, first_line
from storage.workspace import write_atomically
from teacher.checkpoint import Checkpoint, load_checkpoint
from teacher.foreign.contract import ModelSettings
from teacher.foreign.exported import open_exported
from teacher.foreign.file_model import FileModel
from teacher.foreign.notes import Notes
from teacher.foreign.onnx_file import MISSING
from teacher.foreign.onnx_model import open_onnx
from teacher.loading import network_with
from teacher.networks.prediction import Network

OPSET = 20
"""Of ONNX; onnxruntime 1.17 and newer know it."""
SUFFIXES = (".onnx", ".pt2")
LEAST_SIDE = 32
TOLERANCE = 1e-3
"""How far the exported network's logits may differ from the network's, relative to the largest of them."""

_TRACED = (2, 3, 96, 160)
"""Images that the network is exported with where sizes are left open: two, and of different sides, so that none of
these numbers is taken for another, or for a fixed one."""
_OTHERS = ((1, 96, 160), (2, 133, 174))
"""Images (batch, height, width) by which it is checked then."""


@dataclass(frozen=True, slots=True)
class NetworkExport:
    """What was exported."""

    out: Path
    form: str
    """ONNX or torch.export."""
    labels: tuple[str, ...]
    size: tuple[int, int] | None
    """The only (height, width) that it takes; None: any."""
    difference: float
    """The largest between its logits and the network's, on images of noise."""
    largest: float
    """Of the network's logits, in size."""
    left_out: tuple[str, ...]
    """What the network has and the export has not, in words."""


def export_network(checkpoint: Path, out: Path, size: tuple[int, int] | None = None) -> NetworkExport:
    """Export a checkpoint's network, and check that the file says what the network says.

    It takes normalised images (batch, 3, height, width) float32, and gives logits (batch, class, h, w) float32 at the
    network's stride. The file also says the classes' names, mean and std, so that `--teacher onnx:FILE` needs no more.

    Args:
        checkpoint: of autocoarse.
        out: the file to write, .onnx or .pt2, which is not there yet. Its folder exists.
        size: the only (height, width) of images that it is to take, for runtimes that want one; None: any.

    Raises:
        MissingFileError: there is no such checkpoint.
        CheckpointError: it cannot be used, or the export does not say what the network says; nothing is written then.
        SettingsError: the suffix is unknown, the file is there already, the size too small, what writes ONNX is not
            installed, or the network cannot be exported so.
        WorkspaceError: the file cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise SettingsError(
            f"{out} has the suffix {out.suffix!r}, expected {' or '.join(SUFFIXES)}: that says the form"
        )
    if size is not None and min(size) < LEAST_SIDE:
        raise SettingsError(f"size is {size[1]}x{size[0]}, expected sides of at least {LEAST_SIDE} pixels")
    refuse_existing(out)
    loaded = load_checkpoint(checkpoint)
    network = network_with(loaded.spec, loaded.state_dict, str(checkpoint)).eval().requires_grad_(requires_grad=False)
    notes = _notes(loaded)
    try:
        content = _content(network, notes, out.suffix, size)
    except (SettingsError, OSError):
        raise
    except Exception as error:  # exporters fail at what they do not know in any way
        raise _cannot(checkpoint, out.suffix, error) from error
    difference, largest = _compare(network, loaded, content, out.suffix, size)
    if not difference <= TOLERANCE * largest:
        raise CheckpointError(
            f"{checkpoint}: as {out.suffix} its network gives logits that differ by {difference:.3g}, of at most "
            f"{largest:.3g}, from its own: nothing is written. Choose the other of {' and '.join(SUFFIXES)}"
        )
    write_atomically(out, content)
    form = "ONNX" if out.suffix == ".onnx" else "torch.export"
    return NetworkExport(out, form, loaded.schema.names, size, difference, largest, _left_out(loaded))


def _left_out(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.spec.attention == "hierarchical":
        return ("the scale attention: at several scales the export is averaged",)
    return ()


def _notes(checkpoint: Checkpoint) -> Notes:
    spec = checkpoint.spec
    encoder = "" if spec.encoder is None else f" on {spec.encoder}"
    remark = f"{spec.network}{encoder} of autocoarse, trained for {spec.attention}"
    left_out = _left_out(checkpoint)
    return Notes(
        labels=checkpoint.schema.names,
        mean=spec.mean,
        std=spec.std,
        outputs="logits",
        remark=f"{remark}; left out: {', '.join(left_out)}" if left_out else remark,
    )


class _Logits(nn.Module):
    """A network that gives its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Network = network

    def forward(self, images: Tensor) -> Tensor:
        with _BatchedAttention():
            return self.network(images, attend=False).logits


class _BatchedAttention(TorchFunctionMode):
    """Gives products of attention an axis of heads, of length one, without which the exporter to ONNX knows none."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        arguments: tuple[Any, ...] = (),
        by_name: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        del types
        if function is functional.scaled_dot_product_attention and arguments[0].ndim == 3:
            return function(*(each.unsqueeze(1) for each in arguments), **(by_name or {})).squeeze(1)
        return function(*arguments, **(by_name or {}))


def _content(network: nn.Module, notes: Notes, suffix: str, size: tuple[int, int] | None) -> bytes:
    if suffix == ".pt2":
        return _as_program(_traced(network, size), notes)
    if size is not None:
        return _as_onnx(_traced(network, size), notes, [], is_open=False)
    with evenly_padded(network) as uneven:
        return _as_onnx(_traced(network, None), notes, [f"network.{name}" for name in uneven], is_open=True)


def _traced(network: nn.Module, size: tuple[int, int] | None) -> ExportedProgram:
    images = torch.zeros(_TRACED if size is None else (2, 3, *size))
    axes = {0: Dim.DYNAMIC} if size is not None else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return torch.export.export(_Logits(network), (images,), dynamic_shapes={"images": axes})


def _cannot(checkpoint: Path, form: str, error: Exception) -> SettingsError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return SettingsError(
        f"{checkpoint}: its network cannot be exported as {form} ({first_line(cause)}); choose one size of images by "
        f"--size, or the other of {' and '.join(SUFFIXES)}"
    )


def _as_program(program: ExportedProgram, notes: Notes) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=notes.to_texts())
    return file.getvalue()


def _as_onnx(program: ExportedProgram, notes: Notes, uneven: list[str], *, is_open: bool) -> bytes:
    try:
        import onnx  # noqa: F401 - the exporter needs both, and says so less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"{error.name} writes ONNX and is not installed: {MISSING}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own use of torch
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert made is not None, "of the new exporter"
    model = made.model_proto
    _name_axes(model, ("batch", None, "height", "width") if is_open else ("batch", None, None, None))
    pad_same_upper(model, uneven)
    for key, text in notes.to_texts().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    return bytes(model.SerializeToString())


def _name_axes(model: Any, names: tuple[str | None, ...]) -> None:  # noqa: ANN401 - the library is optional
    """Call the input's open axes by what they are; other shapes, by the exporter's own names, are only for people."""
    image = model.graph.input[0].type.tensor_type.shape
    for axis, name in zip(image.dim, names, strict=True):
        if name is not None:
            axis.dim_param = name
    del model.graph.value_info[:]
    for axis, name in zip(model.graph.output[0].type.tensor_type.shape.dim, ("batch", None, "h", "w"), strict=True):
        if name is not None and not axis.HasField("dim_value"):
            axis.dim_param = name


def _compare(
    network: nn.Module, checkpoint: Checkpoint, content: bytes, suffix: str, size: tuple[int, int] | None
) -> tuple[float, float]:
    """The largest difference of logits between a network and its export, and the largest logit."""
    how = ModelSettings(torch.device("cpu"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    noise = torch.Generator().manual_seed(1)
    shapes = _OTHERS if size is None else ((1, *size), (2, *size))
    differences, largest = [0.0], [0.0]
    with tempfile.TemporaryDirectory(prefix="autocoarse-") as folder, torch.inference_mode():
        file = Path(folder) / f"network{suffix}"
        file.write_bytes(content)
        model: FileModel = (open_onnx if suffix == ".onnx" else open_exported)(file, how)
        for batch, height, width in shapes:
            images = torch.randn(batch, 3, height, width, generator=noise)
            expected = network(images, attend=False).logits
            given = model(images, 1.0)
            if given.shape != expected.shape:
                raise CheckpointError(
                    f"the export gives logits {tuple(given.shape)} where the network gives {tuple(expected.shape)}: "
                    f"nothing is written; choose the other of {' and '.join(SUFFIXES)}"
                )
            differences.append(float((given - expected).abs().max()))
            largest.append(float(expected.abs().max()))
    assert model.labels == checkpoint.schema.names, "as was noted"
    return max(differences), max(largest)
