"""What a training run learns from: its samples of all kinds, their index, and the batches of each process.

What is drawn is decided in `sampling`; how a crop is cut, in `crops`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from pipeline.augmentation import Augmentation
from pipeline.crops import Batch, CropDataset, stack_crops
from pipeline.distributed import launched_by_slurm
from pipeline.reviewed_samples import override
from pipeline.sample_index import SampleIndex
from pipeline.samples import Kind, Sample, collect_samples
from pipeline.sampling import CropSampler
from pipeline.training_settings import TrainingRecipe, TrainSettings
from storage.errors import AutocoarseError, MissingFileError
from storage.object_io import file_digest
from storage.schema import ClassSchema
from teacher.checkpoint import checkpoint_of, is_own
from teacher.weights import read_content


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run learns from, and what it is judged on."""

    index: SampleIndex
    sampler: CropSampler
    validation: SampleIndex | None
    trained_on: dict[str, str]
    """What a checkpoint records: sha256 of each image file -> key, also of those that the start weights know."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What there is to learn from, before any label is read."""

    samples: tuple[Sample, ...]
    """Of all kinds."""
    validation: tuple[Sample, ...]
    messages: tuple[str, ...]
    """What someone who waits should know."""
    warnings: tuple[str, ...]
    """What someone may want to mend."""


def collect(settings: TrainSettings, schema: ClassSchema) -> Collected:
    """List the samples of all kinds, and those to validate on.

    Raises:
        MissingFileError, LayoutError: what to learn from, or to validate on, is not there; or a reviewed label has no
            image.
        SettingsError: what is to be reviewed labels is a RUN's that nobody has reviewed.
    """
    samples: list[Sample] = []
    validation: tuple[Sample, ...] = ()
    warnings = []
    sources: tuple[tuple[str, Kind], ...] = (("fine", "fine"), ("auto", "auto"), ("coarse", "coarse"), ("val", "fine"))
    for name, kind in sources:
        images, labels = getattr(settings, f"{name}_images"), getattr(settings, f"{name}_labels")
        if images is None:
            continue
        partial = name != "fine"
        collection = collect_samples(
            images, labels, kind, settings.layout, settings.ids, partial=partial, schema=schema
        )
        if left_out := len(collection.images_without_label):
            warnings.append(f"{left_out} images of {images} have no {kind} label and are left out")
        if name == "val":
            validation = collection.samples
        else:
            samples += collection.samples
    messages = []
    if settings.reviewed_labels is not None and settings.reviewed_images is not None:
        images, labels = settings.reviewed_images, settings.reviewed_labels
        overridden = override(samples, images, labels, settings.layout, settings.ids, schema)
        samples = list(overridden.samples)
        messages.append(overridden.message)
    return Collected(tuple(samples), validation, tuple(messages), tuple(warnings))


def known_images(settings: TrainSettings, index: SampleIndex) -> dict[str, str]:
    """The images that the network will have been trained on: sha256 of the file -> key.

    Those that its start weights, or its encoder's, were trained on, if they say so, are among them.
    """
    inherited: dict[str, str] = {}
    weights = settings.start_weights or settings.encoder_weights
    if weights is not None:
        content = read_content(weights)
        if is_own(content):
            inherited = checkpoint_of(content, weights).record.get("images", {})
    own = {digest: sample.key for sample, digest in zip(index.samples, index.image_digests, strict=True)}
    return inherited | own


def decisive_settings(settings: TrainSettings, schema: ClassSchema, index: SampleIndex) -> dict[str, Any]:
    """What decides the weights: settings, and the content of what they name.

    Raises:
        MissingFileError: there are no such weights to start from.
    """
    return {
        **settings.decisive(),
        "classes": list(schema.names),
        "samples": index.digest,
        "encoder_weights": _weights_digest("encoder weights", settings.encoder_weights),
        "start_weights": _weights_digest("start weights", settings.start_weights),
    }


def _weights_digest(what: str, path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise MissingFileError(f"no {what} {path}")
    return file_digest(path)[:16]


def make_sampler(recipe: TrainingRecipe, index: SampleIndex, schema: ClassSchema) -> CropSampler:
    """The sampler that a recipe asks for.

    Raises:
        SettingsError: a boost class is unknown.
    """
    return CropSampler(
        index,
        schema,
        class_uniform=recipe.class_uniform,
        fine_share=recipe.fine_share,
        boost_classes=recipe.boost_classes,
        seed=recipe.seed,
    )


def crop_numbers(recipe: TrainingRecipe, start: int, stop: int, rank: int) -> npt.NDArray[np.int64]:
    """The numbers of the crops that a process takes in steps start..stop - 1, in order.

    A step's crops are the same however many processes share them.
    """
    shape = (stop - start, recipe.accumulate, recipe.world, recipe.batch)
    first = start * recipe.crops_a_step
    return (first + np.arange(np.prod(shape)).reshape(shape)[:, :, rank]).ravel()


def read_batches(
    settings: TrainSettings, data: TrainingData, schema: ClassSchema, steps: tuple[int, int], fabric: Fabric
) -> Iterator[list[Batch]]:
    """The batches of each step from the first up to, and without, the second of `steps`.

    Raises:
        ImageError, LabelError: an image or a label has become unreadable.
    """
    numbers = crop_numbers(settings, *steps, fabric.global_rank)
    how = Augmentation.of(settings)
    crops = CropDataset(data.index, schema, data.sampler, how, settings.crop, settings.seed, numbers)
    loader = DataLoader(
        crops,
        settings.batch,
        num_workers=min(reading_processes(settings), steps[1] - steps[0]),
        collate_fn=stack_crops,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # the loader draws from the global one otherwise
    )
    gathered: list[Batch] = []
    for batch in loader:
        if isinstance(batch, AutocoarseError):
            raise batch
        gathered.append(batch)
        if len(gathered) == settings.accumulate:
            yield gathered
            gathered = []


def reading_processes(settings: TrainSettings) -> int:
    """As many as wanted, or enough to feed a device without taking all processors from a network on the CPU."""
    if settings.workers is not None:
        return settings.workers
    # a container or a batch system often allows fewer processors than the machine has
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    mine = allowed if launched_by_slurm() else allowed // settings.devices
    return min(max(mine - 1, 1), 8)
