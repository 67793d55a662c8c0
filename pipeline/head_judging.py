"""How good a frozen teacher is at a single scale, as an average of scales, and with a head, on the same images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.logit_cache import KeptImage
from pipeline.scores import Counts, compute_scores, count_pixels
from storage.label_map import LabelMap
from storage.schema import ClassSchema
from teacher import Teacher
from teacher.decision import DecisionRule
from teacher.execution import exact
from teacher.foreign.scale_head import ScaleHead
from teacher.fusion import ScaledPrediction, size_at_scale
from teacher.joint_decision import decide_jointly
from teacher.late_fusion import View
from teacher.others import without_others

FUSIONS = ("single", "average", "attention")
"""What is compared: scale 1 alone, the mean of all scales, and all scales by the head."""


@dataclass(frozen=True, slots=True)
class HeadScores:
    """Pixels of one way to fuse, by truth and prediction."""

    counts: Counts
    """As `pipeline.scores.count_pixels` gives them."""
    images: int

    def to_dict(self, schema: ClassSchema) -> dict[str, Any]:
        """Their scores; shares are of 1.

        Raises:
            LabelError: the truth has no pixel with a class.
        """
        scores = compute_scores(self.counts, schema, self.images)
        return {"miou": scores.miou, "iou": scores.iou, "pixel_accuracy": scores.pixel_accuracy}


def judge_fusions(
    head: ScaleHead,
    images: Sequence[KeptImage],
    teacher: Teacher,
    kept: Sequence[float],
    scales: Sequence[float] | None = None,
) -> Iterator[dict[str, HeadScores]]:
    """Judge all ways to fuse on kept images, from the kept logits, in float16.

    Args:
        head: the head.
        images: those that are judged.
        teacher: whose logits they are.
        kept: the scales of the logits.
        scales: those of them that are fused, 1 among them; None: all.

    Yields:
        The scores of each of `FUSIONS` over the images so far.
    """
    descending = sorted(kept, reverse=True)
    fused = [(number, scale) for number, scale in enumerate(descending) if scale in (scales or kept)]
    scores: dict[str, HeadScores] = {}
    for image in images:
        truth = LabelMap(image.truth().numpy(), len(teacher.schema))
        with torch.inference_mode(), exact(teacher.device):
            views = _views(head, image, teacher.device, fused)
            for name, view in views.items():
                counts = count_pixels(truth, _label(view, image.size(), teacher.schema))
                before = scores.get(name)
                scores[name] = HeadScores(
                    counts if before is None else before.counts + counts, 1 if before is None else before.images + 1
                )
        yield dict(scores)


def _views(
    head: ScaleHead, image: KeptImage, device: torch.device, scales: Sequence[tuple[int, float]]
) -> dict[str, View]:
    """The predictions of an image as each way has them; scales by number in the file, from the largest."""
    bare = [ScaledPrediction(image.logits(n).to(device), None, size_at_scale(image.size(), s)) for n, s in scales]
    average, attended = bare[:1], bare[:1]
    for number, prediction in enumerate(bare[1:], start=1):
        mean = torch.full_like(prediction.logits[:, :1], 1 / (number + 1))
        average.append(prediction._replace(attention=mean))
        attended.append(prediction._replace(attention=head(prediction.logits, number)))
    single = [prediction for prediction, (_, scale) in zip(bare, scales, strict=True) if scale == 1]
    return dict(zip(FUSIONS, (single, average, attended), strict=True))


def _label(view: View, size: tuple[int, int], schema: ClassSchema) -> LabelMap:
    made = without_others(decide_jointly([view], size, DecisionRule((0.0,))), len(schema))
    return LabelMap(made.labels[0].cpu().numpy(), len(schema))
