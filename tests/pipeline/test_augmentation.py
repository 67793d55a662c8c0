"""Augmentation: what it must never do to a label, and that image and label stay together."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from pipeline.augmentation import Augmentation, augment, change_colours, paste_rectangle
from pipeline.training_settings import TrainingRecipe

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
CROPS = st.tuples(st.integers(8, 60), st.integers(8, 60))
SEEDS = st.integers(0, 2**31)
AUGMENTATIONS = st.builds(
    Augmentation,
    scale_range=st.sampled_from([(0.5, 2.0), (1.0, 1.0), (0.25, 4.0)]),
    long_edge=st.sampled_from([None, 32, 90]),
    jitter=st.sampled_from([0.0, 0.25]),
    blur=st.sampled_from([0.0, 1.0]),
)
PLAIN = Augmentation(jitter=0.0)


def striped(size: tuple[int, int], values: tuple[int, ...] = (0, 2, 255)) -> np.ndarray:
    """A label whose columns take the values in turn, five columns each."""
    return np.broadcast_to(np.array(values, np.uint8)[np.arange(size[1]) // 5 % len(values)], size).copy()


@settings(deadline=None)
@given(size=SIZES, crop=CROPS, seed=SEEDS, augmentation=AUGMENTATIONS, strong=st.booleans())
def test_shapes_types_and_values(
    size: tuple[int, int], crop: tuple[int, int], seed: int, augmentation: Augmentation, *, strong: bool
) -> None:
    """Whatever the sizes, the crop has its size, and its label no value that was not there, except ignore."""
    label = striped(size)
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    picture, mask = augment(image, label, crop, np.random.default_rng(seed), augmentation, strong=strong)
    assert (picture.shape, picture.dtype) == ((3, *crop), torch.uint8)
    assert (mask.shape, mask.dtype) == (crop, torch.uint8)
    assert type(picture) is type(mask) is torch.Tensor
    assert set(mask.unique().tolist()) <= {*np.unique(label).tolist(), 255}


@settings(deadline=None)
@given(size=SIZES, seed=SEEDS, augmentation=AUGMENTATIONS)
def test_all_ignore_stays_all_ignore(size: tuple[int, int], seed: int, augmentation: Augmentation) -> None:
    """A label that is ignored everywhere is ignored everywhere in the crop."""
    label = np.full(size, 255, np.uint8)
    _, mask = augment(np.zeros((*size, 3), np.uint8), label, (16, 12), np.random.default_rng(seed), augmentation)
    assert torch.all(mask == 255)


@settings(deadline=None)
@given(size=SIZES, crop=CROPS, seed=SEEDS, place=SIZES, high=st.floats(1, 6))
def test_single_pixel_is_in_the_crop_where_it_is_not_scaled_down(
    size: tuple[int, int], crop: tuple[int, int], seed: int, place: tuple[int, int], high: float
) -> None:
    """At a scale of 1 or more the anchor itself is in the crop, wherever it lies and if nothing around is its class."""
    row, column = place[0] % size[0], place[1] % size[1]
    label = np.zeros(size, np.uint8)
    label[row, column] = 1
    augmentation = Augmentation(scale_range=(1.0, high))
    image = np.zeros((*size, 3), np.uint8)
    _, mask = augment(image, label, crop, np.random.default_rng(seed), augmentation, (row, column))
    assert torch.any(mask == 1)


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(3, 60), st.integers(3, 60)),
    crop=CROPS,
    seed=SEEDS,
    place=SIZES,
    low=st.floats(0.2, 1),
)
def test_class_around_the_anchor_is_in_the_crop_at_any_scale(
    size: tuple[int, int], crop: tuple[int, int], seed: int, place: tuple[int, int], low: float
) -> None:
    """Scaled down, the crop has the anchor's class if that fills the pixels within 1 / scale of the anchor."""
    row, column = place[0] % size[0], place[1] % size[1]
    reach = math.ceil(1 / low)
    label = np.zeros(size, np.uint8)
    label[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = 1
    augmentation = Augmentation(scale_range=(low, 1.0))
    image = np.zeros((*size, 3), np.uint8)
    _, mask = augment(image, label, crop, np.random.default_rng(seed), augmentation, (row, column))
    assert torch.any(mask == 1)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, augmentation=AUGMENTATIONS)
def test_image_and_label_stay_together(seed: int, augmentation: Augmentation) -> None:
    """Where the image is bright the label says so, also after scaling, cropping, mirroring and blurring."""
    label = np.zeros((40, 48), np.uint8)
    label[5:25, 8:30] = 1
    image = np.where(label[..., None] == 1, 230, 20).astype(np.uint8).repeat(3, axis=2)
    picture, mask = augment(image, label, (32, 32), np.random.default_rng(seed), augmentation, (15, 20))
    bright = picture.float().mean(dim=0) > 110
    inside = mask != 255
    wrong = (bright != (mask == 1)) & inside
    edge = torch.nn.functional.max_pool2d((mask != mask.roll(1, 0)).float()[None] + (mask != mask.roll(1, 1)), 5, 1, 2)
    assert not torch.any(wrong & (edge[0] == 0))  # bilinear and nearest differ along the edge, and there alone


@pytest.mark.parametrize("seed", range(4))
def test_label_is_not_shifted_against_the_image(seed: int) -> None:
    """On a ramp whose grey levels are its label, image and label agree to a fraction of a level in the mean."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (200, 200))
    for values in (ramp, ramp.T):
        above = []
        for number in range(40):
            image = values[..., None].repeat(3, axis=2)
            generator = np.random.default_rng([seed, number])
            picture, mask = augment(image, values.copy(), (48, 64), generator, PLAIN)
            above.append((mask.float() - picture[0].float())[mask != 255].mean().item())
        assert abs(np.mean(above)) < 0.15


def test_outside_of_the_image_is_ignored_and_grey() -> None:
    """An image smaller than the crop is surrounded by its mean colour, and by ignore in the label."""
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, ::2] = (200, 100, 40)
    picture, mask = augment(image, np.zeros((6, 8), np.uint8), (64, 64), np.random.default_rng(0), PLAIN)
    assert 0 < (mask == 0).sum() < mask.numel() / 2
    corners = picture[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
    assert corners == [[100, 50, 20]] * 4


def test_same_generator_same_crop() -> None:
    """The crop depends on the generator alone; other seeds give other crops."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    label = striped((30, 40))
    augmentation = Augmentation(blur=0.5)
    one, same, other = (
        augment(image, label, (16, 24), np.random.default_rng(s), augmentation, strong=True) for s in (1, 1, 2)
    )
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
    augment(image, label, (16, 24), np.random.default_rng(0), Augmentation())
    assert before == (image.sum(), label.sum())


@pytest.mark.parametrize("crop", [(16, 24), (200, 90)])
def test_mirrored_half_of_the_time(crop: tuple[int, int]) -> None:
    """About half of the crops are mirrored."""
    label = np.zeros((40, 400), np.uint8)
    label[:, 200:] = 1
    seen = []
    for seed in range(200):
        image = np.zeros((40, 400, 3), np.uint8)
        _, mask = augment(image, label, crop, np.random.default_rng(seed), PLAIN, (20, 200))
        row = mask[(mask != 255).any(dim=1)][0]
        values = row[row != 255]
        if values[0] != values[-1]:
            seen.append(bool(values[0] > values[-1]))
    assert len(seen) > 100
    assert 0.35 < np.mean(seen) < 0.65


def test_scales_are_in_the_range_and_half_of_them_below_its_middle() -> None:
    """Scales are within their range, and as often below 1 as above where it is symmetric in ratio."""
    ramp = np.broadcast_to((np.arange(250) // 2).astype(np.uint8), (250, 250)).copy()
    scales = []
    for seed in range(200):
        image = np.zeros((250, 250, 3), np.uint8)
        _, mask = augment(image, ramp, (40, 40), np.random.default_rng(seed), PLAIN)
        row = mask[0].float()
        scales.append(39 / (2 * abs(row[-1] - row[0]).item()))
    assert 0.45 < min(scales) < 0.6
    assert 1.7 < max(scales) < 2.3
    assert 0.4 < np.mean(np.array(scales) < 1) < 0.6


def test_long_edge_comes_before_the_scale() -> None:
    """With a long edge of twice the image's, a crop of the image's size shows half of it."""
    label = np.arange(40 * 50).reshape(40, 50) // 10
    augmentation = Augmentation(scale_range=(1.0, 1.0), long_edge=100, jitter=0.0)
    image = np.zeros((40, 50, 3), np.uint8)
    _, mask = augment(image, label.astype(np.uint8), (40, 50), np.random.default_rng(0), augmentation)
    rows = np.unique(mask[:, 0].numpy() // 5)
    assert len(rows) == 20


def test_colours_stay_without_jitter() -> None:
    """With a jitter of 0 and no scaling, a crop of the image's size is the image or its mirror image."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    augmentation = Augmentation(scale_range=(1.0, 1.0), jitter=0.0)
    picture, _ = augment(image, striped((30, 40)), (30, 40), np.random.default_rng(0), augmentation)
    pixels = picture.permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, image) or np.array_equal(pixels, image[:, ::-1])


FACTORS = st.floats(0, 3)
TURNS = st.floats(-0.5, 0.5)


def colourful(low: int, high: int, size: tuple[int, int] = (30, 40)) -> torch.Tensor:
    """A picture of random colours: (3, height, width) uint8, values in [low, high)."""
    return torch.from_numpy(np.random.default_rng(0).integers(low, high, (3, *size), np.uint8))


def levels(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many grey levels two pictures differ at most."""
    return int((one.int() - other.int()).abs().max())


def test_neutral_change_of_colours_changes_nothing() -> None:
    """Factors of 1 and no turn give the picture, bit for bit, as a new tensor."""
    picture = colourful(0, 256, (100, 120))
    changed = change_colours(picture, 1, 1, 1, 0)
    assert torch.equal(changed, picture)
    changed.zero_()
    assert picture.any()


@settings(deadline=None)
@given(brightness=FACTORS, contrast=FACTORS, saturation=FACTORS, turn=TURNS)
def test_grey_stays_grey(brightness: float, contrast: float, saturation: float, turn: float) -> None:
    """Grey has neither saturation nor hue: its colours stay equal, but for the rounding to a level."""
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    changed = change_colours(grey, brightness, contrast, saturation, turn)
    assert levels(changed[1:], changed[:1]) <= 1


@settings(deadline=None)
@given(brightness=st.floats(0, 1), contrast=st.floats(0, 1), turn=TURNS)
def test_without_saturation_all_is_grey(brightness: float, contrast: float, turn: float) -> None:
    """A saturation of 0 leaves the luma alone, whatever the hue."""
    changed = change_colours(colourful(0, 256), brightness, contrast, 0, turn)
    assert levels(changed[1:], changed[:1]) <= 1


@settings(deadline=None)
@given(factor=FACTORS)
def test_each_factor_means_what_it_does_in_torchvision(factor: float) -> None:
    """Brightness, contrast and saturation alone are the library's to the level that it loses by rounding down."""
    picture = colourful(0, 256)
    brightness, contrast, saturation = (
        change_colours(picture, *(factor if one == place else 1 for one in range(3)), 0) for place in range(3)
    )
    assert levels(brightness, transforms.adjust_brightness(picture, factor)) <= 1
    assert levels(contrast, transforms.adjust_contrast(picture, factor)) <= 3  # its mean is of rounded lumas
    assert levels(saturation, transforms.adjust_saturation(picture, factor)) <= 3  # so is what it blends with


@settings(deadline=None)
@given(
    factors=st.tuples(*[st.floats(0.9, 1.1)] * 3),
    turn=st.floats(-0.02, 0.02),
)
def test_small_changes_are_close_to_those_of_torchvision(factors: tuple[float, float, float], turn: float) -> None:
    """On muted colours, small changes of all four differ by a few of 256 levels from the library's, hue in HSV."""
    picture = colourful(90, 150)
    expected = transforms.adjust_brightness(picture, factors[0])
    expected = transforms.adjust_contrast(expected, factors[1])
    expected = transforms.adjust_saturation(expected, factors[2])
    expected = transforms.adjust_hue(expected, turn)
    assert levels(change_colours(picture, *factors, turn), expected) <= 16


def test_hue_turns_from_red_to_yellow_and_keeps_the_luma() -> None:
    """A positive turn brings red nearer to yellow as in torchvision; luma stays to a level; a whole turn is none."""
    picture = torch.tensor([150, 90, 90], dtype=torch.uint8).reshape(3, 1, 1).expand(-1, 4, 6)
    red, green, blue = change_colours(picture, 1, 1, 1, 0.05)[:, 0, 0].tolist()
    library = transforms.adjust_hue(picture, 0.05)[:, 0, 0].tolist()
    assert red > green > blue
    assert library[0] > library[1] > library[2]
    assert abs(0.299 * red + 0.587 * green + 0.114 * blue - (0.299 * 150 + 0.701 * 90)) < 1
    assert torch.equal(change_colours(picture, 1, 1, 1, 1.0), picture)


def test_colours_are_clipped_once() -> None:
    """What brightness drives beyond white, contrast brings back, its differences kept."""
    picture = torch.tensor([0, 0, 200, 220], dtype=torch.uint8).expand(3, 2, 4)
    assert change_colours(picture, 1.5, 0.5, 1, 0)[0, 0].tolist() == [79, 79, 229, 244]


def test_colours_do_not_depend_on_the_number_of_threads() -> None:
    """A crop is the same wherever it is made: with one thread, as in a loading process, or with more."""
    picture = colourful(0, 256, (301, 403))
    threads = torch.get_num_threads()
    try:
        changed = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            changed.append(change_colours(picture, 1.1, 0.83, 1.2, 0.04))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, changed[0]) for one in changed)


def roughness(blur: float, *, strong: bool = False) -> float:
    """Mean over crops of the standard deviation of noise, grey levels."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 1), np.uint8).repeat(3, axis=2)
    augmentation = Augmentation(scale_range=(1.0, 1.0), jitter=0.0, blur=blur)
    label = striped((30, 40))
    crops = (
        augment(image, label, (30, 40), np.random.default_rng(seed), augmentation, strong=strong)[0]
        for seed in range(40)
    )
    return float(np.mean([crop.float().std().item() for crop in crops]))


def test_blur_smooths_its_share_of_the_crops() -> None:
    """The more crops are blurred, the smoother they are in the mean."""
    assert roughness(1.0) < roughness(0.5) < roughness(0.0)


def test_strong_crops_are_sometimes_grey_and_differ_more() -> None:
    """Strong augmentation takes the colour off some crops, and changes colours more than the usual jitter."""
    image = np.broadcast_to(np.array([180, 90, 60], np.uint8), (20, 20, 3))
    label = np.zeros((20, 20), np.uint8)

    def colours(*, strong: bool) -> np.ndarray:
        crops = [
            augment(image, label, (20, 20), np.random.default_rng(s), Augmentation(), strong=strong)[0]
            for s in range(100)
        ]
        return np.array([crop[:, 10, 10].tolist() for crop in crops])

    usual, strong = colours(strong=False), colours(strong=True)
    grey = np.ptp(strong, axis=1) == 0
    assert 5 < grey.sum() < 40
    assert not np.any(np.ptp(usual, axis=1) == 0)
    assert np.all(strong.std(axis=0) > 1.5 * usual.std(axis=0))


def test_pasted_rectangle_is_the_same_in_image_and_label() -> None:
    """Mixed crops have one rectangle of the other crop, in image and label alike, and are new tensors."""
    shares = []
    for seed in range(100):
        one = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.uint8)
        other = torch.full((3, 20, 30), 9, dtype=torch.uint8), torch.full((20, 30), 255, dtype=torch.uint8)
        image, label = paste_rectangle(one, other, np.random.default_rng(seed))
        pasted = label == 255
        assert torch.equal(image == 9, pasted.expand(3, -1, -1))
        rows, columns = pasted.any(dim=1).sum(), pasted.any(dim=0).sum()
        assert pasted.sum() == rows * columns
        assert one[1].sum() == 0
        shares.append(pasted.float().mean().item())
    assert 0.4 < np.mean(shares) < 0.6  # uniform in [0, 1]


def test_augmentation_of_a_recipe() -> None:
    """A recipe's settings are those of its augmentation."""
    recipe = TrainingRecipe(scale_range=(0.7, 1.4), long_edge=900, jitter=0.1, blur=0.2, strong=True, cutmix=0.3)
    assert Augmentation.of(recipe) == Augmentation((0.7, 1.4), 900, 0.1, 0.2, strong=True, cutmix=0.3)
