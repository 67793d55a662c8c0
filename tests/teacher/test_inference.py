from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import teacher as floor
from storage.errors import CheckpointError, ImageError, MissingFileError, SettingsError
from storage.schema import ClassInfo, ClassSchema, load_schema
from teacher import Teacher, load_teacher
from teacher.checkpoint import save_checkpoint
from teacher.decision import decide
from teacher.fusion import hierarchical_logits
from teacher.networks.registry import NetworkSpec, build_network, default_spec

FillNetwork = Callable[[NetworkSpec], nn.Module]


@pytest.fixture
def narrow_teacher(fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema) -> Teacher:
    """A narrow HRNet-OCR on the CPU."""
    return Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema)


@pytest.fixture
def pictures(rng: np.random.Generator) -> list[np.ndarray]:
    """Two noise images, (45, 61, 3) uint8."""
    return list(rng.integers(0, 256, (2, 45, 61, 3), np.uint8))


def test_logits_are_the_fused_ones(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema, pictures: list[np.ndarray]
) -> None:
    """A teacher normalises as its specification says and fuses as the method does."""
    spec = replace(narrow_spec, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    logits = Teacher.of_network(fill_network(spec), spec, schema).logits(pictures[0], (0.5, 1.0))
    normalised = (pictures[0] / 255 - np.array(spec.mean)) / np.array(spec.std)
    batch = torch.from_numpy(normalised.transpose(2, 0, 1)[None]).float()
    with torch.inference_mode():
        expected = hierarchical_logits(fill_network(spec), batch, (0.5, 1.0))[0]
    assert logits.shape == (3, 45, 61)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))


def test_flip_is_the_mean_with_the_mirror(narrow_teacher: Teacher, pictures: list[np.ndarray]) -> None:
    """With flip, an image and its mirror get mirrored logits, the mean of both views."""
    plain = narrow_teacher.logits(pictures[0], (1.0,))
    mirror = np.ascontiguousarray(pictures[0][:, ::-1])
    expected = (plain + narrow_teacher.logits(mirror, (1.0,)).flip(-1)) / 2
    flipped = narrow_teacher.logits(pictures[0], (1.0,), flip=True)
    assert torch.allclose(flipped, expected, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(flipped, plain, atol=1e-2 * float(plain.abs().max()))


@pytest.mark.parametrize("flip", [True, False])
def test_labels_are_decided_logits(narrow_teacher: Teacher, pictures: list[np.ndarray], flip: bool) -> None:
    """The labels of a batch are the decision on each image's logits."""
    labels = narrow_teacher.label(pictures, (0.5, 1.0), 0.7, flip=flip)
    assert [(label.shape, label.dtype) for label in labels] == [((45, 61), np.uint8)] * 2
    for picture, label in zip(pictures, labels, strict=True):
        logits = narrow_teacher.logits(picture, (0.5, 1.0), flip=flip)
        expected, confidence = decide(logits[None], 0.7)
        far = ((confidence - 0.7).abs() > 1e-4).numpy()[0]
        assert np.array_equal(label[far], expected[0].numpy()[far])


def test_no_images_have_no_labels(narrow_teacher: Teacher) -> None:
    """An empty batch is labelled at once."""
    assert narrow_teacher.label([], (1.0,), 0.5) == []


def test_wrong_images_are_refused(narrow_teacher: Teacher) -> None:
    """Images must be RGB bytes, and of one size in a batch."""
    image = np.zeros((32, 32, 3), np.uint8)
    for wrong in (image[..., 0], np.zeros((32, 32, 4), np.uint8), image.astype(np.float32)):
        with pytest.raises(ImageError, match="expected uint8"):
            narrow_teacher.logits(wrong, (1.0,))
    with pytest.raises(ImageError, match="differ in size"):
        narrow_teacher.label([image, image[:16]], (1.0,), 0.5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema, pictures: list[np.ndarray], precision: str
) -> None:
    """Half precision of the network gives float32 logits and nearly always the same class."""
    full = Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema).logits(pictures[0], (0.5, 1.0))
    half = Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema, precision=precision).logits(
        pictures[0], (0.5, 1.0)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert (half.argmax(0) == full.argmax(0)).float().mean() > 0.95


def test_unknown_precision_is_refused(narrow_spec: NetworkSpec, schema: ClassSchema) -> None:
    """A precision that is none is refused with those there are."""
    with pytest.raises(SettingsError, match="fp32, bf16, fp16"):
        Teacher.of_network(build_network(narrow_spec), narrow_spec, schema, precision="int8")


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:99", "meta", ""])
def test_absent_device_is_refused(narrow_spec: NetworkSpec, schema: ClassSchema, device: str) -> None:
    """A device that is unknown or not on this machine is refused."""
    with pytest.raises(SettingsError, match="device is"):
        Teacher.of_network(build_network(narrow_spec), narrow_spec, schema, device=device)


def test_auto_finds_a_device(narrow_spec: NetworkSpec, schema: ClassSchema) -> None:
    """Auto is CUDA where there is one and the CPU elsewhere."""
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Teacher.of_network(build_network(narrow_spec), narrow_spec, schema, device="auto").device.type == expected


def test_digest_covers_weights_and_normalisation(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema
) -> None:
    """Teachers have the same digest when, and only when, weights and specification are the same."""
    same = [Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema).digest for _ in range(2)]
    other_weights = fill_network(narrow_spec)
    with torch.no_grad():
        other_weights.ocr.cls_head.bias[0] += 1e-3
    other_mean = replace(narrow_spec, mean=(0.5, 0.5, 0.5))
    assert same[0] == same[1]
    assert Teacher.of_network(other_weights, narrow_spec, schema).digest != same[0]
    assert Teacher.of_network(fill_network(narrow_spec), other_mean, schema).digest != same[0]


@pytest.mark.parametrize("network", ["hrnet-ocr", "deeplabv3plus"])
def test_checkpoint_makes_the_same_teacher(
    tmp_path: Path,
    fill_network: FillNetwork,
    narrow_spec: NetworkSpec,
    schema: ClassSchema,
    pictures: list[np.ndarray],
    network: str,
) -> None:
    """A teacher loaded from a checkpoint has the saved one's classes, normalisation, digest and logits."""
    spec = narrow_spec if network == "hrnet-ocr" else default_spec("deeplabv3plus", 3, "tf_efficientnet_lite0")
    built = fill_network(spec)
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, built, spec, schema, {})
    saved, loaded = Teacher.of_network(built, spec, schema), load_teacher(path)
    assert (loaded.predictor.spec, loaded.schema, loaded.digest) == (spec, schema, saved.digest)
    assert torch.equal(loaded.logits(pictures[0], (0.5, 1)), saved.logits(pictures[0], (0.5, 1)))
    assert load_teacher(str(path), schema=schema).digest == saved.digest


def test_other_schema_than_the_checkpoints_is_refused(
    tmp_path: Path, narrow_spec: NetworkSpec, schema: ClassSchema
) -> None:
    """A teacher of other classes than were asked for is refused, showing both."""
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, build_network(narrow_spec), narrow_spec, schema, {})
    other = ClassSchema("other", tuple(ClassInfo(n, (0, 0, 0), (i,)) for i, n in enumerate(("car", "tree", "sea"))))
    with pytest.raises(SettingsError, match=r"road, pole, sky.*car, tree, sea"):
        load_teacher(path, schema=other)


def test_checkpoint_needs_no_weights(tmp_path: Path, narrow_spec: NetworkSpec, schema: ClassSchema) -> None:
    """Weights beside a checkpoint, or a checkpoint given as a named network's weights, are refused."""
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, build_network(narrow_spec), narrow_spec, schema, {})
    with pytest.raises(SettingsError, match="leave one out"):
        load_teacher(path, path)
    with pytest.raises(SettingsError, match="give it instead of the name"):
        load_teacher("hrnet-ocr", path)


def test_unknown_teacher_is_explained(tmp_path: Path) -> None:
    """What is neither a network nor a file is refused with both possibilities."""
    with pytest.raises(MissingFileError, match=r"path of a checkpoint.*deeplabv3plus, deeperlab, hrnet-ocr"):
        load_teacher("hrnet")
    with pytest.raises(SettingsError, match="needs a file of weights"):
        load_teacher("hrnet-ocr")
    with pytest.raises(SettingsError, match="no public weights"):
        load_teacher("deeplabv3plus")
    with pytest.raises(MissingFileError, match="nowhere"):
        load_teacher("hrnet-ocr", tmp_path / "nowhere")


def test_foreign_weights_are_no_checkpoint(tmp_path: Path, narrow_spec: NetworkSpec) -> None:
    """Bare weights given as the teacher are refused with how to use them."""
    path = tmp_path / "weights.pt"
    torch.save(build_network(narrow_spec).state_dict(), path)
    with pytest.raises(CheckpointError, match="name the teacher hrnet-ocr"):
        load_teacher(path)


@pytest.mark.parametrize("classes", [19, 3])
def test_named_teacher_takes_public_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow_spec: NetworkSpec, schema: ClassSchema, classes: int
) -> None:
    """A named network with a file of weights has Cityscapes' classes, or those that were asked for."""
    spec = replace(narrow_spec, num_classes=classes)
    # The full network's 290 MB would only make this slow.
    monkeypatch.setattr("teacher.loading.default_spec", lambda _name, count: replace(narrow_spec, num_classes=count))
    path = tmp_path / "public.pth"
    state = {f"module.{name}": value for name, value in build_network(spec).state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, path)
    made = load_teacher("hrnet-ocr", path, schema=None if classes == 19 else schema)
    assert made.schema.digest == (load_schema("cityscapes") if classes == 19 else schema).digest
    assert made.predictor.spec.num_classes == classes


def test_the_floor_has_two_doors() -> None:
    """What a library user needs first is at the top of the package."""
    assert floor.__all__ == ["Teacher", "load_teacher"]
