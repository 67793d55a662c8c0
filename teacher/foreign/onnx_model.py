"""ONNX files as foreign models, run by onnxruntime.

What passes between the two libraries, per image of height x width with C labels at stride s: the normalised image, 12
bytes a pixel, and the scores, 4 C / s^2 bytes a pixel. Both are bound where they are: torch's own memory is what
onnxruntime reads and writes. So on the CPU nothing is copied, and on CUDA nothing passes through the host. Only the
first time that images of a size come, the shape of the scores is not known, and they are copied once by the host.

A graph holds no code: onnxruntime runs its own operators on the file's numbers. What remains as a risk is a fault in
them that a made-up file could exploit, and that such a file asks for more memory or time than there is.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from storage.errors import CheckpointError, SettingsError
from teacher.foreign.contract import ModelSettings
from teacher.foreign.file_model import FileModel
from teacher.foreign.onnx_file import MISSING, OnnxFile, read_onnx

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MEMORY_TEXTS = ("allocate memory", "bad_alloc", "bad allocation", "out of memory", "OUT_OF_MEMORY")


_NUMPY_TYPES: dict[torch.dtype, type[np.generic]] = {
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


def open_onnx(path: Path, how: ModelSettings) -> FileModel:
    """Open an ONNX file as a foreign model.

    It has one input, normalised images (batch, 3, height, width), float32 or float16, and an output of scores (batch,
    label, h, w). Of several such outputs it is the one named "logits" or "out", else the first. Height, width and batch
    may be open or fixed: to a fixed size images are stretched, unless `how.native`; with a fixed batch of 1 they are
    run one by one. Labels, mean and std are those of `how`, else of the notes that autocoarse writes into the files it
    exports, else unknown, and those of ImageNet. Whether scores are logits or probabilities the notes say, or a run on
    noise shows.

    Args:
        path: the file.
        how: the precision has to be fp32: that of an ONNX file is its own.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: onnx or onnxruntime is not installed, onnxruntime cannot use the device, or the precision is
            another than fp32.
        CheckpointError: it cannot be used; the message says why. Nothing was run of a file that is refused by its form.
    """
    if how.precision != "fp32":
        raise SettingsError(
            f"{path}: precision is {how.precision}, and an ONNX file is computed in the precision that it was exported "
            f"in: leave the precision out, or export the network in float16"
        )
    _check_provider(path, how.device)
    file = read_onnx(path)
    run = OnnxRun(path, file, how.device)
    return FileModel("ONNX", str(path), file.digest, run, file.form, file.notes, how, file.facts)


def _check_provider(path: Path, device: torch.device) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError(f"{path} is run by onnxruntime, which is not installed: {MISSING}") from error
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise SettingsError(
            f"{path}: the device is {device}, and onnxruntime {onnxruntime.__version__} here knows the CPU only: "
            f"pip install onnxruntime-gpu in its place, or use --device cpu"
        )


class OnnxRun:
    """A graph as it is run; satisfies `teacher.foreign.file_model.Run`.

    Args:
        path: the file.
        file: what is known of it.
        device: where it is run.
    """

    def __init__(self, path: Path, file: OnnxFile, device: torch.device) -> None:
        self.weight_bytes = file.weight_bytes
        self._path, self._file = path, file
        self._device = torch.empty(0, device=device).device  # with its index
        self._type = torch.float16 if file.input_type == "float16" else torch.float32
        self._session: tuple[int, InferenceSession] | None = None
        self._outputs: dict[tuple[int, ...], tuple[tuple[int, ...], torch.dtype]] = {}
        """Shape and type of the output, by the shape of the images."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """As `Run`."""
        images = images.to(self._type).contiguous()
        key = tuple(images.shape)
        session = self._opened()
        binding = session.io_binding()
        place = (self._device.type, self._device.index or 0)
        binding.bind_input(self._file.input_name, *place, _numpy_type(images), list(key), images.data_ptr())
        known, made = self._outputs.get(key), None
        if known is None:
            binding.bind_output(self._file.output_name, *place)
        else:
            made = torch.empty(known[0], dtype=known[1], device=self._device)
            binding.bind_output(self._file.output_name, *place, _numpy_type(made), list(known[0]), made.data_ptr())
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # the images may still be on their way
        _run(session, binding, self._path)
        if made is not None:
            return made
        first = torch.from_numpy(np.array(binding.get_outputs()[0].numpy()))
        if first.dtype in _NUMPY_TYPES:
            self._outputs[key] = tuple(first.shape), first.dtype
        return first.to(self._device)

    def _opened(self) -> "InferenceSession":
        """The session, of as many threads as torch has now."""
        threads = torch.get_num_threads()
        if self._session is None or self._session[0] != threads:
            self._session = None  # before there are two
            self._session = threads, _open(self._path, self._device, threads)
        return self._session[1]


def _open(path: Path, device: torch.device, threads: int) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors, which are raised as well
    options.add_session_config_entry("session.load_model_format", "ONNX")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        exact = {"device_id": device.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", exact))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be opened by onnxruntime {onnxruntime.__version__}: {error}") from error
    if device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        # without CUDA's libraries, or with those of another version, it takes the CPU instead, and no error
        raise SettingsError(
            f"{path}: the device is {device}, and onnxruntime {onnxruntime.__version__} cannot load CUDA here: install "
            f"an onnxruntime-gpu that is built for the CUDA and cuDNN of this machine, or use --device cpu"
        )
    return session


def _run(session: "InferenceSession", binding: Any, path: Path) -> None:  # noqa: ANN401 - the library is untyped
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        text = f"{path} failed in onnxruntime: {error}"
        if any(memory in text for memory in _MEMORY_TEXTS):
            raise MemoryError(text) from error
        raise RuntimeError(text) from error


def _numpy_type(tensor: Tensor) -> type[np.generic]:
    return _NUMPY_TYPES[tensor.dtype]
