import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from storage.errors import CheckpointError, MissingFileError, SettingsError, WorkspaceError
from storage.schema import ClassSchema, load_schema
from teacher.checkpoint import load_checkpoint, save_checkpoint
from teacher.encoder_weights import load_encoder_weights
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.weights import load_strictly, read_state_dict, state_digest

FillNetwork = Callable[[NetworkSpec], nn.Module]


class _Hostile:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_hostile_file_runs_no_code(tmp_path: Path, writer: str) -> None:
    """A file that would run code when unpickled is refused, and runs none."""
    victim, path = tmp_path / "touched", tmp_path / "hostile.pt"
    if writer == "torch":
        torch.save({"state_dict": _Hostile(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": _Hostile(victim)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"hostile\.pt: cannot be read"):
        read_state_dict(path)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all\n" * 20, b"PK\x03\x04 zip begins", b"\x80\x02."])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """A file of other content is refused with what was expected."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="Expected tensors and plain values"):
        read_state_dict(path)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, name: str, kept: float) -> None:
    """A checkpoint that was cut short is refused wherever the cut is."""
    path = tmp_path / name
    state = {"weight": torch.randn(100, 100)}
    safetensors.torch.save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(CheckpointError, match="cut short"):
        read_state_dict(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is another error than one that cannot be used."""
    with pytest.raises(MissingFileError, match=r"nowhere\.pt"):
        read_state_dict(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {}}, {"state_dict": {"a": 1.0}}, {1: 2}])
def test_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    """A readable file that has no named tensors is refused."""
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"empty\.pt"):
        read_state_dict(path)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_known_layouts_give_the_same_weights(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    """Flat or under "state_dict", with the data-parallel prefix or without: the weights are the same."""
    weights = {"conv.weight": torch.randn(2, 3), "bn.bias": torch.randn(2)}
    named = {prefix + name: value for name, value in weights.items()}
    path = tmp_path / "weights.pt"
    torch.save(
        {"epoch": 0, "mean_iu": np.float64(0.5), "optimizer": {}, "state_dict": named} if wrapped else named, path
    )
    read = read_state_dict(path)
    assert state_digest(read) == state_digest(weights)


def test_prefix_is_stripped_only_from_all(tmp_path: Path) -> None:
    """A network whose own part is called module keeps its names."""
    path = tmp_path / "weights.pt"
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert read_state_dict(path).keys() == {"module.a", "b"}


def test_strict_loading_lists_what_does_not_fit(narrow_spec: NetworkSpec) -> None:
    """Missing, unexpected and mis-shaped entries are counted and named, and the network keeps its weights."""
    network = build_network(narrow_spec)
    before = state_digest(network.state_dict())
    state = {name: value + 1 for name, value in network.state_dict().items()}
    del state["backbone.conv1.weight"]
    state["other.weight"] = torch.zeros(1)
    state["backbone.bn1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        load_strictly(network, state, "a file")
    message = str(caught.value)
    assert message.startswith("a file: ")
    assert "1 missing: backbone.conv1.weight" in message
    assert "1 unexpected: other.weight" in message
    assert "1 of another shape: backbone.bn1.bias (7,) instead of (64,)" in message
    assert state_digest(network.state_dict()) == before


def test_long_lists_are_cut(narrow_spec: NetworkSpec) -> None:
    """Of many missing entries ten are named, and all are counted."""
    network = build_network(narrow_spec)
    with pytest.raises(CheckpointError) as caught:
        load_strictly(network, {}, "a file")
    message = str(caught.value)
    assert f"{len(network.state_dict())} missing" in message
    assert message.count("backbone.") == 10


@pytest.mark.parametrize("network", ["hrnet-ocr", "deeplabv3plus"])
def test_other_number_of_classes_is_said(narrow_spec: NetworkSpec, network: str) -> None:
    """Weights for another number of classes are recognised as such."""

    def build(classes: int) -> nn.Module:
        if network == "hrnet-ocr":
            return build_network(NetworkSpec.from_dict(narrow_spec.to_dict() | {"num_classes": classes}, "here"))
        return build_network(default_spec("deeplabv3plus", classes, "mobilenetv3_small_050"))

    with pytest.raises(CheckpointError, match="the checkpoint has 19 classes, 11 were asked for"):
        load_strictly(build(11), build(19).state_dict(), "a file")


def test_digest_depends_on_everything_but_layout() -> None:
    """The digest tells names, types, shapes and values apart, and not memory layouts."""
    weight = torch.randn(4, 3, 2, 2)
    digest = state_digest({"w": weight})
    assert state_digest({"w": weight.to(memory_format=torch.channels_last)}) == digest
    others = [{"v": weight}, {"w": weight.double()}, {"w": weight.view(4, 12)}, {"w": weight.nextafter(weight + 1)}]
    assert digest not in {state_digest(other) for other in others}


def test_saved_checkpoint_comes_back(
    tmp_path: Path, fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema
) -> None:
    """Weights, specification, schema and record come back as they were saved; the folder holds nothing else."""
    path = tmp_path / "teacher.pt"
    network = fill_network(narrow_spec)
    record = {"epoch": 3, "optimiser": {"state": {0: {"momentum": torch.ones(2)}}}, "history": [(1, 0.5)], "note": None}
    save_checkpoint(path, network, narrow_spec, schema, {})
    save_checkpoint(path, network, narrow_spec, schema, record)
    loaded = load_checkpoint(path)
    assert loaded.spec == narrow_spec
    assert loaded.schema == schema
    assert loaded.record["epoch"] == 3
    assert torch.equal(loaded.record["optimiser"]["state"][0]["momentum"], torch.ones(2))
    assert state_digest(loaded.state_dict) == state_digest(network.state_dict())
    assert list(tmp_path.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow_spec: NetworkSpec, schema: ClassSchema
) -> None:
    """A write that fails half-way leaves the checkpoint that was there, no temporary file, and says what to do."""
    path = tmp_path / "teacher.pt"
    network = build_network(narrow_spec)
    save_checkpoint(path, network, narrow_spec, schema, {"epoch": 1})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkspaceError, match="No space left on device; free some space"):
        save_checkpoint(path, network, narrow_spec, schema, {"epoch": 2})
    assert load_checkpoint(path).record == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_record_of_other_objects_is_refused(tmp_path: Path, narrow_spec: NetworkSpec, schema: ClassSchema) -> None:
    """What could not be read back without running code is not written."""
    with pytest.raises(SettingsError, match="record"):
        save_checkpoint(tmp_path / "t.pt", build_network(narrow_spec), narrow_spec, schema, {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_schema_must_have_the_networks_classes(tmp_path: Path, narrow_spec: NetworkSpec) -> None:
    """A checkpoint is not written with a schema of another number of classes."""
    with pytest.raises(SettingsError, match="19 classes, the network 3"):
        save_checkpoint(tmp_path / "t.pt", build_network(narrow_spec), narrow_spec, load_schema("cityscapes"), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something else"}, "not what network and classes"),
        ({"version": 99}, "version 99, expected 1"),
        ({"network": None}, "specification"),
        ({"schema": {"classes": []}}, "schema"),
        ({"schema": {"classes": [{"name": "one"}]}}, "1 classes, its network 3"),
        ({"schema": {"classes": [{"name": "one"}], "ignored_source_ids": ["x"]}}, "schema"),
        ({"record": 5}, "record"),
        ({"state_dict": {"a": "b"}}, "no weights"),
    ],
)
def test_damaged_checkpoint_is_refused(
    tmp_path: Path, narrow_spec: NetworkSpec, schema: ClassSchema, change: dict[str, object], message: str
) -> None:
    """A checkpoint with a part that cannot be is refused, naming that part."""
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, build_network(narrow_spec), narrow_spec, schema, {})
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("own_names", [True, False])
def test_encoder_weights_are_taken_by_name_or_in_order(tmp_path: Path, encoder: str, own_names: bool) -> None:
    """Weights of timm's classifier fit under timm's names, and under others when all come in the same order."""
    torch.manual_seed(1)
    source = timm.create_model(encoder).eval()
    state = source.state_dict()
    if not own_names:
        parts = [name.rpartition(".") for name in state]
        state = {f"layer{i}.{leaf}": v for i, ((_, _, leaf), v) in enumerate(zip(parts, state.values(), strict=True))}
    else:
        state = dict(reversed(state.items()))
    torch.save(state, tmp_path / "imagenet.pth")
    network = build_network(default_spec("deeplabv3plus", 3, encoder)).eval()
    decoder = state_digest(network.decoder.state_dict())
    load_encoder_weights(network, tmp_path / "imagenet.pth")
    taken = {name.replace("_", ".").replace(".", ""): v for name, v in source.state_dict().items()}
    for name, value in network.encoder.model.state_dict().items():
        assert torch.equal(value, taken[name.replace("_", ".").replace(".", "")]), name
    assert state_digest(network.decoder.state_dict()) == decoder


def test_trunk_weights_are_taken_from_a_classifier(tmp_path: Path, narrow_spec: NetworkSpec) -> None:
    """A trunk takes its entries by name from a file that has more."""
    source = {n: v + 1 if v.ndim else v for n, v in build_network(narrow_spec).backbone.state_dict().items()}
    path = tmp_path / "imagenet.pth"
    torch.save({f"model.{n}": v for n, v in source.items()} | {"model.classifier.weight": torch.zeros(1)}, path)
    network = build_network(narrow_spec)
    load_encoder_weights(network, path)
    assert state_digest(network.backbone.state_dict()) == state_digest(source)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    """A file for another encoder is refused with where it departs, and the network keeps its weights."""
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "imagenet.pth")
    network = build_network(default_spec("deeplabv3plus", 3, "mobilenetv3_small_050"))
    before = state_digest(network.state_dict())
    with pytest.raises(CheckpointError, match=r"not for this encoder.*conv_stem\.weight \(16, 3, 3, 3\) meets"):
        load_encoder_weights(network, tmp_path / "imagenet.pth")
    assert state_digest(network.state_dict()) == before


def test_only_networks_with_an_encoder_take_its_weights(tmp_path: Path) -> None:
    """A module that is none of our networks has no encoder to load."""
    with pytest.raises(SettingsError, match="Linear has no encoder"):
        load_encoder_weights(nn.Linear(1, 1), tmp_path / "imagenet.pth")
