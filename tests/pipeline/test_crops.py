"""Crops and batches: that they depend on seed and number alone, and count what they hold."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.augmentation import Augmentation
from pipeline.crops import KINDS, Batch, Crop, CropDataset, stack_crops
from pipeline.sample_index import build_index
from pipeline.samples import Sample
from pipeline.sampling import CropSampler
from storage.errors import AutocoarseError, ImageError, MissingFileError
from storage.schema import ClassSchema

MakeSamples = Callable[..., list[Sample]]

PLAIN = Augmentation(scale_range=(1.0, 1.0), jitter=0.0)


def dataset(
    samples: Sequence[Sample],
    schema: ClassSchema,
    augmentation: Augmentation = PLAIN,
    *,
    seed: int = 0,
    class_uniform: float = 0.5,
    numbers: Sequence[int] = range(20),
) -> CropDataset:
    """Crops of 12x16."""
    *_, last = build_index(samples, schema, tile=(12, 16), cache=None)
    assert last.index is not None
    sampler = CropSampler(
        last.index, schema, class_uniform=class_uniform, fine_share=0.5, boost_classes=None, seed=seed, epoch_crops=10
    )
    return CropDataset(last.index, schema, sampler, augmentation, (12, 16), seed, numbers)


def crop_of(crops: CropDataset, item: int) -> Crop:
    """A crop that is no error."""
    crop = crops[item]
    assert isinstance(crop, Crop)
    return crop


def batch_of(crops: Sequence[Crop | AutocoarseError]) -> Batch:
    """A batch that is no error."""
    batch = stack_crops(crops)
    assert isinstance(batch, Batch)
    return batch


def test_crop_depends_on_seed_and_number_alone(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """The same number gives the same crop in any order, place and data set object; other seeds give others."""
    samples = make_samples([np.zeros((20, 30)), np.ones((30, 20))]) + make_samples([np.zeros((20, 30))] * 3, "auto")
    augmentation = Augmentation(blur=0.5, strong=True, cutmix=1.0)
    forwards = [crop_of(dataset(samples, schema, augmentation), i) for i in range(14)]
    turned = dataset(samples, schema, augmentation, numbers=np.arange(13, -1, -1).tolist())
    for item in range(14):
        crop, expected = crop_of(turned, item), forwards[13 - item]
        assert torch.equal(crop.image, expected.image)
        assert torch.equal(crop.target, expected.target)
    others = [crop_of(dataset(samples, schema, augmentation, seed=1), i) for i in range(14)]
    assert any(not torch.equal(a.image, b.image) for a, b in zip(forwards, others, strict=True))


def test_reading_processes_give_the_same_batches(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Batches that other processes have read are those that this one reads."""
    crops = dataset(make_samples([np.zeros((20, 30)), np.ones((30, 20))]), schema)
    here, there = (list(DataLoader(crops, 5, num_workers=n, collate_fn=stack_crops)) for n in (0, 2))
    assert len(here) == len(there) == 4
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_crops_by_class_contain_their_class(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """With draws by class alone, half of the crops are for a single rare pixel, and each of them has it."""
    label = np.zeros((60, 80))
    label[50, 70] = 1
    crops = dataset(make_samples([label]), schema, Augmentation(scale_range=(1.0, 2.0)), class_uniform=1.0)
    having = [bool((crop_of(crops, i).target == 1).any()) for i in range(len(crops))]
    assert sum(having) >= 10


def test_batch_counts_pixels_by_kind_and_class(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """A batch has the crops in their order, says of what kind each is, and counts its pixels by kind and class."""
    samples = make_samples([np.zeros((20, 30)), np.full((20, 30), 2)]) + make_samples([np.ones((6, 8))], "coarse")
    good = [crop_of(dataset(samples, schema), i) for i in range(10)]
    batch = batch_of(good)
    assert (batch.images.shape, batch.images.dtype) == ((10, 3, 12, 16), torch.uint8)
    assert (batch.target.shape, batch.target.dtype) == ((10, 12, 16), torch.uint8)
    assert (batch.kinds.shape, batch.kinds.dtype) == ((10,), torch.uint8)
    assert (batch.pixels.shape, batch.pixels.dtype) == ((len(KINDS), 3), torch.int64)
    assert torch.equal(batch.images[7], good[7].image)
    assert torch.equal(batch.target[7], good[7].target)
    assert {KINDS[k] for k in batch.kinds} == {"fine", "coarse"}
    for number, kind in enumerate(KINDS):
        target = batch.target[batch.kinds == number]
        assert batch.pixels[number].tolist() == [int((target == c).sum()) for c in range(3)], kind


def test_all_ignored_and_small_images_give_whole_crops(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Images smaller than the crop, each of another size, are padded with ignore; so is one pixel that is labelled."""
    ignored = np.full((5, 7), 255)
    ignored[2, 3] = 1
    batch = batch_of([crop_of(dataset(make_samples([ignored, np.zeros((1, 1))]), schema), i) for i in range(8)])
    assert set(batch.target.unique().tolist()) == {0, 1, 255}
    assert batch.pixels.sum() == (batch.target != 255).sum()


def test_mixed_crops_are_of_two_auto_samples(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """With CutMix auto crops have pixels of two auto samples, image and label alike; fine crops never do."""
    samples = make_samples([np.zeros((12, 16))]) + make_samples([np.ones((12, 16)), np.full((12, 16), 2)], "auto")
    crops = dataset(samples, schema, Augmentation(scale_range=(1.0, 1.0), jitter=0.0, cutmix=1.0))
    mixed = 0
    for item in range(len(crops)):
        crop = crop_of(crops, item)
        found = set(crop.target.unique().tolist())
        assert found <= ({0} if KINDS[crop.kind] == "fine" else {1, 2})
        mixed += len(found) == 2
    assert mixed > 4


def test_strong_augmentation_is_for_auto_samples(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Asked for strong augmentation, auto crops come out changed and fine ones as they would without it."""
    samples = make_samples([np.zeros((12, 16))] * 2) + make_samples([np.zeros((12, 16))] * 2, "auto")
    plain, strong = (
        dataset(samples, schema, Augmentation(scale_range=(1.0, 1.0), jitter=0.0, strong=s)) for s in (False, True)
    )
    for item in range(20):
        one, other = crop_of(plain, item), crop_of(strong, item)
        assert KINDS[one.kind] == "auto" or torch.equal(one.image, other.image)
        assert torch.equal(one.target, other.target)
    auto = [i for i in range(20) if KINDS[crop_of(plain, i).kind] == "auto"]
    assert any(not torch.equal(crop_of(plain, i).image, crop_of(strong, i).image) for i in auto)


def test_damaged_image_is_handed_on_as_an_error(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """An image that cannot be decoded becomes an error in the batch, with the file's name, not a traceback."""
    samples = make_samples([np.zeros((40, 60))])
    crops = dataset(samples, schema)
    samples[0].image.write_bytes(samples[0].image.read_bytes()[:2000])
    batch = stack_crops([crops[0], crops[1]])
    assert isinstance(batch, ImageError)
    assert "fine0.png" in str(batch)


def test_label_that_vanishes_is_handed_on_as_an_error(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """A label that is gone by the time it is read becomes an error with its name."""
    samples = make_samples([np.zeros((40, 60))])
    crops = dataset(samples, schema)
    Path(samples[0].label.path).unlink()
    error = stack_crops([crops[0]])
    assert isinstance(error, MissingFileError)
    with pytest.raises(MissingFileError, match=r"fine0\.png: has vanished"):
        raise error
