"""The images that a scale head learns from, and those on which it is judged."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.guard import hash_images, refuse_trained_images
from pipeline.head_settings import FitAttentionSettings
from pipeline.samples import Sample, collect_samples
from storage.errors import LayoutError
from teacher import Teacher

HELD_OUT = 5
"""One image of so many is held out where no others are given to judge the head on."""


@dataclass(frozen=True, slots=True)
class HeadData:
    """Images with their truth."""

    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    known: dict[str, str]
    """Those that the head is trained on: sha256 of the file -> key."""
    warnings: tuple[str, ...]
    """What someone may want to mend."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All of them, those to learn from first."""
        return (*self.training, *self.validation)


def collect_images(settings: FitAttentionSettings, teacher: Teacher) -> HeadData:
    """Pair images and labels, and tell those to learn from and those to judge on.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: no image has a label, or there is but one.
        LeakError: images to judge on are trained on, by the head or, where that is not allowed, by the teacher.
    """
    pair = partial(_pair, settings, teacher)
    samples, left_out = pair(settings.images, settings.labels)
    warnings = [f"{left_out} images of {settings.images} have no label and are left out"] if left_out else []
    rng = np.random.default_rng(settings.seed)
    if settings.max_images is not None:
        chosen = sorted(rng.permutation(len(samples))[: settings.max_images])
        samples = tuple(samples[number] for number in chosen)
    if settings.val_images is not None and settings.val_labels is not None:
        training, (validation, _) = samples, pair(settings.val_images, settings.val_labels)
    elif len(samples) < 2:
        raise LayoutError(
            f"only one image of {settings.images} has a label: one is needed to learn from and another to judge on; "
            f"add more, or name others with --val-images and --val-labels"
        )
    else:
        held_out = hold_out(len(samples), rng)
        training = tuple(sample for number, sample in enumerate(samples) if number not in held_out)
        validation = tuple(samples[number] for number in sorted(held_out))
    digests = tuple(hash_images(training))
    known = dict(zip(digests, (sample.key for sample in training), strict=True))
    refuse_trained_images(validation, known, "this head")
    if settings.val_images is not None and not settings.allow_training_images:
        refuse_trained_images(validation, teacher.trained_on, "this teacher")
    if seen := sum(digest in teacher.trained_on for digest in digests):
        warnings.append(
            f"the teacher was trained on {seen} of the {len(digests)} images that the head learns from: it is surer "
            f"and more often right there than on new ones; images that it has not seen may teach the head more"
        )
    return HeadData(training, validation, known, tuple(warnings))


def _pair(
    settings: FitAttentionSettings, teacher: Teacher, images: Path, labels: Path
) -> tuple[tuple[Sample, ...], int]:
    """The images with labels, and how many have none."""
    found = collect_samples(images, labels, "fine", settings.layout, settings.ids, partial=True, schema=teacher.schema)
    return found.samples, len(found.images_without_label)


def hold_out(count: int, rng: np.random.Generator) -> set[int]:
    """Choose a fifth of so many images, rounded up, in runs of neighbours: frames of a video resemble the next ones.

    Args:
        count: of the images, which are in order; at least 2.
        rng: draws the runs.
    """
    length = math.isqrt(count)
    runs = [range(first, min(first + length, count)) for first in range(0, count, length)]
    drawn = [number for run in rng.permutation(len(runs)) for number in runs[run]]
    return set(drawn[: math.ceil(count / HELD_OUT)])
