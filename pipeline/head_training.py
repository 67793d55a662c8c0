"""The training of a scale head on kept logits: the loop, and nothing of what is read or written."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.head_crops import Crop, fused_at, truth_at
from pipeline.head_settings import FitAttentionSettings
from pipeline.logit_cache import KeptImage
from storage.schema import IGNORE
from teacher.execution import exact
from teacher.foreign.scale_head import ScaleHead

DECAY = 0.01
"""AdamW's. Source: arXiv:1711.05101."""

MAX_NORM = 1.0
"""To which a step's gradient is shortened: a few pixels of a very sure teacher would decide a step otherwise."""


def new_head(inputs: int, channels: int, seed: int) -> ScaleHead:
    """A head that has learned nothing, with the start values of a seed; torch's own random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ScaleHead(inputs, channels)


def train_head(
    head: ScaleHead, images: Sequence[KeptImage], settings: FitAttentionSettings, device: torch.device
) -> Iterator[float]:
    """Train a head by the cross entropy of the joint prediction of all scales.

    Args:
        head: is changed; it ends in evaluation mode.
        images: what it learns from.
        settings: how.
        device: where the head is.

    Yields:
        The loss of each step.
    """
    # A teacher that is too sure, or not sure enough, would have the attention mend that: it would choose the scale that
    # is as sure as it should be, and not the one that is right. So this is learned beside it, and forgotten.
    sharpness = torch.zeros((), device=device, requires_grad=True)
    parameters = [*head.train().parameters()]
    groups: list[dict[str, Any]] = [{"params": parameters}, {"params": [sharpness], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=DECAY)
    numbers = _endless(len(images), settings.seed)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        rng = np.random.default_rng((settings.seed, 1, step))
        chosen = [images[next(numbers)] for _ in range(settings.batch)]
        with exact(device):
            loss = batch_loss(head, sharpness.exp(), chosen, settings, rng)
            loss.backward()  # type: ignore[no-untyped-call] # has no types
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()
    head.eval()


def _endless(count: int, seed: int) -> Iterator[int]:
    """All numbers below `count` in random order, again and again."""
    rng = np.random.default_rng((seed, 0))
    while True:
        yield from rng.permutation(count).tolist()


def batch_loss(
    head: ScaleHead,
    sharpness: Tensor,
    images: Sequence[KeptImage],
    settings: FitAttentionSettings,
    rng: np.random.Generator,
) -> Tensor:
    """The cross entropy of a batch of crops, by which a head is trained.

    Args:
        head: that is trained.
        sharpness: that the joint logits are multiplied by, a scalar on the head's device.
        images: of each, one crop is looked at.
        settings: how many scales there are, and how large a crop is.
        rng: draws the crops.

    Returns:
        The mean over the labelled pixels; 0 where there are none.
    """
    losses: list[Tensor] = []
    pixels: list[Tensor] = []
    for image in images:
        crop = Crop.draw(image.size(), settings.crop, rng)
        joint = fused_at(head, image, len(settings.scales), crop, sharpness.device)
        truth = truth_at(image, crop, joint)
        losses.append(functional.cross_entropy(sharpness * joint, truth, ignore_index=IGNORE, reduction="sum"))
        pixels.append((truth != IGNORE).sum())  # on the device, which is not waited for
    return torch.stack(losses).sum() / torch.stack(pixels).sum().clamp(min=1)
