"""The weights of the scales, as maps of bytes, against the fusion that they are of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from storage.schema import ClassInfo, ClassSchema
from teacher.decision import DecisionRule
from teacher.fusion import blend, predict_scales
from teacher.inference import Teacher
from teacher.joint_decision import WORKING_BYTES
from teacher.networks.layers import resize
from teacher.networks.registry import NetworkSpec
from teacher.scale_weights import scale_weights

FillNetwork = Callable[[NetworkSpec], nn.Module]


def _exact(network: nn.Module, images: Tensor, scales: tuple[float, ...]) -> Tensor:
    """The weights (batch, scale, height, width) in float64, the smallest scale first: one map fused for each scale."""
    size = (images.shape[-2], images.shape[-1])
    view = predict_scales(network, images, scales)
    maps = []
    for chosen in range(len(view)):
        joint = torch.full((len(images), 1, *view[0].size), float(chosen == 0), dtype=torch.float64)
        for number, prediction in enumerate(view[1:], start=1):
            assert prediction.attention is not None
            target = prediction.size if prediction.size[0] >= size[0] else size
            attention = resize(prediction.attention.double(), prediction.size)
            own = torch.full_like(attention, float(chosen == number))
            joint = blend(resize(joint, target), own, attention)
        maps.append(joint[:, 0])
    return torch.stack(maps[::-1], dim=1)


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 2.0), (0.5, 1.0, 2.0), (0.25, 0.5, 1.0, 1.5)])
def test_weights_are_those_of_the_fusion_and_sum_to_one(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor, scales: tuple[float, ...]
) -> None:
    """Each scale's map is within a step of its weight in the joint logits, and all maps sum to 255 at every pixel."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        weights = scale_weights([predict_scales(network, images, scales)], (45, 61))
        expected = _exact(network, images, scales)
    assert weights.shape == (2, len(scales), 45, 61)
    assert (weights.int().sum(dim=1) == 255).all()
    assert (weights.double() - 255 * expected).abs().max() <= 1.01
    assert weights.double().std() > 1, "the attention must have a spread"


def test_stripes_do_not_show(
    fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In little memory the maps are made in stripes, and are the same."""
    network = fill_network(narrow_spec)
    with torch.inference_mode():
        view = predict_scales(network, images, (0.5, 1.0, 2.0))
        whole = scale_weights([view], (45, 61))
        monkeypatch.setitem(WORKING_BYTES, "cpu", 1)
        assert (whole.int() - scale_weights([view], (45, 61)).int()).abs().max() <= 1


def test_a_teacher_gives_them_beside_the_label(fill_network: FillNetwork, narrow_spec: NetworkSpec) -> None:
    """Only who asks gets them; with flip they are the mean of both views, and labels are the same either way."""
    schema = ClassSchema("three", tuple(ClassInfo(n, (i, i, i), (i,)) for i, n in enumerate("abc")), frozenset())
    teacher = Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema)
    image = torch.randint(0, 256, (45, 61, 3), dtype=torch.uint8).numpy()
    rule = DecisionRule((0.0,))
    (plain,) = teacher.decide([image], (0.5, 1.0), rule, flip=True)
    (asked,) = teacher.decide([image], (0.5, 1.0), rule, flip=True, attention=True)
    assert plain.attention is None
    assert asked.attention is not None
    assert asked.attention.shape == (2, 45, 61)
    assert (asked.attention.astype(int).sum(axis=0) == 255).all()
    assert (plain.label == asked.label).all()
    (equal,) = teacher.decide([image], (0.5, 1.0, 2.0), rule, fusion="average", attention=True)
    assert equal.attention is not None
    assert set(equal.attention.ravel().tolist()) == {85}
