"""Weights that a whole network starts from: what fits is taken, and what does not is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from storage.errors import CheckpointError, MissingFileError
from storage.schema import ClassInfo, ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.encoder_weights import COUNTER
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.start_weights import load_start_weights
from teacher.weights import StateDict

FillNetwork = Callable[[NetworkSpec], nn.Module]

BY_CLASS = {"ocr.cls_head.weight", "ocr.cls_head.bias", "ocr.aux_head.2.weight", "ocr.aux_head.2.bias"}
"""The entries of an HRNet-OCR whose first axis are the classes."""


@pytest.fixture
def filled(narrow_spec: NetworkSpec, fill_network: FillNetwork) -> StateDict:
    """The weights of a trained network for three classes."""
    return fill_network(narrow_spec).state_dict()


def equal_entries(network: nn.Module, state: StateDict) -> set[str]:
    """The entries that a network has in common with some weights, values and all."""
    own = network.state_dict()
    return {name for name in own if name in state and torch.equal(own[name], state[name])}


def test_own_checkpoint_is_taken_whole(
    tmp_path: Path, narrow_spec: NetworkSpec, fill_network: FillNetwork, schema: ClassSchema
) -> None:
    """Of an own checkpoint of the same network every entry is taken, and there is nothing to say."""
    trained = fill_network(narrow_spec)
    save_checkpoint(tmp_path / "own.pt", trained, narrow_spec, schema, {})
    network = build_network(narrow_spec)
    assert not load_start_weights(network, 3, tmp_path / "own.pt")
    assert equal_entries(network, trained.state_dict()) == network.state_dict().keys()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_single_scale_weights_of_other_classes_start_a_multi_scale_network(
    tmp_path: Path, narrow_spec: NetworkSpec, filled: StateDict, prefix: str
) -> None:
    """As in the reference classifiers and scale attention keep their start values and are named; all else is taken."""
    public = {prefix + name: value for name, value in filled.items() if not name.startswith("scale_attn")}
    torch.save({"epoch": 9, "state_dict": public}, tmp_path / "public.pth")
    network = build_network(replace(narrow_spec, num_classes=5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    said = load_start_weights(network, 5, tmp_path / "public.pth")
    attention = {name for name in filled if name.startswith("scale_attn")}
    kept = {name for name in filled if name in BY_CLASS or name in attention}
    assert equal_entries(network, filled) >= filled.keys() - kept
    assert equal_entries(network, before) >= kept
    assert f"{len(BY_CLASS)} entries are for another number of classes and keep their start values: " in said
    assert all(name in said for name in BY_CLASS)
    parameters = [name for name in attention if not name.endswith(COUNTER)]
    assert f"{len(parameters)} entries are not in it and keep their start values: scale_attn" in said


def test_what_is_not_used_is_named(tmp_path: Path, narrow_spec: NetworkSpec, filled: StateDict) -> None:
    """Entries that the network does not know are left out, and said; missing counters of batch norm are not."""
    state = {name: value for name, value in filled.items() if not name.endswith(COUNTER)}
    torch.save({**state, "projector.weight": torch.zeros(2)}, tmp_path / "more.pth")
    said = load_start_weights(build_network(narrow_spec), 3, tmp_path / "more.pth")
    assert said == f"{tmp_path / 'more.pth'}: 1 entries of it are not used: projector.weight"


def test_weights_of_another_network_are_refused(tmp_path: Path, narrow_spec: NetworkSpec, filled: StateDict) -> None:
    """A trunk alone, another width and another network are errors that leave the network as it was."""
    trunk = {name.removeprefix("backbone."): value for name, value in filled.items() if name.startswith("backbone.")}
    wider = build_network(replace(narrow_spec, width=6)).state_dict()
    deeplab = build_network(default_spec("deeplabv3plus", 3, "resnet10t")).state_dict()
    network = build_network(narrow_spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for name, state, message in (
        ("trunk", trunk, "none of its entries fits; it has conv1.weight"),
        ("wider", wider, r"backbone\S+ \(6, .*\) instead of \(4, "),
        ("deeplab", deeplab, "is not for this network"),
    ):
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError, match=message):
            load_start_weights(network, 3, tmp_path / f"{name}.pth")
    assert equal_entries(network, before) == before.keys()


def test_axes_other_than_the_classes_must_agree(tmp_path: Path, narrow_spec: NetworkSpec, filled: StateDict) -> None:
    """A classifier on other features is not one for other classes."""
    torch.save({**filled, "ocr.cls_head.weight": torch.zeros(5, 8, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"ocr.cls_head.weight \(5, 8, 1, 1\) instead of \(3, 16, 1, 1\)"):
        load_start_weights(build_network(narrow_spec), 3, tmp_path / "other.pth")


def test_missing_file_is_named(tmp_path: Path, narrow_spec: NetworkSpec) -> None:
    """A path that leads nowhere is its own error."""
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        load_start_weights(build_network(narrow_spec), 3, tmp_path / "nowhere.pth")


def test_deeplab_of_other_classes_starts_too(tmp_path: Path) -> None:
    """An own checkpoint of DeepLabV3+ for other classes gives all but its classifier."""
    trained = build_network(default_spec("deeplabv3plus", 2, "resnet10t"))
    schema = ClassSchema("two", (ClassInfo("a", (0, 0, 0), (0,)), ClassInfo("b", (1, 1, 1), (1,))))
    save_checkpoint(tmp_path / "two.pt", trained, default_spec("deeplabv3plus", 2, "resnet10t"), schema, {})
    network = build_network(default_spec("deeplabv3plus", 3, "resnet10t"))
    said = load_start_weights(network, 3, tmp_path / "two.pt")
    assert said.endswith("keep their start values: classifier.weight, classifier.bias")
    left = network.state_dict().keys() - equal_entries(network, trained.state_dict())
    assert left == {"classifier.weight", "classifier.bias"}
