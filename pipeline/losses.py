"""What training minimises: cross entropy over the pixels that have a label.

The networks are in `teacher`; nothing here knows of files or devices.
"""

from torch import Tensor
from torch.nn import functional

from storage.schema import IGNORE
from teacher.fusion import TrainingPrediction

AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary classifier. Source: arXiv:1909.11065, section 4.2."""

SCALE_WEIGHT = 0.05
"""Of each scale's own prediction, so that none relies on the other alone. Source: the public training scripts of
arXiv:2005.10821 for Cityscapes; the paper supervises the joint prediction only."""


def masked_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy, averaged over the pixels that have a label.

    Args:
        logits: (batch, class, height, width), float of any precision; computed in float32.
        target: (batch, height, width), int64, class indices or 255 where there is no label.

    Returns:
        Scalar float32, at least 0. Where no pixel has a label it is 0, and so are the gradients.
    """
    valid = (target != IGNORE).sum()
    total = functional.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / valid.clamp(min=1)


def training_loss(prediction: TrainingPrediction, target: Tensor) -> Tensor:
    """The loss of a two-scale prediction: of the joint, of the auxiliary classifier, and of each scale alone.

    Args:
        prediction: all logits (batch, class, height, width).
        target: (batch, height, width), int64, class indices or 255.

    Returns:
        Scalar float32.
    """
    loss = masked_cross_entropy(prediction.joint, target)
    if prediction.joint_auxiliary is not None:
        loss = loss + AUXILIARY_WEIGHT * masked_cross_entropy(prediction.joint_auxiliary, target)
    single = masked_cross_entropy(prediction.low, target) + masked_cross_entropy(prediction.high, target)
    return loss + SCALE_WEIGHT * single
