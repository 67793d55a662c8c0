"""What a label set will take, before it is made.

The bytes per label come from a model until there are labels to measure; `storage.budget` states it.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage.budget import SizeEstimate, estimate_label_bytes, free_bytes
from storage.errors import ImageError, LayoutError
from storage.image_reader import read_image_size
from storage.layouts import Item

SAMPLE = 500
"""Image headers read for an estimate; the mean of 500 sizes is within 1 % for any set worth labelling."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of a label set to come, and the room for them."""

    sizes: SizeEstimate
    height: int
    """Of the most frequent size."""
    width: int
    basis: Literal["sample", "model"]
    """Where the image sizes come from: real images, or the size given. Bytes per label are modelled in both."""
    sampled: int
    """Images whose size was read."""
    free_bytes: int
    within_budget: bool | None
    """Whether the labels fit the budget; None without one."""


def sample_sizes(items: Sequence[Item], limit: int = SAMPLE) -> list[tuple[int, int]]:
    """Read the sizes of a random, reproducible sample of images; files that are no images are passed over.

    Args:
        items: images to draw from.
        limit: how many to read at most.

    Returns:
        (height, width) of each.

    Raises:
        LayoutError: none of the sample can be read.
    """
    drawn = items if len(items) <= limit else random.Random(0).sample(items, limit)  # noqa: S311 - no secret
    sizes = []
    for item in drawn:
        try:
            sizes.append(read_image_size(item.image))
        except ImageError:
            continue  # labelling will record it as a failure, with the reason
    if not sizes:
        raise LayoutError(f"none of {len(drawn)} images can be read, the first is {drawn[0].image if drawn else '-'}")
    return sizes


def make_estimate(
    sizes: Sequence[tuple[int, int]],
    count: int,
    classes: int,
    basis: Literal["sample", "model"],
    place: Path,
    budget: int | None = None,
) -> Estimate:
    """Estimate the bytes of labels.

    Args:
        sizes: (height, width) of a sample of the images, or the one size they have.
        count: number of images.
        classes: number of classes.
        basis: where the sizes come from.
        place: where the labels would be written; free space is looked up there.
        budget: limit in bytes, if there is one.
    """
    estimate = estimate_label_bytes(sizes, count, classes)
    (height, width), _ = Counter(sizes).most_common(1)[0]
    return Estimate(
        sizes=estimate,
        height=height,
        width=width,
        basis=basis,
        sampled=len(sizes) if basis == "sample" else 0,
        free_bytes=free_bytes(place),
        within_budget=None if budget is None else estimate.hard_png_bytes <= budget,
    )
