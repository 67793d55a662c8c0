"""ONNX files as teachers: what they predict, what they are told, and what is refused before anything is run."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from storage.errors import CheckpointError, ImageError, MissingFileError, SettingsError
from teacher.foreign.contract import ModelSettings
from teacher.foreign.image_form import ImageForm, Side
from teacher.foreign.onnx_model import _open, open_onnx
from teacher.networks.registry import IMAGENET_MEAN, IMAGENET_STD

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - only where it is installed

CPU = ModelSettings(torch.device("cpu"))
OPEN = ("batch", 3, "height", "width")
LABELS = 5
OPEN_SCORES = ("batch", LABELS, "height", "width")
WEIGHTS = np.random.default_rng(3).normal(size=(LABELS, 3, 1, 1)).astype(np.float32)


def value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], notes: dict[str, Any] | None = None) -> Any:
    """A model of nodes that may use the weights `w`."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(WEIGHTS, "w")])
    domains = {node.domain for node in nodes} | {""}
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in sorted(domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, {f"autocoarse.{key}": json.dumps(each) for key, each in (notes or {}).items()})
    return model


def convolution(image: Any = OPEN, notes: dict[str, Any] | None = None, *, softmax: bool = False) -> Any:
    """A network of one 1x1 convolution to five labels, or to their probabilities."""
    nodes = [helper.make_node("Conv", ["images", "w"], ["logits"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["shares"], axis=1))
    scores = value("shares" if softmax else "logits", (image[0], LABELS, *image[2:]))
    return model_of(nodes, [value("images", image)], [scores], notes)


def expected(images: Tensor, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> Tensor:
    """What the convolution gives for images in [0, 1]."""
    normalised = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    return torch.nn.functional.conv2d(normalised, torch.from_numpy(WEIGHTS))


Save = Callable[[Any], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a model, or bytes, and return the file."""

    def write(content: Any) -> Path:
        path = tmp_path / "network.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return write


@pytest.fixture
def pictures() -> Tensor:
    """Two images in [0, 1], of an odd size."""
    return torch.rand(2, 3, 45, 61, generator=torch.Generator().manual_seed(5))


def test_logits_are_those_of_the_graph(save: Save, pictures: Tensor) -> None:
    """Images are normalised as of ImageNet, and logits are the graph's, when a size comes first and later."""
    model = open_onnx(save(convolution()), CPU)
    assert model.labels is None
    for images in (pictures, pictures, pictures[:1], pictures.flip(-1)):
        torch.testing.assert_close(model(images, 1.0), expected(images), rtol=1e-5, atol=1e-5)


def test_results_are_the_callers_own(save: Save, pictures: Tensor) -> None:
    """What an image gave stays as it is when the next one is predicted."""
    model = open_onnx(save(convolution()), CPU)
    first = [model(pictures, 1.0) for _ in range(2)]
    kept = [each.clone() for each in first]
    model(1 - pictures, 1.0)
    assert all(torch.equal(each, copy) for each, copy in zip(first, kept, strict=True))


def test_threads_are_those_of_torch(save: Save, pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime takes as many threads as torch has when it predicts, and as before when that changes."""
    model = open_onnx(save(convolution()), CPU)
    before = model(pictures, 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.testing.assert_close(model(pictures, 1.0), before)


def test_probabilities_become_logits(save: Save, pictures: Tensor) -> None:
    """Where a graph ends in a softmax, the softmax of what the model gives is the graph's probabilities."""
    model = open_onnx(save(convolution(softmax=True)), CPU)
    assert model.facts()["outputs"] == "probabilities, as a run on noise showed"
    torch.testing.assert_close(model(pictures, 1.0).softmax(1), expected(pictures).softmax(1), rtol=1e-4, atol=1e-6)


def test_notes_in_the_file_are_taken(save: Save, pictures: Tensor) -> None:
    """Labels, mean, std and kind of output are as the file says, and as the settings say where they do."""
    names, mean, std = list("abcde"), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    notes = {"labels": names, "mean": mean, "std": std, "outputs": "logits", "remark": "made for a test"}
    path = save(convolution(notes=notes))
    model = open_onnx(path, CPU)
    assert model.labels == tuple(names)
    assert model.facts()["remark"] == "made for a test"
    torch.testing.assert_close(model(pictures, 1.0), expected(pictures, mean, std), rtol=1e-5, atol=1e-5)
    asked = open_onnx(path, ModelSettings(CPU.device, labels=("v", "w", "x", "y", "z"), mean=IMAGENET_MEAN))
    assert asked.labels == ("v", "w", "x", "y", "z")
    torch.testing.assert_close(asked(pictures, 1.0), expected(pictures, std=std), rtol=1e-5, atol=1e-5)
    assert asked.digest != model.digest


@pytest.mark.parametrize(
    "notes",
    [
        {"labels": ["a", "b"]},
        {"labels": "abcde"},
        {"labels": ["a", "b", "c", "d", "e\n"]},
        {"mean": [1, 2]},
        {"mean": [1, 2, float("nan")]},
        {"std": [1, 0, 1]},
        {"outputs": "classes"},
        {"outputs": {}},
        {"remark": 5},
        {"labels": "a" * 70000},
    ],
)
def test_notes_that_cannot_be_are_refused(save: Save, notes: dict[str, Any]) -> None:
    """Notes are not trusted: one that is malformed, or does not fit the outputs, is an error that names the file."""
    with pytest.raises(CheckpointError, match=r"network\.onnx"):
        open_onnx(save(convolution(notes=notes)), CPU)


def test_asked_labels_have_to_be_as_many_as_outputs(save: Save) -> None:
    """Too few labels are refused with both numbers."""
    with pytest.raises(SettingsError, match="has 5 outputs, and 2 labels are named"):
        open_onnx(save(convolution()), ModelSettings(CPU.device, labels=("a", "b")))


def test_images_are_stretched_to_a_fixed_size(save: Save, pictures: Tensor) -> None:
    """A graph of one size gets images of that size at scale 1 only, and of no other size where that is asked for."""
    path = save(convolution(("batch", 3, 32, 48)))
    model = open_onnx(path, CPU)
    assert model(pictures, 1.0).shape == (2, LABELS, 32, 48)
    assert model.facts()["sizes"] == "48x32 pixels, to which images are stretched"
    with pytest.raises(SettingsError, match="takes images of 48x32 pixels only, at every scale the same"):
        model(pictures, 2.0)
    native = open_onnx(path, ModelSettings(CPU.device, native=True))
    with pytest.raises(ImageError, match="takes 48x32 pixels"):
        native(pictures, 1.0)
    fitting = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(native(fitting, 1.0), expected(fitting), rtol=1e-5, atol=1e-5)


def test_a_batch_of_one_is_run_one_by_one(save: Save, pictures: Tensor) -> None:
    """A graph that takes one image at a time gives the same for two."""
    model = open_onnx(save(convolution((1, 3, "height", "width"))), CPU)
    torch.testing.assert_close(model(pictures, 1.0), expected(pictures), rtol=1e-5, atol=1e-5)


def test_half_precision_of_the_file(save: Save, pictures: Tensor) -> None:
    """A graph in float16 gets float16, and its logits come in float32."""
    half = numpy_helper.from_array(WEIGHTS.astype(np.float16), "h")
    node = helper.make_node("Conv", ["images", "h"], ["logits"])
    graph_in, graph_out = value("images", OPEN, TensorProto.FLOAT16), value("logits", OPEN_SCORES, TensorProto.FLOAT16)
    model = model_of([node], [graph_in], [graph_out])
    model.graph.initializer.append(half)
    opened = open_onnx(save(model), CPU)
    for _ in range(2):
        given_logits = opened(pictures, 1.0)
        assert given_logits.dtype == torch.float32
        torch.testing.assert_close(given_logits, expected(pictures), rtol=0.02, atol=0.05)


def test_of_several_outputs_the_scores_are_taken(save: Save, pictures: Tensor) -> None:
    """The output that is called logits is taken, whatever stands before it."""
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["logits"]),
        helper.make_node("Neg", ["logits"], ["auxiliary"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1),
    ]
    best = value("best", ("batch", 1, "height", "width"), TensorProto.INT64)
    outputs = [best, value("auxiliary", OPEN_SCORES), value("logits", OPEN_SCORES)]
    model = open_onnx(save(model_of(nodes, [value("images", OPEN)], outputs)), CPU)
    assert model.facts()["output"] == "logits, of 3 outputs"
    torch.testing.assert_close(model(pictures, 1.0), expected(pictures), rtol=1e-5, atol=1e-5)


def test_weights_beside_the_file(save: Save, tmp_path: Path, pictures: Tensor) -> None:
    """Weights in a file beside it are read, counted and part of the digest; without that file the model is refused."""
    model = convolution()
    plain = open_onnx(save(model), CPU)
    onnx.save(model, tmp_path / "network.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    split = open_onnx(tmp_path / "network.onnx", CPU)
    torch.testing.assert_close(split(pictures, 1.0), plain(pictures, 1.0))
    assert split.weight_bytes == plain.weight_bytes == WEIGHTS.nbytes
    content = bytearray((tmp_path / "w.bin").read_bytes())
    content[3] ^= 1
    (tmp_path / "w.bin").write_bytes(content)
    assert open_onnx(tmp_path / "network.onnx", CPU).digest != split.digest
    (tmp_path / "w.bin").unlink()
    with pytest.raises(MissingFileError, match=r"w\.bin"):
        open_onnx(tmp_path / "network.onnx", CPU)


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "link.bin", "..\\outside.bin", ""])
def test_weights_elsewhere_are_not_read(save: Save, tmp_path: Path, location: str) -> None:
    """Weights in another folder, named or linked to, are refused."""
    (tmp_path / "outside.bin").write_bytes(WEIGHTS.tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    model = convolution()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path = save(model).rename(folder / "network.onnx")
    with pytest.raises(CheckpointError, match="which is not in its own folder: nothing elsewhere is read"):
        open_onnx(path, CPU)


def _conv(**changed: Any) -> Any:
    return helper.make_node("Conv", ["images", "w"], ["logits"], **changed)


def _two_inputs() -> Any:
    node = helper.make_node("Add", ["images", "more"], ["logits"])
    return model_of([node], [value("images", OPEN), value("more", OPEN)], [value("logits", OPEN)])


def _best_label() -> Any:
    nodes = [_conv(), helper.make_node("ArgMax", ["logits"], ["best"], axis=1)]
    return model_of(nodes, [value("images", OPEN)], [value("best", ("b", 1, "h", "w"), TensorProto.INT64)])


def _other(shape_in: Any, shape_out: Any, kind: int = TensorProto.FLOAT) -> Any:
    node = helper.make_node("Identity", ["images"], ["logits"])
    return model_of([node], [value("images", shape_in, kind)], [value("logits", shape_out, kind)])


def _custom(domain: str, kind: str) -> Any:
    node = helper.make_node(kind, ["images"], ["logits"], domain=domain)
    return model_of([node], [value("images", OPEN)], [value("logits", OPEN)])


def _hidden_custom() -> Any:
    inner = helper.make_graph([helper.make_node("Run", [], ["y"], domain="evil")], "inner", [], [value("y", OPEN)])
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["logits"], then_branch=inner, else_branch=inner),
    ]
    return model_of(nodes, [value("images", OPEN)], [value("logits", OPEN)])


REFUSED = {
    "two inputs": (_two_inputs(), "has 2 inputs, .*expected one input of images"),
    "no batch": (_other((3, "h", "w"), (3, "h", "w")), "expected one input of images"),
    "grey": (_other(("b", 1, "h", "w"), ("b", 1, "h", "w")), "1 channels: .* of red, green and blue"),
    "colours last": (_other(("b", "h", "w", 3), ("b", "h", "w", 3)), "colours last"),
    "bytes": (
        _other(OPEN, OPEN, TensorProto.UINT8),
        "uint8 .*: export it so that it takes normalised|normalised images",
    ),
    "type of a newer ONNX": (_other(OPEN, OPEN, 99), "of the unknown type 99|not valid ONNX"),
    "scores of a newer ONNX": (
        model_of([_conv()], [value("images", OPEN)], [value("logits", OPEN_SCORES, 99)]),
        "cannot be opened by onnxruntime|not valid ONNX",
    ),
    "batch of two": (_other((2, 3, "h", "w"), (2, 3, "h", "w")), "exactly 2 images at a time"),
    "best label": (_best_label(), "export the network without its argmax"),
    "classifier": (_other(OPEN, ("b", 3)), "expected an output of scores"),
    "one output": (_other(OPEN, ("b", 1, "h", "w")), "expected an output of scores"),
    "custom operator": (_custom("evil", "Run"), "needs the operator 'Run' of 'evil'"),
    "hidden custom operator": (_hidden_custom(), "needs the operator 'Run' of 'evil'"),
    "compiled context": (_custom("com.microsoft", "EPContext"), "needs the operator 'EPContext'"),
    "unknown operator": (_custom("", "Bogus"), "not valid ONNX"),
    "nothing": (b"", "no ONNX graph|cannot be read"),
    "noise": (np.random.default_rng(0).bytes(4000), "cannot be read as ONNX"),
    "text": (b"<html>not found</html>", "cannot be read as ONNX"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_no_such_network_are_refused(save: Save, case: str) -> None:
    """What is no network from images to scores, or needs a library of its own, is refused with the reason."""
    content, reason = REFUSED[case]
    with pytest.raises(CheckpointError, match=reason):
        open_onnx(save(content), CPU)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused(save: Save, share: float) -> None:
    """A file that was cut short is refused, wherever it was cut."""
    content = convolution().SerializeToString()
    with pytest.raises(CheckpointError, match=r"network\.onnx"):
        open_onnx(save(content[: int(share * len(content))]), CPU)


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_in_its_place_is_not_run(save: Save, tmp_path: Path) -> None:
    """A pickle with code is refused, and the code is not run."""
    with pytest.raises(CheckpointError, match="cannot be read as ONNX"):
        open_onnx(save(pickle.dumps(_Payload(tmp_path / "ran"))), CPU)
    assert not (tmp_path / "ran").exists()


def test_a_graph_whose_scores_are_none_is_refused(save: Save) -> None:
    """Where the file leaves open how many labels there are, a run on noise shows that there is one."""
    node = helper.make_node("ReduceMean", ["images"], ["logits"], axes=[1])
    model = model_of([node], [value("images", OPEN)], [value("logits", ("batch", "labels", "height", "width"))])
    with pytest.raises(CheckpointError, match=r"gives float32 \(1, 1, 64, 64\), expected logits .* nothing to choose"):
        open_onnx(save(model), CPU)


def test_an_absent_file_and_absent_libraries(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absent file is told as such, and absent libraries with the command that installs them."""
    with pytest.raises(MissingFileError, match=r"absent\.onnx"):
        open_onnx(tmp_path / "absent.onnx", CPU)
    path = save(convolution())
    for name in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(SettingsError, match=r"pip install 'autocoarse\[onnx\]'"):
                open_onnx(path, CPU)


def test_precision_and_device_that_are_not_to_be_had(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision of its own, or a CUDA that the runtime has not, are refused before the file is read."""
    path = save(convolution())
    with pytest.raises(SettingsError, match="precision is bf16"):
        open_onnx(path, ModelSettings(CPU.device, "bf16"))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SettingsError, match="pip install onnxruntime-gpu"):
        open_onnx(path, ModelSettings(torch.device("cuda")))


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it may load CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_runtime_that_cannot_load_cuda_is_refused(save: Save) -> None:
    """Where onnxruntime takes the CPU in CUDA's stead, without an error, the network is not run there."""
    with pytest.raises(SettingsError, match="cannot load CUDA here"):
        _open(save(convolution()), torch.device("cuda:99"), 1)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 300), st.one_of(st.none(), st.integers(1000, 6000)))
def test_nearest_length_is_one_that_is_taken(length: int, multiple: int, least: int, most: int | None) -> None:
    """The nearest length is a multiple within the bounds, and a length that is taken is its own nearest."""
    side = Side(multiple=multiple, least=least, most=most)
    nearest = side.nearest(length)
    assert nearest % multiple == 0
    assert nearest >= least
    assert most is None or nearest <= most
    assert side.nearest(nearest) == nearest
    assert ImageForm(side, side).size_for((nearest, nearest), 0.5, "it", native=True) == (nearest, nearest)
