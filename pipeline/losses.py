"""What training minimises: a pixel loss over the pixels that have a label, and with RMI a loss of their neighbourhoods.

A batch's loss is its part of the global batch's, over all processes and accumulated batches; who counts those, and adds
up the parts, is the training loop.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.rmi import regional_loss
from pipeline.training_settings import Loss as LossName
from storage.schema import IGNORE
from teacher.fusion import TrainingPrediction

REGIONAL_SHARE = 0.5
"""Of the regional part in RMI; the pixels have the rest. Source: arXiv:1910.12037, section 3, and its public code."""


class Normaliser(NamedTuple):
    """What the losses of a global batch are divided by: over all processes and all accumulated batches."""

    pixels: Tensor
    """Sum over the images of weight times pixels with a label; scalar, float."""
    images: Tensor
    """Sum of the images' weights; scalar, float."""


class Loss(NamedTuple):
    """The loss of a batch."""

    value: Tensor
    """This batch's part of the global batch's loss; the parts add up to it. Scalar, float32."""
    by_image: Tensor
    """The joint prediction's pixel loss, summed over the image's pixels with a label, without weight; (batch,),
    float32, without gradients."""


def count_for_normaliser(target: Tensor, weight: Tensor) -> Normaliser:
    """Count one batch's share of the normaliser; shares add up.

    Args:
        target: (batch, height, width), int64, class indices or 255 where there is no label.
        weight: of each image, (batch,), float, at least 0.

    Returns:
        The batch's own counts.
    """
    valid = (target != IGNORE).sum(dim=(1, 2))
    return Normaliser(pixels=(weight * valid).sum(), images=weight.sum())


def training_loss(
    prediction: TrainingPrediction,
    target: Tensor,
    weight: Tensor,
    norm: Normaliser,
    *,
    loss: LossName,
    auxiliary_weight: float,
    scale_weight: float,
) -> Loss:
    """The loss of a prediction: of the joint, of the auxiliary classifier, and of each scale alone where there are two.

    "ce" is cross entropy over norm.pixels. "rmi" is, for the joint, half the binary cross entropy of every class over
    (norm.pixels + 1) and half the regional part over norm.images; the other terms are the binary cross entropy alone,
    whole. A term of weight 0 is not computed.

    Memory that is kept for the gradients, at 19 classes and a crop of 1024x2048, where one float32 map of all classes
    is 159 MB an image: cross entropy keeps one such map for each of its terms; binary cross entropy keeps none but the
    logits, which are there already; the regional part keeps one.

    Args:
        prediction: all logits (batch, class, height, width), float of any precision; computed in float32.
        target: (batch, height, width), int64, class indices or 255 where there is no label.
        weight: of each image, (batch,), float, at least 0.
        norm: of the global batch.
        loss: which.
        auxiliary_weight: of the auxiliary classifier's loss, where there is one.
        scale_weight: of the loss of each scale's own prediction.

    Returns:
        The batch's part of the loss. Where no pixel of the global batch has a label, cross entropy is 0 and so are its
        gradients; RMI is finite.

    Source: arXiv:2005.10821, section 3.1; arXiv:1909.11065, section 4.2 (auxiliary); arXiv:1910.12037 (RMI).
    """
    pixel_loss, pixels = (
        (_cross_entropy, _or_one(norm.pixels)) if loss == "ce" else (_binary_cross_entropy, norm.pixels + 1)
    )

    def term(by_image: Tensor) -> Tensor:
        return (weight * by_image).sum() / pixels

    # Half precision would lose what a sum over a million pixels is made of.
    with torch.autocast(target.device.type, enabled=False):
        by_image = pixel_loss(prediction.joint, target)
        value = term(by_image)
        if loss == "rmi":
            regional = (weight * regional_loss(prediction.joint, target)).sum() / _or_one(norm.images)
            value = (1 - REGIONAL_SHARE) * value + REGIONAL_SHARE * regional
        if prediction.joint_auxiliary is not None and auxiliary_weight > 0:
            value = value + auxiliary_weight * term(pixel_loss(prediction.joint_auxiliary, target))
        if scale_weight > 0 and prediction.low is not None and prediction.high is not None:
            single = term(pixel_loss(prediction.low, target)) + term(pixel_loss(prediction.high, target))
            value = value + scale_weight * single
    return Loss(value.float(), by_image.detach())


def _or_one(count: Tensor) -> Tensor:
    """The count, or 1 where it is 0, for what is divided by it is then 0 as well."""
    return torch.where(count > 0, count, 1.0)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy, summed over each image's pixels with a label: (batch,), float32."""
    return functional.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none").sum(dim=(1, 2))


def _binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, summed over classes and over each image's pixels with a label: (batch,), float32."""
    logits = logits.float()
    ignored = target == IGNORE
    # -log(sigmoid(x)) = softplus(x) - x for the label's class and softplus(x) for any other: no one-hot map is needed.
    own = logits.gather(1, target.masked_fill(ignored, 0)[:, None]).squeeze(1)
    by_pixel = functional.softplus(logits).sum(dim=1) - own
    return by_pixel.masked_fill(ignored, 0).sum(dim=(1, 2))
