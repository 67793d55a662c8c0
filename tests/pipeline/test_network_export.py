"""Our own networks as ONNX and as exported programs: they label as the network does."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

from cli.main import main
from pipeline import network_export
from pipeline.network_export import NetworkExport, export_network
from pipeline.scenes import generate_scene
from storage.errors import CheckpointError, SettingsError
from storage.schema import ClassInfo, ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.foreign.contract import ModelSettings
from teacher.foreign.exported import open_exported
from teacher.foreign.notes import Notes
from teacher.foreign.onnx_model import open_onnx
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network

TRACED = network_export._traced
CPU = ModelSettings(torch.device("cpu"))
SPEC = NetworkSpec("deeplabv3plus", 4, "test_efficientnet", mean=(0.5, 0.4, 0.3))
SCHEMA = ClassSchema("four", tuple(ClassInfo(name, (0, 0, 9), (9 + i,)) for i, name in enumerate("abcd")))
HAS_ONNX = importlib.util.find_spec("onnx") is not None and importlib.util.find_spec("onnxruntime") is not None
FORMS = [".pt2", pytest.param(".onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="onnx is not installed"))]


@dataclass(frozen=True)
class Exported:
    """A network, its checkpoint, and what it was exported as, by suffix."""

    network: nn.Module
    checkpoint: Path
    made: dict[str, NetworkExport]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """A network that has seen scenes, exported in both forms; torch follows it once for both, as that takes seconds."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(11)
    network = build_network(SPEC)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.cat([normalised(scene(index, (64, 96))) for index in range(3)]))
    checkpoint = folder / "checkpoint.pt"
    save_checkpoint(checkpoint, network, SPEC, SCHEMA, {})
    forms = (".pt2", ".onnx") if HAS_ONNX else (".pt2",)
    known: dict[tuple[int, int] | None, ExportedProgram] = {}

    def traced_once(network: nn.Module, size: tuple[int, int] | None) -> ExportedProgram:
        if size not in known:
            known[size] = TRACED(network, size)
        return known[size]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_export, "_traced", traced_once)
        made = {suffix: export_network(checkpoint, folder / f"network{suffix}") for suffix in forms}
        yield Exported(network.eval(), checkpoint, made)


def scene(index: int, size: tuple[int, int]) -> Tensor:
    """An image in [0, 1], (1, 3, height, width)."""
    pixels = torch.from_numpy(generate_scene(5, index, size).image.copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def normalised(image: Tensor) -> Tensor:
    """As the network takes it."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (SPEC.mean, SPEC.std))
    return (image - mean) / std


@pytest.mark.parametrize("suffix", FORMS)
def test_an_export_labels_as_the_network_does(exported: Exported, suffix: str) -> None:
    """On images of several sizes at least 99.99 % of the pixels get the label that the network gives them."""
    made = exported.made[suffix]
    model = (open_onnx if suffix == ".onnx" else open_exported)(made.out, CPU)
    assert model.labels == ("a", "b", "c", "d")
    same = total = 0
    for index, size in enumerate([(96, 160), (101, 93), (64, 64), (75, 200)]):
        image = scene(index, size)
        with torch.inference_mode():
            own = exported.network(normalised(image), attend=False).logits
        labels, given = (
            functional.interpolate(logits, size=size, mode="bilinear").argmax(1) for logits in (own, model(image, 1.0))
        )
        same += int((labels == given).sum())
        total += labels.numel()
        assert len(labels.unique()) > 1
    assert same >= 0.9999 * total


@pytest.mark.parametrize("suffix", FORMS)
def test_an_export_says_what_it_is(exported: Exported, suffix: str) -> None:
    """The file tells classes, normalisation and what is left out, and the export how far it differs."""
    made = exported.made[suffix]
    assert made.labels == SCHEMA.names
    assert made.difference <= 1e-4 * made.largest
    assert made.left_out == ("the scale attention: at several scales the export is averaged",)
    facts = (open_onnx if suffix == ".onnx" else open_exported)(made.out, CPU).facts()
    assert facts["mean"] == "0.5 0.4 0.3, as the file says"
    assert facts["outputs"] == "logits, as the file says"
    assert (
        "deeplabv3plus on test_efficientnet of autocoarse, trained for hierarchical; left out: the scale"
        in facts["remark"]
    )


def test_an_export_of_one_size(exported: Exported, tmp_path: Path) -> None:
    """With a size the file takes images of that size alone, any number of them."""
    made = export_network(exported.checkpoint, tmp_path / "network.pt2", (64, 96))
    model = open_exported(made.out, CPU)
    assert model.facts()["sizes"].startswith("96x64 pixels")
    image = scene(1, (64, 96))
    with torch.inference_mode():
        assert torch.equal(model(image, 1.0), exported.network(normalised(image), attend=False).logits)
        assert model(torch.cat([image, image]), 1.0).shape == (2, 4, 16, 24)


def test_an_export_that_differs_is_not_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file does not say what the network says, there is an error and no file."""
    monkeypatch.setattr("pipeline.network_export._compare", lambda *_: (0.5, 2.0))
    with pytest.raises(CheckpointError, match=r"differ by 0\.5, of at most 2, from its own: nothing is written"):
        export_network(exported.checkpoint, tmp_path / "network.pt2", (64, 96))
    assert list(tmp_path.iterdir()) == []


def test_attention_over_regions_is_exported_with_an_axis_of_heads() -> None:
    """Products of attention without heads, which ONNX's exporter does not know, are followed as those of one head."""
    query, key, value = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(1))
    plain = functional.scaled_dot_product_attention(query, key, value)
    with network_export._BatchedAttention():
        torch.testing.assert_close(functional.scaled_dot_product_attention(query, key, value), plain)

    class Attends(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            with network_export._BatchedAttention():
                return functional.scaled_dot_product_attention(images, images, images)

    program = torch.export.export(Attends(), (query,))
    node = next(node for node in program.graph.nodes if "scaled_dot_product" in str(node.target))
    assert all(len(each.meta["val"].shape) == 4 for each in node.args)


class _PaddedLikeTensorFlow(nn.Module):
    """Convolutions whose padding depends on the size that comes, as a network of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            Conv2dSame(3, 4, 3, stride=2), Conv2dSame(4, 4, 5, stride=2, groups=2), Conv2dSame(4, 4, 3, dilation=2)
        )

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Scores at a quarter of the size."""
        assert not attend
        return ScalePrediction(self.stages(images), None, None)


@pytest.mark.skipif(not HAS_ONNX, reason="onnx is not installed")
def test_padding_that_depends_on_the_size_is_exported_for_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions padded as TensorFlow pads give the same in ONNX at odd and at even sizes, and stay as they were."""
    monkeypatch.setattr(network_export, "_traced", TRACED)
    torch.manual_seed(4)
    network = _PaddedLikeTensorFlow().eval()
    (tmp_path / "network.onnx").write_bytes(network_export._content(network, Notes(), ".onnx", None))
    assert all(isinstance(stage, Conv2dSame) for stage in network.stages)
    model = open_onnx(tmp_path / "network.onnx", ModelSettings(CPU.device, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    for size in ((64, 96), (65, 97), (66, 99), (67, 98)):
        image = scene(0, size)
        with torch.inference_mode():
            torch.testing.assert_close(model(image, 1.0), network(image, attend=False).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("network.pb", None, "has the suffix '.pb', expected .onnx or .pt2"),
        ("network.onnx", (16, 64), "size is 64x16, expected sides of at least 32 pixels"),
        ("absent/network.onnx", None, "is no folder"),
    ],
)
def test_what_cannot_be_exported_so_is_refused(
    exported: Exported, tmp_path: Path, name: str, size: tuple[int, int] | None, reason: str
) -> None:
    """An unknown suffix, a size that is too small and an absent folder are refused at once."""
    with pytest.raises(SettingsError, match=reason):
        export_network(exported.checkpoint, tmp_path / name, size)


def test_a_file_that_is_there_is_not_replaced(exported: Exported, tmp_path: Path) -> None:
    """It may be somebody's: it stays as it was."""
    (tmp_path / "network.pt2").write_text("mine")
    with pytest.raises(SettingsError, match="is there already"):
        export_network(exported.checkpoint, tmp_path / "network.pt2", None)
    assert (tmp_path / "network.pt2").read_text() == "mine"


def test_the_command_says_what_it_wrote(exported: Exported, tmp_path: Path) -> None:
    """`export-network` writes the file and tells the difference, also as JSON; another suffix is a usage error."""
    arguments = ["export-network", str(exported.checkpoint), "--size", "96x64", "--json", "--out"]
    done = CliRunner().invoke(main, [*arguments, str(tmp_path / "network.pt2")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["form"], told["size"], told["labels"]) == ("torch.export", [64, 96], list("abcd"))
    assert told["difference"] == 0
    assert (tmp_path / "network.pt2").is_file()
    assert CliRunner().invoke(main, [*arguments, str(tmp_path / "network.xyz")]).exit_code == 2
