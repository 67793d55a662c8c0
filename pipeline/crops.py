"""The crops that are learned from: read, cut, changed and put together to batches.

Which sample a crop comes from is decided in `sampling`, what happens to it in `augmentation`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.augmentation import Augmentation, augment, paste_rectangle
from pipeline.sample_index import SampleIndex
from pipeline.samples import Kind, read_sample
from pipeline.sampling import CropSampler, Draw
from storage.errors import AutocoarseError, MissingFileError
from storage.schema import ClassSchema

KINDS: tuple[Kind, ...] = ("fine", "auto", "coarse", "reviewed")
"""The kinds in the order in which batches count them."""


class Crop(NamedTuple):
    """One crop."""

    image: Tensor
    """(3, height, width) uint8 RGB."""
    target: Tensor
    """(height, width) uint8, class indices or 255."""
    kind: int
    """Position in `KINDS`."""
    pixels: Tensor
    """Pixels of each class: (class,) int64."""


class Batch(NamedTuple):
    """Crops of one step."""

    images: Tensor
    """(batch, 3, height, width) uint8 RGB."""
    target: Tensor
    """(batch, height, width) uint8, class indices or 255."""
    kinds: Tensor
    """(batch,) uint8, positions in `KINDS`."""
    pixels: Tensor
    """Pixels by kind and class in the target: (kind, class) int64."""


class CropDataset(Dataset[Crop | AutocoarseError]):
    """Crops of a training run.

    A crop that cannot be read is returned as its error, not raised: raised in another process, its message would be
    buried in a traceback. `stack_crops` hands it on.

    Args:
        index: the samples.
        schema: the classes that labels are read as.
        sampler: what draws from them.
        augmentation: how crops are changed.
        crop: (height, width) of a crop.
        seed: a crop depends on the seed and its number alone.
        numbers: of the crops; item i is the crop `numbers[i]`.
    """

    def __init__(
        self,
        index: SampleIndex,
        schema: ClassSchema,
        sampler: CropSampler,
        augmentation: Augmentation,
        crop: tuple[int, int],
        seed: int,
        numbers: Sequence[int] | npt.NDArray[np.integer],
    ) -> None:
        self._samples = index.samples
        self._schema = schema
        self._sampler = sampler
        self._augmentation = augmentation
        self._crop = crop
        self._seed = seed
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, item: int) -> Crop | AutocoarseError:
        number = int(self._numbers[item])
        generator = np.random.default_rng([self._seed, number])
        draw = self._sampler.draw(number)
        kind = self._samples[draw.sample].kind
        try:
            image, target = self._cut(draw, generator)
            if kind == "auto" and generator.random() < self._augmentation.cutmix:
                other = self._cut(self._sampler.partner(number, draw, generator), generator)
                image, target = paste_rectangle((image, target), other, generator)
        except AutocoarseError as error:
            return error
        except FileNotFoundError as error:
            return MissingFileError(
                f"{error.filename}: has vanished during training; put it back and run the command again"
            )
        pixels = torch.bincount(target.flatten(), minlength=256)[: len(self._schema)]
        return Crop(image, target, KINDS.index(kind), pixels)

    def _cut(self, draw: Draw, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        sample = self._samples[draw.sample]
        image, label = read_sample(sample, self._schema)
        strong = self._augmentation.strong and sample.kind == "auto"
        return augment(image, label.values, self._crop, generator, self._augmentation, draw.anchor, strong=strong)


def stack_crops(crops: Sequence[Crop | AutocoarseError]) -> Batch | AutocoarseError:
    """Put crops together to a batch, in their order; or give the first error among them."""
    good: list[Crop] = []
    for crop in crops:
        if isinstance(crop, AutocoarseError):
            return crop
        good.append(crop)
    kinds = torch.tensor([crop.kind for crop in good], dtype=torch.uint8)
    by_crop = torch.stack([crop.pixels for crop in good])
    pixels = by_crop.new_zeros(len(KINDS), by_crop.shape[1]).index_add_(0, kinds.long(), by_crop)
    return Batch(torch.stack([c.image for c in good]), torch.stack([c.target for c in good]), kinds, pixels)
