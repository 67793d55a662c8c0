"""Region mutual information: how much of a label's shape, in small neighbourhoods, the prediction leaves unsaid.

This is the regional part alone; `pipeline.losses` joins it with the loss of single pixels.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from storage.schema import IGNORE

POOL = 4
"""Pixels a side that are averaged into one before neighbourhoods are compared."""

SIDE = 3
"""Of a neighbourhood, in pooled pixels."""

REGULARISER = 5e-4
"""Added to the covariances' diagonals, so that a class that is not there can be inverted too."""

_LOG_OFFSET = 1e-8


def regional_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lower bound of the entropy that a label's neighbourhoods keep when the prediction's are known.

    With y and p the labels' and probabilities' 3x3 neighbourhoods of a class in an image, as vectors of nine, it is
    half the log determinant of the covariance of y given p, over nine, summed over the classes. Covariances are sums
    over the neighbourhoods and not means: the value depends on the crop's size.

    Args:
        logits: (batch, class, height, width), float of any precision; computed in float32, the covariances in float64.
        target: (batch, height, width), int64, class indices or 255 where there is no label.

    Returns:
        One value an image, (batch,), float32, of either sign. 0 where a side is under 8 pixels: no neighbourhood is
        left. Logits that are no numbers give values that are none.

    Source: arXiv:1910.12037, section 3, with the constants of its public code.
    """
    # A probability of exactly 0 where there is no label, without a second full-size map for the gradients to keep.
    # The public code adds 1e-6 to all of them; the means are removed, so nothing of it would stay.
    probabilities = logits.float().masked_fill((target == IGNORE)[:, None], -math.inf).sigmoid()
    predicted = _pool(probabilities)
    if min(predicted.shape[-2:]) < SIDE:
        return torch.zeros_like(predicted[:, 0, 0, 0])
    # One class at a time: the one-hot map of all would be as large as the logits.
    true = torch.stack([_pool((target == index).float()) for index in range(logits.shape[1])], dim=1)
    # Computed again for the gradients: the vectors of a crop of 1024x2048 and 19 classes are 357 MB an image.
    joint: Tensor = checkpoint(_joint_covariance, predicted, true, use_reentrant=False, preserve_rng_state=False)
    size = SIDE * SIDE
    # The lower right block of the joint covariance's Cholesky factor is the factor of the conditional covariance
    # cov(y) - cov(y, p) cov(p)^-1 cov(p, y), for which nothing then has to be inverted or subtracted.
    factor, failed = torch.linalg.cholesky_ex(joint)
    values: Tensor = (factor.diagonal(dim1=-2, dim2=-1)[..., size:] + _LOG_OFFSET).log().sum(dim=-1) / size
    # Only what is no number has no factor: that is the training loop's to report, or to skip under fp16.
    return values.masked_fill(failed > 0, math.nan).sum(dim=-1).float()


def _pool(maps: Tensor) -> Tensor:
    return functional.avg_pool2d(maps, POOL, padding=POOL // 2)


def _joint_covariance(predicted: Tensor, true: Tensor) -> Tensor:
    """Maps (batch, class, h, w) -> covariance of both maps' 3x3 neighbourhoods, (batch, class, 18, 18), float64."""
    maps = torch.stack([predicted, true], dim=2).double()
    windows = maps.unfold(3, SIDE, 1).unfold(4, SIDE, 1).permute(0, 1, 2, 5, 6, 3, 4)
    vectors = windows.flatten(5).flatten(2, 4)
    centred = vectors - vectors.mean(dim=-1, keepdim=True)
    identity = torch.eye(centred.shape[2], dtype=centred.dtype, device=centred.device)
    return centred @ centred.mT + REGULARISER * identity
