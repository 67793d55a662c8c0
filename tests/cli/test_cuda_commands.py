"""The commands on a CUDA device: they do there what they do on the CPU, up to the rounding of another device."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli.main import main
from storage.label_png import read_label_values
from storage.schema import ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DEVICE = "cuda"
SCALES = ("--scales", "0.5,1")
COUNT = 6
FACTORY = """
import torch

def make(device):
    mixture = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], device=device)
    return lambda images: torch.einsum("lc,bchw->blhw", mixture, torch.nn.functional.avg_pool2d(images, 4))
"""


def run(*arguments: object) -> str:
    """Run a command in this process, well; gives what it prints."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def labels_of(root: Path) -> np.ndarray:
    """All labels of a run, one after the other."""
    return np.stack([read_label_values(path) for path in sorted((root / "labels").glob("*.png"))])


@pytest.fixture
def data(tmp_path: Path, schema: ClassSchema, make_image: Callable[..., object]) -> Path:
    """Images of noise with labels in blocks, and the classes."""
    (tmp_path / "truth").mkdir()
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    for number in range(COUNT):
        make_image(tmp_path / f"images/{number}.png", (64, 96), number)
        truth = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (8, 12))
        Image.fromarray(truth.repeat(8, 0).repeat(8, 1)).save(tmp_path / f"truth/{number}.png")
    return tmp_path


def _hugging_face(data: Path, _: Path) -> str:
    models = pytest.importorskip("tests.teacher.hugging_face_models")
    return f"hf:{models.save_model(models.segformer, data / 'model')}"


def _onnx(data: Path, checkpoint: Path) -> str:
    if "CUDAExecutionProvider" not in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("onnxruntime is built for the CPU")
    run("export-network", checkpoint, "--out", data / "network.onnx")
    return f"onnx:{data / 'network.onnx'}"


def _exported(data: Path, checkpoint: Path) -> str:
    run("export-network", checkpoint, "--out", data / "network.pt2")
    return f"exported:{data / 'network.pt2'}"


def _factory(data: Path, _: Path) -> str:
    (data / "on_any_device.py").write_text(FACTORY)
    return "python:on_any_device:make"


@pytest.mark.parametrize("make", [_hugging_face, _onnx, _exported, _factory])
def test_foreign_teachers_label_as_on_the_cpu(
    make: Callable[[Path, Path], str], data: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher of each kind is the same one to the ledger on both devices, and nearly all its pixels are."""
    monkeypatch.chdir(data)
    name = make(data, tiny_teacher)
    classes = () if name.startswith("hf") else ("--classes", data / "classes.json")
    how = ("label", "--images", data / "images", "--teacher", name, *classes, *SCALES, "--threshold", "0.3")
    for device in ("cpu", DEVICE):
        run(*how, "--device", device, "--out", data / device)
    here, there = labels_of(data / "cpu"), labels_of(data / DEVICE)
    assert len(np.unique(here)) > 2
    # a processor of transformers rounds resized images to whole numbers otherwise on a device
    assert (here == there).mean() > (0.9 if name.startswith("hf") else 0.995)
    # the run goes on on the other device: the teacher is known by what it is
    run(*how, "--device", "cpu", "--out", data / DEVICE)


def test_workers_label_as_one_process(data: Path, tiny_teacher: Path) -> None:
    """A worker that is shown its own GPU gives the labels of a run without workers."""
    how = ("label", "--images", data / "images", "--teacher", tiny_teacher, *SCALES, "--device", DEVICE)
    run(*how, "--out", data / "one")
    run(*how, "--out", data / "workers", "--workers", "1")
    assert np.array_equal(labels_of(data / "one"), labels_of(data / "workers"))


def test_calibration_counts_as_on_the_cpu(data: Path, tiny_teacher: Path) -> None:
    """At a temperature that is fitted there, precision and coverage are those of the CPU."""
    paths = ("--teacher", tiny_teacher, "--images", data / "images", "--truth", data / "truth")
    evidence = ("--min-images", "2", "--min-pixels", "1", "--block", "1", "--target-precision", "0.3")
    options = (*SCALES, *evidence, "--fit-temperature", "--json")
    found = [
        json.loads(run("calibrate", *paths, *options, "--device", device, "--out", data / f"{device}.json"))
        for device in ("cpu", DEVICE)
    ]
    confusions = [np.array(one["confusion"]) for one in found]
    assert confusions[0].sum() == confusions[1].sum()
    assert np.abs(confusions[0] - confusions[1]).sum() <= 0.01 * confusions[0].sum()
    assert found[0]["ece"] == pytest.approx(found[1]["ece"], abs=0.01)


def test_an_attention_is_fitted_and_used(data: Path, schema: ClassSchema) -> None:
    """The head that was fitted on the device labels there, with its attention maps."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050", attention="average")
    torch.manual_seed(3)
    save_checkpoint(data / "average.pt", build_network(spec), spec, schema, {})
    paths = ("--teacher", data / "average.pt", "--images", data / "images", "--labels", data / "truth")
    options = (*SCALES, "--steps", "4", "--batch", "2", "--channels", "4", "--device", DEVICE, "--json")
    fitted = json.loads(run("fit-attention", *paths, *options, "--out", data / "fit"))
    assert set(fitted["fusions"]) == {"single", "average", "attention"}
    how = ("--teacher", fitted["teacher"], "--images", data / "images", *SCALES, "--device", DEVICE)
    run("label", *how, "--save-attention", "--out", data / "run")
    assert len(list((data / "run/attention/0.5").iterdir())) == COUNT


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_network_is_trained_and_judged(data: Path, precision: str) -> None:
    """In each precision some steps are taken, the state is gone on from, and the CPU judges as the device does."""
    training = [
        *("train", "--fine-images", data / "images", "--fine-labels", data / "truth", "--classes"),
        *(data / "classes.json", "--encoder", "mobilenetv3_small_050", "--steps", "4", "--crop", "64x64"),
        *("--batch", "2", "--workers", "0", "--device", DEVICE, "--precision", precision),
        *("--out", data / "out", "--json"),
    ]
    trained = json.loads(run(*training))
    assert json.loads(run(*training))["steps"] == trained["steps"] == 4
    paths = ("--images", data / "images", "--truth", data / "truth", "--classes", data / "classes.json")
    judge = ("evaluate", "--checkpoint", trained["checkpoint"], *paths, *SCALES, "--allow-training-images", "--json")
    here, there = (json.loads(run(*judge, "--device", device))["pixel_accuracy"] for device in ("cpu", DEVICE))
    assert here == pytest.approx(there, abs=0.01)
