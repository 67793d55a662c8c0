"""Evaluation: how good labels are, or a network's predictions, against a ground truth.

Only counts are kept, so memory does not grow with the set. Nothing is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.deciding import one_behind
from pipeline.guard import refuse_trained_images
from pipeline.paired_labels import pair_labels
from pipeline.samples import collect_samples, read_samples
from pipeline.scores import Counts, Scores, compute_scores, count_pixels
from storage.clean_up import remove_small_components
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.layouts import Layout
from storage.schema import ClassSchema, Ids
from teacher import Teacher
from teacher.decided import Decision
from teacher.decision import DecisionRule
from teacher.networks.prediction import Fusion


@dataclass(frozen=True, slots=True)
class CleanUp:
    """What labels become without their small components."""

    min_pixels: int
    """Components of fewer pixels are taken out."""
    counts: Counts
    """As in `count_pixels`, of the cleaned labels."""
    bytes: int
    """Of the cleaned labels as PNGs."""
    bytes_before: int
    """Of the labels as they are, as PNGs of the same form: both as `encode_label_png` writes them, provenance aside."""

    @classmethod
    def measure(cls, truth: LabelMap, prediction: LabelMap, min_pixels: int) -> Self:
        """Clean one label and judge it.

        Raises:
            SettingsError: `min_pixels` is negative.
        """
        cleaned = remove_small_components(prediction, min_pixels)
        before, after = len(encode_label_png(prediction)), len(encode_label_png(cleaned))
        return cls(min_pixels, count_pixels(truth, cleaned), after, before)

    def plus(self, other: Self) -> Self:
        """Both together, of other images with the same `min_pixels`."""
        return type(self)(
            self.min_pixels,
            self.counts + other.counts,
            self.bytes + other.bytes,
            self.bytes_before + other.bytes_before,
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """What one image, or several, add to an evaluation."""

    counts: Counts
    unknown: int
    clean_up: CleanUp | None = None

    def plus(self, other: "_Judged") -> "_Judged":
        clean_up = self.clean_up
        if clean_up is not None and other.clean_up is not None:
            clean_up = clean_up.plus(other.clean_up)
        return _Judged(self.counts + other.counts, self.unknown + other.unknown, clean_up)


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is, and what it has counted; the last one has counted everything."""

    done: int
    total: int
    counts: Counts
    """As in `count_pixels`, over the images so far."""
    schema: ClassSchema
    without_truth: int
    """Images or labels that have no truth; they are not judged."""
    without_prediction: int
    """Truth files that have no label or image; they are not judged."""
    unknown: int
    """Pixels of the truth, over the images so far, whose source id the schema does not know; they are not judged."""
    clean_up: CleanUp | None = None
    """The same labels without small components, over the images so far, where that was asked for."""

    def scores(self) -> Scores:
        """The scores over the images so far.

        Raises:
            LabelError: their truth has no pixel with a class.
        """
        return compute_scores(self.counts, self.schema, self.done)

    def cleaned_scores(self) -> Scores | None:
        """The scores of the cleaned labels over the images so far; None where none were cleaned.

        Raises:
            LabelError: their truth has no pixel with a class.
        """
        return None if self.clean_up is None else compute_scores(self.clean_up.counts, self.schema, self.done)


def evaluate_labels(
    labels: Path,
    truth: Path,
    schema: ClassSchema,
    layout: Layout = "folder",
    ids: Ids | None = None,
    *,
    min_component: int | None = None,
) -> Iterator[EvaluationProgress]:
    """Judge the labels of a folder against a ground truth. Only images that are in both are judged.

    Args:
        labels: what `label --out` made, or a label folder.
        truth: label folder of the ground truth.
        schema: the classes that both are read as.
        layout: how the folders lie on disk.
        ids: what their values are; a run says itself what its own labels are.
        min_component: judge the labels also without components of fewer pixels (see `remove_small_components`), and
            measure the bytes of both; None does neither.

    Yields:
        Progress after each image.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: a folder holds no labels, or they have no image in common.
        LabelError: a label cannot be read, holds an illegal value, or differs in size from its truth.
        SettingsError: `min_component` is negative.
    """
    pairs = pair_labels(labels, truth, schema, layout, ids)

    def count(_: str, label: LabelMap, target: LabelMap) -> _Judged:
        clean_up = None if min_component is None else CleanUp.measure(target, label, min_component)
        return _Judged(count_pixels(target, label), target.unknown, clean_up)

    missing = pairs.without_truth, pairs.without_label
    yield from _accumulate(pairs.judge(count), len(pairs.keys), schema, missing)


def evaluate_network(
    teacher: Teacher,
    images: Path,
    truth: Path,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    layout: Layout = "folder",
    ids: Ids | None = None,
    *,
    fusion: Fusion | None = None,
    threshold: float = 0,
    part: tuple[int, int] = (0, 1),
    allow_training_images: bool = False,
) -> Iterator[EvaluationProgress]:
    """Judge a network's predictions against a ground truth.

    Args:
        teacher: the network; its classes are those that the truth is read as.
        images: image folder. Only images with a truth are judged.
        truth: label folder of the ground truth.
        scales: at which it predicts; 1.0 is among them.
        layout: how the folders lie on disk.
        ids: what the truth's values are.
        fusion: how the scales are fused; None: as the network was trained for.
        threshold: only what it is surer of is a prediction, the rest an abstention; in [0, 1).
        part: (n, m): judge only images n, n + m, n + 2m, ..., where m processes share the work.
        allow_training_images: judge also on images that the network was trained on.

    Yields:
        Progress after each image.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: no image has a truth.
        LeakError: the network was trained on some of the images.
        ImageError, LabelError: an image or a truth cannot be read, or they differ in size.
        SettingsError: the scales are not positive, come twice, or lack 1.0; or the threshold is out of range.
    """
    collection = collect_samples(images, truth, "fine", layout, ids, partial=True, schema=teacher.schema)
    if not allow_training_images:
        refuse_trained_images(collection.samples, teacher.trained_on, "this network")
    schema = teacher.schema
    samples = collection.samples[part[0] :: part[1]]

    def decide() -> Iterator[tuple[LabelMap, Decision]]:
        rule = DecisionRule((threshold,))
        for image, target in read_samples(samples, schema):
            yield target, teacher.decide([image], scales, rule, fusion=fusion)[0]

    def predict() -> Iterator[_Judged]:
        for target, decision in one_behind(decide()):
            yield _Judged(count_pixels(target, LabelMap(decision.label, len(schema))), target.unknown)

    missing = len(collection.images_without_label), len(collection.labels_without_image)
    yield from _accumulate(predict(), len(samples), schema, missing)


def _accumulate(
    judged: Iterator[_Judged], total: int, schema: ClassSchema, missing: tuple[int, int]
) -> Iterator[EvaluationProgress]:
    so_far: _Judged | None = None
    for number, one in enumerate(judged, start=1):
        so_far = one if so_far is None else so_far.plus(one)
        yield EvaluationProgress(number, total, so_far.counts, schema, *missing, so_far.unknown, so_far.clean_up)
