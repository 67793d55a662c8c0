"""The scale head for a frozen teacher: what it gives, what its file holds, and files that are not to be believed."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from storage.errors import CheckpointError, MissingFileError, SettingsError, ShapeError
from teacher.foreign.scale_head import REACH, HeadRecord, ScaleHead, load_head, save_head
from teacher.fusion import ScaledPrediction, size_at_scale
from teacher.late_fusion import joint_logits

RECORD = HeadRecord("ab" * 32, "cd" * 8, (0.5, 1.0, 2.0), {"ef" * 32: "town/one"}, {"settings": {"steps": 3}})


def random_head(inputs: int = 3, channels: int = 6, seed: int = 0) -> ScaleHead:
    """A head whose last layer is no longer the constant that it starts as."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = ScaleHead(inputs, channels).eval()
        torch.nn.init.normal_(head.conv3.weight, std=3)
    return head


def random_logits(classes: int, size: tuple[int, int], seed: int, spread: float = 4) -> Tensor:
    """Logits (1, class, height, width)."""
    return torch.randn(1, classes, *size, generator=torch.Generator().manual_seed(seed)) * spread


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.sampled_from([0.1, 4, 1e6]))
def test_the_weight_is_a_share_for_any_logits(classes: int, height: int, width: int, seed: int, spread: float) -> None:
    """Of any number of classes, any size and any spread, the weight is a float32 in [0, 1] of the logits' size."""
    weight = random_head(classes, seed=seed)(random_logits(classes, (height, width), seed, spread))
    assert weight.shape == (1, 1, height, width)
    assert weight.dtype == torch.float32
    assert 0 <= weight.min() <= weight.max() <= 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99))
def test_the_joint_logits_lie_between_those_of_the_scales(seed: int) -> None:
    """Whatever the head says, no joint logit is beyond what a scale says of that class anywhere near."""
    size, head = (12, 16), random_head(seed=seed)
    view = []
    for number, scale in enumerate((2.0, 1.0, 0.5)):
        scaled = size_at_scale(size, scale)
        # one value a class and scale: what is near is then what is there
        logits = random_logits(3, (1, 1), 7 * seed + number).expand(1, 3, scaled[0] // 2, scaled[1] // 2).contiguous()
        view.append(ScaledPrediction(logits, head(logits, number) if number else None, scaled))
    joint = joint_logits([view], size)[0]
    said = torch.stack([prediction.logits[0, :, 0, 0] for prediction in view])
    slack = 1e-4
    assert (joint >= said.amin(0)[:, None, None] - slack).all()
    assert (joint <= said.amax(0)[:, None, None] + slack).all()


def test_scales_are_joined_with_gradients_after_they_were_joined_without() -> None:
    """What one joining of scales without gradients has kept is of use to the next one, with gradients."""
    size, head = (11, 23), random_head(seed=0)
    scaled = size_at_scale(size, 0.5)
    one, half = random_logits(3, (5, 11), 0), random_logits(3, (3, 6), 1)
    for context in (torch.inference_mode(), contextlib.nullcontext()):
        with context:
            view = [ScaledPrediction(one, None, size), ScaledPrediction(half, head(half, 1), scaled)]
            joint = joint_logits([view], size)[0]
    joint.sum().backward()
    assert all(weight.grad is not None for weight in head.parameters())


@pytest.mark.parametrize("larger", [1, 2, 3])
def test_an_untrained_head_is_the_average(larger: int) -> None:
    """A head starts at an equal share of the scales that there are."""
    weight = ScaleHead(3)(random_logits(3, (5, 7), 0), larger)
    assert torch.allclose(weight, torch.full((1, 1, 5, 7), 1 / (larger + 1)))


def test_it_sees_probabilities_only() -> None:
    """A value that is added to the logits of all classes changes nothing, and a class that cannot be is no trouble."""
    head, logits = random_head(), random_logits(3, (6, 8), 1)
    assert torch.allclose(head(logits), head(logits + 50), atol=1e-4)
    logits[:, 1] = -torch.inf
    assert head(logits).isfinite().all()


def test_it_looks_no_further_than_it_says() -> None:
    """A pixel's weight does not change by what is more than its reach away."""
    head, logits = random_head(), random_logits(3, (20, 20), 2)
    other = logits.clone()
    other[..., REACH + 1 :, :] = 0
    assert torch.equal(head(logits)[..., 0, :], head(other)[..., 0, :])
    other[..., REACH, :] = 0
    assert not torch.equal(head(logits)[..., 0, :], head(other)[..., 0, :])


@pytest.mark.parametrize(("inputs", "channels"), [(1, 8), (257, 8), (3, 0), (3, 10_000)])
def test_sizes_that_make_no_sense_are_refused(inputs: int, channels: int) -> None:
    """There are at least two classes to tell apart, and no more than labels can hold."""
    with pytest.raises(SettingsError, match="channels"):
        ScaleHead(inputs, channels)


def test_logits_of_other_classes_are_refused() -> None:
    """A head for three classes does not take four."""
    with pytest.raises(ShapeError, match="3"):
        ScaleHead(3)(torch.zeros(1, 4, 5, 5))


def test_a_saved_head_comes_back_as_it_was(tmp_path: Path) -> None:
    """Weights, digest and record are the same, the bytes too where it is saved again, and nothing of it is trained."""
    head, path = random_head(), tmp_path / "attention.safetensors"
    save_head(path, head, RECORD)
    content = path.read_bytes()
    found = load_head(path)
    assert found.record == RECORD
    assert (found.digest, found.teacher_digest, found.trained_on) == (head.digest, "ab" * 32, {"ef" * 32: "town/one"})
    assert torch.equal(found(random_logits(3, (5, 7), 0)), head(random_logits(3, (5, 7), 0)))
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    save_head(path, found, RECORD)
    assert path.read_bytes() == content
    assert random_head(seed=1).digest != head.digest
    assert (head.teacher_digest, head.trained_on) == (None, {})


def test_notes_that_are_no_plain_values_are_refused(tmp_path: Path) -> None:
    """What cannot be read back without running code is not written."""
    record = HeadRecord("ab" * 32, "cd" * 8, (1.0,), {}, {"what": object()})
    with pytest.raises(SettingsError, match="plain values"):
        save_head(tmp_path / "attention.safetensors", random_head(), record)
    assert not list(tmp_path.iterdir())


Change = Callable[[dict[str, Tensor], dict[str, Any]], None]
HOSTILE: dict[str, Change] = {
    "version 9": lambda _, said: said.update(version=9),
    "no scale head": lambda _, said: said.update(format="autocoarse checkpoint"),
    "neither how many": lambda _, said: said.update(inputs="3"),
    "inputs": lambda _, said: said.update(inputs=10**12),
    "channels": lambda _, said: said.update(channels=10**9),
    "conv0.weight": lambda weights, _: weights.update({"conv0.weight": torch.zeros(6, 8, 3, 3)}),
    "conv1.bias": lambda weights, _: weights.update({"conv1.bias": torch.zeros(6, dtype=torch.float64)}),
    "more": lambda weights, _: weights.update(more=torch.zeros(1)),
    "conv2.weight": lambda weights, _: weights.__delitem__("conv2.weight"),
    "no numbers": lambda weights, _: weights.update({"conv3.bias": torch.full((1,), torch.nan)}),
    "training cannot be used": lambda _, said: said["record"].update(teacher_digest="../../etc"),
    "training cannot": lambda _, said: said["record"].update(scales=[0.5, "1"]),
    "training": lambda _, said: said["record"].update(images={"not a digest": "one"}),
    "its training": lambda _, said: said.update(record=None),
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_file_that_does_not_hold_what_it_says_is_refused(tmp_path: Path, words: str) -> None:
    """Sizes, types, values and the record are checked, and what is wrong is named with the file."""
    path = tmp_path / "attention.safetensors"
    save_head(path, random_head(), RECORD)
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["autocoarse"])
    HOSTILE[words](weights, said)
    safetensors.torch.save_file(weights, path, {"autocoarse": json.dumps(said)})
    with pytest.raises(CheckpointError, match=words) as caught:
        load_head(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      ", b"PK\x03\x04 a pickle in a zip"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no safetensors file, or holds nothing, is refused; nothing of it is run."""
    path = tmp_path / "attention.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"attention\.safetensors"):
        load_head(path)


def test_a_torn_file_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    """A file that was cut short is damaged, one that is not there is missing."""
    path = tmp_path / "attention.safetensors"
    with pytest.raises(MissingFileError, match="fit-attention"):
        load_head(path)
    save_head(path, random_head(), RECORD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="safetensors"):
        load_head(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """What is larger than any head is refused by its size alone."""
    path = tmp_path / "attention.safetensors"
    with path.open("wb") as file:
        file.truncate(2**29)
    with pytest.raises(CheckpointError, match="bytes"):
        load_head(path)
