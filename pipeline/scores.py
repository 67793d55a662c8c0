"""Scores: how good predictions are, computed from counts of pixels by truth and prediction.

Where the pixels come from is in `evaluation`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.schema import IGNORE, ClassSchema

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """How good predictions are, over the pixels whose truth is a class; an abstention is a prediction of no class.

    Each is a share in [0, 1], or None where there is nothing to divide by.
    """

    images: int
    miou: float
    """Mean of `iou` over the classes that have one, as Cityscapes' own scripts take it: a class that is predicted where
    no truth has it counts as 0."""
    iou: dict[str, float | None]
    """By class name: right / (truth or prediction is the class). An abstention is a miss. None: neither has it."""
    pixel_accuracy: float
    """Right pixels of all; an abstention is wrong."""
    coverage: float
    """Pixels that are given a class, of all."""
    precision: float | None
    """Right pixels of those that are given a class."""
    precision_by_class: dict[str, float | None]
    """Right pixels of those that are given the class."""
    recall_by_class: dict[str, float | None]
    """Right pixels of those whose truth is the class."""


def count_pixels(truth: LabelMap, prediction: LabelMap) -> Counts:
    """Count the pixels of one image by truth and prediction.

    Args:
        truth: pixels that are ignored here are not counted.
        prediction: of the same size and classes; ignore is an abstention.

    Returns:
        (class, class + 1) int64: rows are the truth, columns the prediction; the last column is abstentions.
    """
    classes = truth.num_classes
    judged = truth.values != IGNORE
    rows = truth.values[judged].astype(np.int64)
    columns = np.minimum(prediction.values[judged], classes)
    return np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1)).reshape(classes, -1)


def compute_scores(counts: Counts, schema: ClassSchema, images: int) -> Scores:
    """Turn counts into scores.

    Args:
        counts: sum of what `count_pixels` gives.
        schema: the classes, for their names.
        images: how many images were counted.

    Raises:
        LabelError: nothing was counted: the truth has no pixel with a class.

    Source: intersection over union as in the PASCAL VOC challenge, doi:10.1007/s11263-009-0275-4, section 4; the mean
    as in cityscapesscripts, evaluation/evalPixelLevelSemanticLabeling.py, getScoreAverage.
    """
    total = counts.sum()
    if not total:
        raise LabelError(f"the truth of the {images} images has no pixel with a class: nothing can be judged")
    right, of_truth, of_prediction = counts.diagonal(), counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    decided = of_prediction.sum()
    iou = _shares(right, of_truth + of_prediction - right)
    return Scores(
        images=images,
        miou=float(np.mean([share for share in iou if share is not None])),
        iou=dict(zip(schema.names, iou, strict=True)),
        pixel_accuracy=float(right.sum() / total),
        coverage=float(decided / total),
        precision=float(right.sum() / decided) if decided else None,
        precision_by_class=dict(zip(schema.names, _shares(right, of_prediction), strict=True)),
        recall_by_class=dict(zip(schema.names, _shares(right, of_truth), strict=True)),
    )


def _shares(part: Counts, whole: Counts) -> list[float | None]:
    return [float(p / w) if w else None for p, w in zip(part, whole, strict=True)]
