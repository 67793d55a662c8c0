"""ImageNet weights of the trunks that timm does not have, in the names of their public files."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from storage.errors import CheckpointError
from teacher.encoder_weights import load_encoder_weights
from teacher.networks import encoders
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.networks.wide_resnet import WideResNet
from teacher.weights import state_digest

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
StateDict = dict[str, Tensor]


def _public_names() -> Iterator[str]:
    """The names of wider_resnet38.pth.tar, written out from its structure, without its data-parallel prefix."""
    yield "mod1.conv1.weight"
    for module, blocks in enumerate((3, 3, 6, 3, 1, 1), start=2):
        for block in range(1, blocks + 1):
            name = f"mod{module}.block{block}"
            convolutions = 3 if module > 5 else 2
            yield from (f"{name}.bn1.0.{leaf}" for leaf in NORM)
            for number in range(1, convolutions + 1):
                yield f"{name}.convs.conv{number}.weight"
                if number < convolutions:
                    yield from (f"{name}.convs.bn{number + 1}.0.{leaf}" for leaf in NORM)
            if block == 1:
                yield f"{name}.proj_conv.weight"
    yield from (f"bn_out.0.{leaf}" for leaf in NORM)
    yield from ("classifier.fc.weight", "classifier.fc.bias")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """DeepLabV3+ on a narrow wide ResNet-38."""
    monkeypatch.setitem(encoders.OWN_ENCODERS, "wide_resnet38", functools.partial(WideResNet, width=2))
    return build_network(default_spec("deeplabv3plus", 3, "wide_resnet38"))


def _public_file(trunk: nn.Module) -> StateDict:
    """Weights in the public layout that no start values could be mistaken for."""
    own = trunk.state_dict()
    made = {}
    for number, name in enumerate(_public_names()):
        shape = own[name].shape if name in own else torch.Size([10])
        made[name] = torch.tensor(number) if name.endswith("tracked") else torch.full(shape, float(number))
    return made


@pytest.mark.parametrize("form", ["data parallel", "flat", "safetensors", "old"])
def test_wide_resnet_takes_its_public_file(tmp_path: Path, wide: nn.Module, form: str) -> None:
    """Every entry of the trunk is the file's, by name; its classifier, and the rest of the network, are left alone."""
    source = _public_file(wide.encoder)
    decoder = state_digest(wide.decoder.state_dict())
    if form == "old":  # of a torch whose batch norms did not count
        source = {name: value for name, value in source.items() if not name.endswith("tracked")}
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "wider_resnet38.pth.tar")
    if form == "safetensors":
        safetensors.torch.save_file(source, path)
    elif form == "data parallel":
        torch.save({"state_dict": {f"module.{name}": value for name, value in source.items()}, "epoch": 90}, path)
    else:
        torch.save(source, path)
    load_encoder_weights(wide, path)
    for name, value in wide.encoder.state_dict().items():
        if not name.endswith("tracked"):
            assert torch.equal(value, source[name]), name
    assert state_digest(wide.decoder.state_dict()) == decoder


def test_full_wide_resnet_has_the_public_entries() -> None:
    """The trunk's names are those of the public file but for its classifier, with the shapes of the paper's widths."""
    with torch.device("meta"):
        own = WideResNet().state_dict()
    assert set(own) == {name for name in _public_names() if not name.startswith("classifier.")}
    assert own["mod5.block1.convs.conv2.weight"].shape == (1024, 512, 3, 3)
    assert own["mod7.block1.convs.conv3.weight"].shape == (4096, 2048, 1, 1)
    assert own["bn_out.0.weight"].shape == (4096,)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mod4.block2.convs.conv1.weight": None}, r"1 missing: mod4\.block2\.convs\.conv1\.weight"),
        ({"aspp.weight": torch.zeros(2)}, r"1 unknown: aspp\.weight"),
        ({"mod1.conv1.weight": torch.zeros(64, 3, 7, 7)}, r"of another shape: mod1\.conv1\.weight \(64, 3, 7, 7\)"),
    ],
)
def test_what_does_not_fit_a_trunk_is_named(
    tmp_path: Path, wide: nn.Module, change: dict[str, Tensor | None], problem: str
) -> None:
    """A file that lacks an entry, or has one too many or of another shape, is refused by that name; nothing changes."""
    changed = _public_file(wide.encoder) | change
    torch.save({name: value for name, value in changed.items() if value is not None}, tmp_path / "weights.pth")
    before = state_digest(wide.state_dict())
    with pytest.raises(CheckpointError, match=problem):
        load_encoder_weights(wide, tmp_path / "weights.pth")
    assert state_digest(wide.state_dict()) == before


HEAD_OF_HRNET = (
    "incre_modules.0.0.conv1.weight",
    "downsamp_modules.0.0.weight",
    "final_layer.0.weight",
    "classifier.weight",
    "classifier.bias",
)


def test_hrnet_takes_its_public_file(tmp_path: Path, narrow_spec: NetworkSpec) -> None:
    """The trunk's entries are taken, those of the ImageNet classifier are left out, and any other is refused."""
    network = build_network(narrow_spec)
    trunk = {name: value + 1 if value.ndim else value for name, value in network.backbone.state_dict().items()}
    source = trunk | {name: torch.zeros(1) for name in HEAD_OF_HRNET}
    torch.save(source, tmp_path / "hrnetv2.pth")
    load_encoder_weights(network, tmp_path / "hrnetv2.pth")
    assert state_digest(network.backbone.state_dict()) == state_digest(trunk)
    torch.save(source | {"last_layer.0.weight": torch.zeros(1)}, tmp_path / "segmentation.pth")
    with pytest.raises(CheckpointError, match=r"1 unknown: last_layer\.0\.weight"):
        load_encoder_weights(network, tmp_path / "segmentation.pth")


def test_a_trunk_takes_its_part_of_an_own_network(tmp_path: Path, wide: nn.Module) -> None:
    """Of a whole network's entries, those of its encoder are taken, and the others are nobody's business."""
    source = {name: value + 1 if value.ndim else value for name, value in wide.state_dict().items()}
    torch.save(source, tmp_path / "whole.pth")
    load_encoder_weights(wide, tmp_path / "whole.pth")
    expected = {name.removeprefix("encoder."): v for name, v in source.items() if name.startswith("encoder.")}
    assert state_digest(wide.encoder.state_dict()) == state_digest(expected)


def test_weights_for_another_trunk_are_refused(tmp_path: Path, narrow_spec: NetworkSpec, wide: nn.Module) -> None:
    """The public weights of one trunk are no weights of another."""
    torch.save(_public_file(wide.encoder), tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight.*unknown: mod1\.conv1\.weight"):
        load_encoder_weights(build_network(narrow_spec), tmp_path / "wide.pth")
