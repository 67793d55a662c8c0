"""The regional part of RMI."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.rmi import REGULARISER, regional_loss

Array = npt.NDArray[np.float64]


def _pool(plane: Array) -> Array:
    """Mean over 4x4 windows at stride 4, two pixels of zeros around, written as loops."""
    height, width = plane.shape
    padded = np.zeros((height + 4, width + 4))
    padded[2:-2, 2:-2] = plane
    return np.array(
        [[padded[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].sum() / 16 for x in range(width // 4 + 1)]
         for y in range(height // 4 + 1)]
    )  # fmt: skip


def _neighbourhoods(plane: Array) -> Array:
    """Centred vectors of all 3x3 neighbourhoods, (9, points)."""
    height, width = plane.shape
    points = [plane[y : y + 3, x : x + 3].ravel() for y in range(height - 2) for x in range(width - 2)]
    vectors = np.array(points).T
    return np.asarray(vectors - vectors.mean(axis=1, keepdims=True))


def _expected(logits: Array, target: npt.NDArray[np.int64]) -> float:
    """The value for one image, logits (class, height, width), by the definition with an explicit inverse."""
    total = 0.0
    for index, scores in enumerate(logits):
        valid = target != 255
        probability = _pool(valid / (1 + np.exp(-scores)) + 1e-6)
        p, y = _neighbourhoods(probability), _neighbourhoods(_pool((target == index).astype(np.float64)))
        known = np.linalg.inv(p @ p.T + REGULARISER * np.eye(9))
        conditional = y @ y.T - y @ p.T @ known @ p @ y.T
        total += 0.5 * float(np.linalg.slogdet(conditional + REGULARISER * np.eye(9))[1]) / 9
    return total


def _labels(size: tuple[int, int], classes: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Blocks of classes with a tenth of the pixels ignored, (height, width)."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, classes, (size[0] // 5 + 1, size[1] // 5 + 1))
    target = np.kron(blocks, np.ones((5, 5), np.int64))[: size[0], : size[1]].astype(np.int64)
    target[random.random(size) < 0.1] = 255
    return target


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (23, 17), (31, 46)])
def test_value_follows_the_definition(size: tuple[int, int]) -> None:
    """The value of each image is that of a float64 computation by the definition, at sizes of any remainder by 4."""
    logits = np.random.default_rng(1).normal(0, 3, (2, 3, *size))
    target = np.stack([_labels(size, 3, seed) for seed in (2, 3)])
    value = regional_loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(target))
    assert value.shape == (2,)
    assert value.dtype == torch.float32
    assert value.tolist() == pytest.approx([_expected(*pair) for pair in zip(logits, target, strict=True)], rel=1e-5)


def test_gradient_is_that_of_finite_differences() -> None:
    """Along a random direction, the gradient is the slope that the definition has."""
    random = np.random.default_rng(4)
    logits, direction = random.normal(0, 2, (3, 13, 18)), random.normal(0, 1, (3, 13, 18))
    target = _labels((13, 18), 3)
    tensor = torch.tensor(logits[None], dtype=torch.float32, requires_grad=True)
    regional_loss(tensor, torch.tensor(target[None])).sum().backward()
    step = 1e-5
    slope = (_expected(logits + step * direction, target) - _expected(logits - step * direction, target)) / (2 * step)
    assert tensor.grad is not None
    assert float((tensor.grad.double() * torch.tensor(direction)).sum()) == pytest.approx(slope, rel=1e-4)


def test_better_predictions_cost_less() -> None:
    """Logits that follow the label are better than those that ignore it, and a shifted label costs more."""
    target = torch.tensor(_labels((32, 32), 3)[None])
    following = torch.nn.functional.one_hot(target.clamp(max=2), 3).permute(0, 3, 1, 2).float() * 10 - 5
    values = [regional_loss(x, target).item() for x in (following, following.roll(4, 3), torch.zeros(1, 3, 32, 32))]
    assert values == sorted(values)


def test_absent_class_leaves_the_regulariser() -> None:
    """A class that is neither there nor predicted adds the logarithm of the regulariser's root, a finite number."""
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 1] = -100
    one = regional_loss(logits[:, :1], target)
    both = regional_loss(logits, target)
    assert (both - one).item() == pytest.approx(math.log(math.sqrt(REGULARISER)), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("magnitude", [0.0, 1.0, 6e4])
@pytest.mark.parametrize("labelled", [True, False])
def test_value_and_gradient_are_finite(dtype: torch.dtype, magnitude: float, labelled: bool) -> None:
    """Absent classes, an image without a label, and half-precision logits of any size give finite numbers."""
    logits = (torch.randn(1, 5, 24, 20, generator=torch.Generator().manual_seed(0)).sign() * magnitude).to(dtype)
    logits.requires_grad_()
    target = torch.tensor(_labels((24, 20), 2)[None]) if labelled else torch.full((1, 24, 20), 255)
    value = regional_loss(logits, target)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_ignored_pixels_change_nothing() -> None:
    """What is said about a pixel without a label neither changes the value nor gets a gradient."""
    target = torch.tensor(_labels((16, 24), 3)[None])
    ignored = (target == 255)[:, None].expand(1, 3, 16, 24)
    logits = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    changed = logits.masked_fill(ignored, 50).requires_grad_()
    value = regional_loss(changed, target)
    value.sum().backward()
    assert torch.equal(value, regional_loss(logits, target))
    assert changed.grad is not None
    assert torch.count_nonzero(changed.grad[ignored]) == 0
    assert torch.count_nonzero(changed.grad[~ignored]) > 0


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (40, 7)])
def test_image_without_a_neighbourhood_has_no_regional_part(size: tuple[int, int]) -> None:
    """Where a side is under 8 pixels no 3x3 neighbourhood of pooled pixels is left, and the value is 0."""
    value = regional_loss(torch.randn(2, 3, *size), torch.zeros((2, *size), dtype=torch.int64))
    assert torch.equal(value, torch.zeros(2))


def test_no_number_stays_no_number() -> None:
    """A logit that is no number gives a value that is none, and no error of linear algebra."""
    value = regional_loss(torch.full((1, 2, 16, 16), math.nan), torch.zeros(1, 16, 16, dtype=torch.int64))
    assert torch.isnan(value).all()
