"""From logits to labels: the class with the highest probability, where that probability is high enough.

Decides once, on float32, where the logits are; what it gives is what leaves the device.
"""

import torch
from torch import Tensor

from storage.errors import SettingsError, ShapeError
from storage.schema import IGNORE, MAX_CLASSES


def check_threshold(threshold: float) -> float:
    """Refuse what is no threshold.

    Raises:
        SettingsError: it is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise SettingsError(f"threshold is {threshold}, expected a probability of at least 0 and below 1")
    return threshold


def decide(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Choose each pixel's class, or ignore where the confidence is not above the threshold.

    Args:
        logits: (batch, class, height, width), float, at most 255 classes.
        threshold: keep where confidence > threshold, strictly, both as float32; 0 keeps every pixel that has a
            confidence. A pixel has none, and is always ignored, where a logit is NaN or +inf, or all are -inf; a
            class at -inf beside finite ones merely has probability 0.

    Returns:
        Labels (batch, height, width) uint8, a class index or 255, and confidence (batch, height, width) float32 in
        [0, 1], the top softmax probability. Both on the logits' device.

    Raises:
        SettingsError: the threshold is not in [0, 1).
        ShapeError: the logits do not have four axes or have more classes than a label can name.
    """
    check_threshold(threshold)
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= MAX_CLASSES:
        raise ShapeError(
            f"logits have the shape {tuple(logits.shape)}, expected (batch, class, height, width) with 1 to "
            f"{MAX_CLASSES} classes"
        )
    scores = logits.float()
    top, label = scores.max(dim=1)
    # The top class's softmax needs no division over all classes: exp(top - top) is 1.
    confidence = 1 / (scores - top.unsqueeze(1)).exp_().sum(dim=1)
    confidence = confidence.nan_to_num_(nan=0.0)
    least = torch.tensor(threshold, dtype=torch.float32, device=logits.device)
    return label.to(torch.uint8).masked_fill_(~(confidence > least), IGNORE), confidence
