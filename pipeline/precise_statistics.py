"""Batch norm's statistics, taken again from whole training images once the weights stay as they are.

While a network is trained, its batch norms keep a running mean of what they saw of late: small crops, at weights that
still moved. It is used on whole images, whose statistics are others, the more so the smaller the crops were.

Source: arXiv:2105.07576, section 3: moments over all batches instead of a running mean of variances.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Self

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms.v2 import functional as transforms

from pipeline.samples import Sample
from pipeline.training_settings import MIN_CROP, TrainingRecipe
from pipeline.two_scale import TwoScale
from storage.image_reader import read_image, read_image_size
from storage.out_of_memory import is_out_of_memory
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec
from teacher.networks.shapes import takes_any_size

_TOGETHER = (2, 8)
"""Images a batch, at least and wished for; a layer that sees one value of each image needs some."""

_ROOM = 8
"""How many pixels a batch has at most, in batches of training, which keeps all maps for its gradients."""


def take_statistics(
    network: nn.Module, spec: NetworkSpec, recipe: TrainingRecipe, samples: Sequence[Sample], fabric: Fabric
) -> Iterator[tuple[int, int]]:
    """Give the batch norms of a network the statistics of whole images, at the scales at which it is trained.

    Every process must take part; each reads its share. The statistics of each batch, and in it of each scale, count the
    same. Images too large for the device, as told by the crops that it is trained on or by running out of memory, are
    seen in part, as they are by an encoder that takes some sizes only. A network without batch norms, and one that has
    but one image, stays as it is.

    Args:
        network: built from `spec`, on the device of `fabric`; no layer of it exchanges anything with other processes.
            It is left ready to be used.
        spec: what it is.
        recipe: how many images are drawn, and how they are scaled.
        samples: the training samples that they are drawn from, the same ones for the same seed.
        fabric: the device, and the other processes.

    Yields:
        Batches of this process that are done, and of how many.

    Raises:
        ImageError: an image has become unreadable.
    """
    norms = [
        module for module in network.eval().modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms or len(samples) < 2:
        return
    smallest = _TOGETHER[0] * math.prod(recipe.crop)
    room = max(_ROOM * recipe.batch * math.prod(recipe.crop), smallest)
    batches = _draw(samples, recipe, room)[fabric.global_rank :: fabric.world_size]
    forward = TwoScale(_OneClass(network), spec, recipe.precision, checkpointing=False)
    moments, window = None, None
    while moments is None:
        moments = Moments(norms, fabric.device)
        try:
            with moments:
                for number, batch in enumerate(batches, 1):
                    with torch.inference_mode():
                        forward(_read(batch, recipe, room, window).to(fabric.device))
                    yield number, len(batches)
        except (RuntimeError, MemoryError, AssertionError) as error:
            moments = None
            if is_out_of_memory(error) and room > smallest:
                room = max(room // 2, smallest)
            elif window is None and not takes_any_size(spec):
                window = recipe.crop  # a size that the encoder takes
            else:
                raise
    moments.apply(fabric)


class _OneClass(nn.Module):
    """A network that keeps the scores of others than its first class to itself.

    No batch norm is given them, and enlarged they would take far more memory than training does.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """Predict, as the network does."""
        logits, attention, _ = self.network(images, attend=attend)
        return ScalePrediction(logits[:, :1], attention, None)


class Moments:
    """Adds up means and mean squares of what batch norms are given, while it is a context.

    In it they normalise by each batch, as in training.

    Args:
        norms: the batch norms of a network.
        device: where they are.
    """

    def __init__(self, norms: Sequence[_BatchNorm], device: torch.device) -> None:
        self._norms = norms
        self._before = [norm.momentum for norm in norms]
        self._sums = [torch.zeros(2 * norm.num_features + 1, dtype=torch.float64, device=device) for norm in norms]
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for norm, sums in zip(self._norms, self._sums, strict=True):
            norm.train()
            norm.momentum = 1.0  # the running statistics become those of the batch
            self._hooks.enter_context(norm.register_forward_hook(partial(_add, sums)))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        for norm, momentum in zip(self._norms, self._before, strict=True):
            norm.eval()
            norm.momentum = momentum

    def apply(self, fabric: Fabric) -> None:
        """Set the running statistics to those of all batches of all processes; a norm that saw none keeps its own."""
        summed = fabric.all_reduce(torch.cat(self._sums), reduce_op="sum")
        assert isinstance(summed, Tensor), "a tensor was given"
        parts = torch.split(summed.cpu(), [len(sums) for sums in self._sums])
        for norm, sums in zip(self._norms, parts, strict=True):
            if not sums[-1]:
                continue
            mean, square = (sums[:-1] / sums[-1]).chunk(2)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(mean)
            norm.running_var.copy_((square - mean.square()).clamp(min=0))


def _add(sums: Tensor, norm: nn.Module, given: tuple[Tensor, ...], _: object) -> None:
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    values = given[0].numel() // norm.num_features
    mean, variance = norm.running_mean.double(), norm.running_var.double() * ((values - 1) / values)
    sums += torch.cat([mean, variance + mean.square(), mean.new_ones(1)])


def _draw(samples: Sequence[Sample], recipe: TrainingRecipe, room: int) -> list[list[Sample]]:
    """Batches of images of about one size, as many in each as there is room for, and two at least."""
    numbers = np.random.default_rng(recipe.seed).permutation(len(samples))[: recipe.precise_bn]
    drawn = [samples[number] for number in numbers]
    sizes = [_size(read_image_size(sample.image), recipe) for sample in drawn]
    order = sorted(range(len(drawn)), key=lambda place: (sizes[place], drawn[place].key))
    together = min(max(int(room / np.median(np.prod(sizes, axis=1))), _TOGETHER[0]), _TOGETHER[1])
    return [[drawn[place] for place in part] for part in np.array_split(order, max(1, len(drawn) // together))]


def _size(size: tuple[int, int], recipe: TrainingRecipe) -> tuple[int, int]:
    """An image's (height, width) as it is trained on, before crops become smaller or larger at random.

    A side has as many pixels as any crop has at least: there are networks that less is too little for.
    """
    scale = 1 if recipe.long_edge is None else recipe.long_edge / max(size)
    return max(MIN_CROP, round(size[0] * scale)), max(MIN_CROP, round(size[1] * scale))


def _read(batch: Sequence[Sample], recipe: TrainingRecipe, room: int, window: tuple[int, int] | None) -> Tensor:
    """The images of a batch, brought to one size, and their middles where that is too large or a window is asked for.

    Returns:
        (image, 3, height, width) uint8 RGB.
    """
    images = [torch.from_numpy(read_image(sample.image).transpose(2, 0, 1).copy()) for sample in batch]
    sizes = [_size((image.shape[1], image.shape[2]), recipe) for image in images]
    height, width = (round(side) for side in np.median(sizes, axis=0))
    pictures = torch.stack([transforms.resize(image, [height, width], antialias=True) for image in images])
    share = min(math.sqrt(room / (len(batch) * height * width)), 1)
    sides = window or tuple(max(MIN_CROP, int(side * share)) for side in (height, width))
    middles: Tensor = transforms.center_crop(pictures, list(sides))
    return middles
