"""What becomes of another library's logits: classes by adding up probabilities, scales by mean or attention."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from storage.errors import CheckpointError, SettingsError
from storage.schema import IGNORE, ClassSchema
from storage.soft_store import NO_CONFIDENCE
from teacher import Teacher
from teacher.decision import DecisionRule
from teacher.ensemble import EnsemblePredictor
from teacher.foreign.predictor import ForeignPredictor, Grouping
from teacher.networks.layers import resize
from teacher.references import Reference, resolved


@dataclass
class Model:
    """A foreign model: the colours of a pixel, mixed, at half the image's size."""

    mixture: Tensor
    name: str = "mixture"
    digest: str = "0" * 64
    labels: tuple[str, ...] | None = None
    weight_bytes: int = 0

    def facts(self) -> dict[str, str]:
        """Nothing to tell."""
        return {}

    def __call__(self, images: Tensor, _scale: float, /) -> Tensor:
        """Logits of each label."""
        assert images.min() >= 0
        assert images.max() <= 1
        return torch.einsum("lc,bchw->blhw", self.mixture, images[..., ::2, ::2] - 0.5) * 6


class Half(nn.Module):
    """An attention that says one half everywhere."""

    def forward(self, logits: Tensor, _larger: int) -> Tensor:
        """One half, however many larger scales there are."""
        return torch.full_like(logits[:, :1], 0.5)


def mixture(labels: int, seed: int = 3) -> Model:
    """A model of so many labels."""
    return Model(torch.randn(labels, 3, generator=torch.Generator().manual_seed(seed)))


def teacher_of(predictor: ForeignPredictor | EnsemblePredictor, schema: ClassSchema) -> Teacher:
    """With the classes of a schema."""
    return Teacher(predictor, schema, "1" * 64)


def foreign(targets: tuple[int | None, ...], schema: ClassSchema, seed: int = 3) -> Teacher:
    """A teacher whose labels are classes as the targets say."""
    model = mixture(len(targets), seed)
    return teacher_of(ForeignPredictor(model, Grouping(targets, len(schema)), torch.device("cpu")), schema)


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    """A noise image, (24, 34, 3) uint8."""
    return rng.integers(0, 256, (24, 34, 3), np.uint8)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=9), st.integers(0, 2**31))
def test_probabilities_of_labels_add_up_to_those_of_classes(targets: list[int | None], seed: int) -> None:
    """The softmax of the classes' logits is the sum of the labels' probabilities, with what is no class apart."""
    logits = torch.randn(2, len(targets), 3, 4, generator=torch.Generator().manual_seed(seed)) * 10
    grouping = Grouping(targets, 3)
    shares, classes = logits.softmax(1), grouping(logits.clone()).softmax(1)
    assert grouping.has_others == (None in targets) == (classes.shape[1] == 4)
    for number in range(classes.shape[1]):
        own = [label for label, target in enumerate(targets) if target == (number if number < 3 else None)]
        torch.testing.assert_close(classes[:, number], shares[:, own].sum(1), atol=1e-6, rtol=1e-4)


@settings(deadline=None)
@given(st.permutations(range(5)))
def test_labels_that_are_the_classes_keep_their_logits(order: list[int]) -> None:
    """One label a class: the logits are handed on to the bit, in the classes' order."""
    logits = torch.randn(1, 5, 2, 2)
    grouped = Grouping(order, 5)(logits)
    assert all(torch.equal(grouped[:, target], logits[:, label]) for label, target in enumerate(order))


def test_what_is_no_class_takes_its_share_and_is_ignored(schema: ClassSchema, picture: np.ndarray) -> None:
    """Where the most likely label is no class, no threshold gives a label; elsewhere confidence is the model's own."""
    targets = (0, 1, 2, None, None)
    teacher = foreign(targets, schema)
    rule = DecisionRule((0.0,), keep="top2")
    (decision,) = teacher.decide([picture], (1.0,), rule)
    label, soft = decision.label, decision.soft
    assert soft is not None
    shares = teacher.logits(picture, (1.0,)).softmax(0).numpy()
    none = shares.argmax(0) == 3
    assert 0 < none.sum() < none.size
    assert (label[none] == IGNORE).all()
    assert (label[~none] == shares.argmax(0)[~none]).all()
    assert (soft[1][none] == NO_CONFIDENCE).all()
    codes = np.floor(shares.max(0) * 100 - 1e-3)
    assert (np.abs(soft[1][~none].astype(int) - codes[~none]) <= 1).all()
    assert soft[0].max() < 3
    assert soft[2].max() < 3


@pytest.mark.parametrize("thresholds", [(0.4,), (0.3, 0.5, 0.7)])
def test_labels_are_the_same_whether_confidence_is_kept_or_not(
    schema: ClassSchema, picture: np.ndarray, thresholds: tuple[float, ...]
) -> None:
    """The quick way and the one that keeps every pixel agree also where labels are of no class."""
    teacher = foreign((2, 0, None, 1, 1), schema)
    labels = [
        teacher.decide([picture], (0.5, 1.0), DecisionRule(thresholds, keep=keep), flip=True)[0].label
        for keep in ("none", "confidence", "top2")
    ]
    assert 0 < (labels[0] == IGNORE).mean() < 1
    assert (labels[0] == labels[1]).all()
    assert (labels[0] == labels[2]).all()


def test_without_attention_scales_are_averaged(schema: ClassSchema, picture: np.ndarray) -> None:
    """The joint logits are the mean of those of the scales; a fitted attention takes the mean's place."""
    model, grouping = mixture(3), Grouping((0, 1, 2), 3)
    plain = teacher_of(ForeignPredictor(model, grouping, torch.device("cpu")), schema)
    half = teacher_of(ForeignPredictor(model, grouping, torch.device("cpu"), Half()), schema)
    assert plain.fusion() == "average"
    assert half.fusion() == "hierarchical"
    one, low = plain.predict([picture], (1.0, 0.5))
    expected = (resize(one.logits, (24, 34)) + resize(resize(low.logits, low.size), (24, 34))) / 2
    torch.testing.assert_close(plain.logits(picture, (0.5, 1.0))[None], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(half.logits(picture, (0.5, 1.0))[None], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(SettingsError, match="fit-attention"):
        plain.logits(picture, (0.5, 1.0), fusion="hierarchical")


def test_a_model_that_gives_other_outputs_is_refused(schema: ClassSchema, picture: np.ndarray) -> None:
    """More logits than it has labels: the message says how to name them."""
    predictor = ForeignPredictor(mixture(4), Grouping((0, 1, 2), 3), torch.device("cpu"))
    with pytest.raises(CheckpointError, match="labels ="):
        teacher_of(predictor, schema).logits(picture, (1.0,))


def test_an_average_is_that_of_probabilities(schema: ClassSchema, picture: np.ndarray) -> None:
    """Two teachers together have the mean of their probabilities, what is no class included."""
    members = [foreign((0, 1, 2), schema, seed=1), foreign((0, 2, 1, None), schema, seed=2)]
    both = teacher_of(EnsemblePredictor([member.predictor for member in members], 3, "average"), schema)
    shares = [member.logits(picture, (0.5, 1.0)).softmax(0) for member in members]
    expected = torch.cat([shares[0], torch.zeros_like(shares[0][:1])]).add(shares[1]) / 2
    torch.testing.assert_close(both.logits(picture, (0.5, 1.0)).softmax(0), expected, atol=1e-6, rtol=1e-4)


def test_where_teachers_disagree_there_is_no_label(schema: ClassSchema, picture: np.ndarray) -> None:
    """By agreement a pixel has the class that all find most likely, or none; and the mean of their confidence."""
    # alike, but not the same
    models = [Model(mixture(3).mixture + mixture(3, seed).mixture / 2) for seed in (1, 2, 5)]
    grouping = Grouping((0, 1, 2), 3)
    members = [teacher_of(ForeignPredictor(model, grouping, torch.device("cpu")), schema) for model in models]
    all_of_them = teacher_of(EnsemblePredictor([member.predictor for member in members], 3, "agreement"), schema)
    (label,) = all_of_them.label([picture], (1.0,), 0.0)
    each = np.stack([member.label([picture], (1.0,), 0.0)[0] for member in members])
    agree = (each == each[0]).all(0)
    assert 0 < agree.mean() < 1
    assert (label == np.where(agree, each[0], IGNORE)).all()
    mean = torch.stack([member.logits(picture, (1.0,)).softmax(0) for member in members]).mean(0).amax(0).numpy()
    threshold = float(np.median(mean[agree]))
    (strict,) = all_of_them.label([picture], (1.0,), threshold)
    near = np.abs(mean - threshold) < 1e-5
    assert ((strict != IGNORE) == (agree & (mean > threshold)))[~near].all()


def test_teachers_together_do_as_each_is_made_to(schema: ClassSchema, picture: np.ndarray) -> None:
    """Each member is fused in its own way, unless another is asked for that all have."""
    model, grouping = mixture(3), Grouping((0, 1, 2), 3)
    attended = ForeignPredictor(model, grouping, torch.device("cpu"), Half())
    plain = ForeignPredictor(mixture(3, 4), grouping, torch.device("cpu"))
    both = teacher_of(EnsemblePredictor([attended, plain], 3, "average"), schema)
    assert both.fusion() == "hierarchical"
    alone = [teacher_of(member, schema).logits(picture, (0.5, 1.0, 2.0)).softmax(0) for member in (attended, plain)]
    joint = both.logits(picture, (0.5, 1.0, 2.0)).softmax(0)
    torch.testing.assert_close(joint, sum(alone) / 2, atol=1e-6, rtol=1e-4)
    single = both.logits(picture, (0.5, 1.0, 2.0), fusion="single").softmax(0)
    torch.testing.assert_close(single, both.logits(picture, (1.0,)).softmax(0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnx:net.onnx", "onnx:{folder}/net.onnx"),
        ("hf:model", "hf:{folder}/model"),
        ("hf:a/b@c", "hf:a/b@c"),
        ("python:mine:make", "python:mine:make"),
        ("net.onnx", "{folder}/net.onnx"),
        ("hrnet-ocr", "hrnet-ocr"),
        ("cityscapes", "cityscapes"),
        ("mapillary-v1.2", "mapillary-v1.2"),
        ("elsewhere.toml", "{folder}/elsewhere.toml"),
        ("runs/checkpoint", "{folder}/runs/checkpoint"),
        ("hf:elsewhere", "hf:{folder}/elsewhere"),
    ],
)
def test_paths_of_references_are_beside_the_file_that_has_them(tmp_path: Path, text: str, expected: str) -> None:
    """Files and folders are taken from the folder, also those that are missing; names stay names, whatever is there."""
    for folder in ("model", "cityscapes", "hrnet-ocr"):
        (tmp_path / folder).mkdir()
    (tmp_path / "net.onnx").touch()
    assert resolved(text, tmp_path) == expected.format(folder=tmp_path)


def test_a_kind_without_a_place_is_refused() -> None:
    """`onnx:` alone is no teacher, and what has no kind is no reference."""
    with pytest.raises(SettingsError, match="onnx:FILE"):
        Reference.parse("onnx:")
    assert Reference.parse("runs/teacher.pt") is None
    assert Reference.parse("c:/teacher.pt") is None
