"""Augmentation: what it must never do to a label, and that image and label stay together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augmentation import augment

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
CROPS = st.tuples(st.integers(8, 60), st.integers(8, 60))
SEEDS = st.integers(0, 2**31)


def striped(size: tuple[int, int], values: tuple[int, ...] = (0, 2, 255)) -> np.ndarray:
    """A label whose columns take the values in turn, five columns each."""
    return np.broadcast_to(np.array(values, np.uint8)[np.arange(size[1]) // 5 % len(values)], size).copy()


@settings(deadline=None)
@given(size=SIZES, crop=CROPS, seed=SEEDS)
def test_shapes_types_and_values(size: tuple[int, int], crop: tuple[int, int], seed: int) -> None:
    """Whatever the sizes, the crop has its size, and its label no value that was not there, except ignore."""
    label = striped(size)
    image = np.zeros((*size, 3), np.uint8)
    picture, mask = augment(image, label, crop, np.random.default_rng(seed))
    assert (picture.shape, picture.dtype) == ((3, *crop), torch.uint8)
    assert (mask.shape, mask.dtype) == (crop, torch.uint8)
    assert type(picture) is type(mask) is torch.Tensor
    assert set(mask.unique().tolist()) <= {*np.unique(label).tolist(), 255}


@settings(deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_all_ignore_stays_all_ignore(size: tuple[int, int], seed: int) -> None:
    """A label that is ignored everywhere is ignored everywhere in the crop."""
    mask = augment(np.zeros((*size, 3), np.uint8), np.full(size, 255, np.uint8), (16, 12), np.random.default_rng(seed))[
        1
    ]
    assert torch.all(mask == 255)


@settings(deadline=None)
@given(size=st.tuples(st.integers(3, 60), st.integers(3, 60)), crop=CROPS, seed=SEEDS, place=SIZES)
def test_chosen_pixel_is_in_the_crop(
    size: tuple[int, int], crop: tuple[int, int], seed: int, place: tuple[int, int]
) -> None:
    """The neighbourhood of the chosen pixel is in the crop, wherever it lies and however the crop is scaled."""
    row, column = place[0] % size[0], place[1] % size[1]
    label = np.zeros(size, np.uint8)
    label[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 1  # survives being halved
    mask = augment(np.zeros((*size, 3), np.uint8), label, crop, np.random.default_rng(seed), (row, column))[1]
    assert torch.any(mask == 1)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS)
def test_image_and_label_stay_together(seed: int) -> None:
    """Where the image is bright the label says so, also after scaling, cropping and mirroring."""
    label = np.zeros((40, 48), np.uint8)
    label[5:25, 8:30] = 1
    image = np.where(label[..., None] == 1, 230, 20).astype(np.uint8).repeat(3, axis=2)
    picture, mask = augment(image, label, (32, 32), np.random.default_rng(seed))
    bright = picture.float().mean(dim=0) > 110
    inside = mask != 255
    agree = (bright == (mask == 1))[inside].float().mean().item()
    assert agree > 0.85  # bilinear and nearest differ along the edge


@pytest.mark.parametrize("seed", range(4))
def test_label_is_not_shifted_against_the_image(seed: int) -> None:
    """On a ramp whose grey levels are its label, image and label agree to a fraction of a level in the mean."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200))
    for values in (ramp, ramp.T):
        crops = [augment_ramp(values.copy(), np.random.default_rng([seed, n])) for n in range(40)]
        assert abs(np.mean(crops)) < 0.15


def augment_ramp(values: np.ndarray, generator: np.random.Generator) -> float:
    """How far the label of a crop lies above its image in the mean, grey levels; colours are not changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.augmentation._jitter", lambda picture, _: picture)
        picture, mask = augment(values[..., None].repeat(3, axis=2), values, (48, 64), generator)
    known = mask != 255
    return (mask.float() - picture[0].float())[known].mean().item()


def test_outside_of_the_image_is_ignored_and_grey() -> None:
    """An image smaller than the crop is surrounded by its mean colour, and by ignore in the label."""
    image = np.full((6, 8, 3), 100, np.uint8)
    picture, mask = augment(image, np.zeros((6, 8), np.uint8), (64, 64), np.random.default_rng(0))
    assert 0 < (mask == 0).sum() < mask.numel() / 2
    assert picture.float().std() < 1.5  # one colour throughout


def test_same_generator_same_crop() -> None:
    """The crop depends on the generator alone; other seeds give other crops."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    label = striped((30, 40))
    one, same, other = (augment(image, label, (16, 24), np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])


def test_inputs_are_left_alone() -> None:
    """Neither image nor label is changed, so both may be read-only."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    label = striped((30, 40))
    image.setflags(write=False)
    label.setflags(write=False)
    before = image.sum(), label.sum()
    augment(image, label, (16, 24), np.random.default_rng(0))
    assert before == (image.sum(), label.sum())


@pytest.mark.parametrize("crop", [(16, 24), (200, 90)])
def test_mirrored_half_of_the_time(crop: tuple[int, int]) -> None:
    """About half of the crops are mirrored."""
    label = np.zeros((40, 400), np.uint8)
    label[:, 200:] = 1
    seen = []
    for seed in range(200):
        mask = augment(np.zeros((40, 400, 3), np.uint8), label, crop, np.random.default_rng(seed), (20, 200))[1]
        row = mask[(mask != 255).any(dim=1)][0]
        values = row[row != 255]
        if values[0] != values[-1]:
            seen.append(bool(values[0] > values[-1]))
    assert len(seen) > 100
    assert 0.35 < np.mean(seen) < 0.65
