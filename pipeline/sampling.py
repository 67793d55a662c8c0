"""Which crop comes next: draws that depend on the seed and the crop's number alone.

So a run that is resumed needs its step and nothing else, and the number of reading processes cannot matter.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.augmentation import augment
from pipeline.samples import Sample, check_sizes_agree, read_sample
from storage.errors import AutocoarseError, LabelError
from storage.image_reader import read_image_size
from storage.label_png import read_label_png
from storage.schema import ClassSchema

_READERS = 4
_COMPLETE = frozenset({"fine", "reviewed"})


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """What every label holds, read once before training."""

    samples: tuple[Sample, ...]
    counts: npt.NDArray[np.int64]
    """Pixels of each class in each sample: (sample, class)."""
    digest: str
    """Hash of the samples' keys, kinds, label values and sizes of image files."""

    def absent_classes(self, schema: ClassSchema) -> tuple[str, ...]:
        """Names of the classes that no sample has a pixel of."""
        return tuple(name for name, pixels in zip(schema.names, self.counts.sum(axis=0), strict=True) if not pixels)


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far the reading is; the last one has the index."""

    done: int
    total: int
    index: SampleIndex | None = None


def build_index(samples: Sequence[Sample], schema: ClassSchema) -> Iterator[IndexProgress]:
    """Read every label once: what is wrong with any of them is known before training starts.

    Raises:
        ImageError: an image's header cannot be read.
        LabelError: a label cannot be read, holds an illegal value or is not of its image's size; or no sample has a
            labelled pixel.
    """

    def read(sample: Sample) -> tuple[npt.NDArray[np.int64], bytes]:
        label = read_label_png(sample.label.path, schema, sample.label.ids)
        size = read_image_size(sample.image)
        check_sizes_agree(sample.image, size, sample.label.path, (label.height, label.width))
        identity = f"{sample.key}\0{sample.kind}\0{label.width}\0{sample.image.stat().st_size}\0".encode()
        return label.counts[: len(schema)], hashlib.sha256(identity + label.values.tobytes()).digest()

    counts = np.zeros((len(samples), len(schema)), np.int64)
    digest = hashlib.sha256()
    with ThreadPoolExecutor(_READERS, "index") as pool:
        try:
            for number, (row, identity) in enumerate(pool.map(read, samples)):
                counts[number] = row
                digest.update(identity)
                yield IndexProgress(number + 1, len(samples))
        finally:
            pool.shutdown(cancel_futures=True)
    if not counts.any():
        raise LabelError(f"none of the {len(samples)} labels has a pixel with a class: there is nothing to learn from")
    index = SampleIndex(tuple(samples), counts, digest.hexdigest()[:16])
    yield IndexProgress(len(samples), len(samples), index)


@dataclass(frozen=True, slots=True)
class Draw:
    """A sample to cut a crop from."""

    sample: int
    """Position in the index."""
    class_index: int | None
    """The crop must contain a pixel of this class; None: any crop will do."""


class _Pool:
    """Samples that are drawn from together, and which of them contain each class."""

    def __init__(self, positions: npt.NDArray[np.intp], counts: npt.NDArray[np.int64]) -> None:
        self.positions = positions
        self.classes = np.flatnonzero(counts[positions].any(axis=0))
        self._containing = {int(c): positions[counts[positions, c] > 0] for c in self.classes}

    def draw(self, generator: np.random.Generator, class_uniform: float) -> Draw:
        if generator.random() < class_uniform:
            wanted = int(generator.choice(self.classes))
            return Draw(int(generator.choice(self._containing[wanted])), wanted)
        return Draw(int(generator.choice(self.positions)), None)


class CropSampler:
    """Draws samples: first the kind, then, for some, the class.

    Args:
        index: the samples; those without a single labelled pixel are never drawn.
        class_uniform: share of the draws that choose a class first, each class that occurs as often as any other.
        fine_share: share of the draws from fine samples, where there are others as well.

    Source: class-uniform sampling: arXiv:1812.01593, section 3.3.
    """

    def __init__(self, index: SampleIndex, class_uniform: float, fine_share: float) -> None:
        useful = index.counts.any(axis=1)
        complete = np.array([sample.kind in _COMPLETE for sample in index.samples])
        self._fine, self._other = (
            _Pool(np.flatnonzero(useful & chosen), index.counts) for chosen in (complete, ~complete)
        )
        self._class_uniform = class_uniform
        self._fine_share = fine_share
        if not self._other.positions.size:
            self._fine_share = 1.0
        elif not self._fine.positions.size:
            self._fine_share = 0.0

    def draw(self, generator: np.random.Generator) -> Draw:
        """Draw a sample; the generator is the only source of randomness."""
        pool = self._fine if generator.random() < self._fine_share else self._other
        return pool.draw(generator, self._class_uniform)


Crop = tuple[Tensor, Tensor]
"""Image (3, height, width) uint8 and label (height, width) uint8."""


class CropDataset(Dataset[Crop | AutocoarseError]):
    """The crops of a training run, by number.

    A crop that cannot be read is returned as its error, not raised: raised in another process, its message would be
    buried in a traceback. `stack_crops` hands it on.

    Args:
        index: the samples.
        schema: the classes that labels are read as.
        sampler: what draws from them.
        crop: (height, width) of a crop.
        seed: crop i depends on the seed and i alone.
        length: how many crops there are.
    """

    def __init__(
        self,
        index: SampleIndex,
        schema: ClassSchema,
        sampler: CropSampler,
        crop: tuple[int, int],
        seed: int,
        length: int,
    ) -> None:
        self._samples = index.samples
        self._schema = schema
        self._sampler = sampler
        self._crop = crop
        self._seed = seed
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Crop | AutocoarseError:
        generator = np.random.default_rng([self._seed, number])
        draw = self._sampler.draw(generator)
        try:
            image, label = read_sample(self._samples[draw.sample], self._schema)
        except AutocoarseError as error:
            return error
        pixel = None
        if draw.class_index is not None:
            places = np.flatnonzero(label.values == draw.class_index)
            row, column = divmod(int(generator.choice(places)), label.width)
            pixel = (row, column)
        return augment(image, label.values, self._crop, generator, pixel)


def stack_crops(crops: Sequence[Crop | AutocoarseError]) -> Crop | AutocoarseError:
    """Stack crops to images (batch, 3, height, width) and labels (batch, height, width), uint8; or give the error."""
    good: list[Crop] = []
    for crop in crops:
        if isinstance(crop, AutocoarseError):
            return crop
        good.append(crop)
    return torch.stack([image for image, _ in good]), torch.stack([label for _, label in good])
