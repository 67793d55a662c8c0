"""How the weights are changed: the optimiser's groups of parameters, the learning rate of each step, the average.

The loop is in `pipeline.training`.
"""

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from pipeline.training_settings import TrainingRecipe
from teacher.networks.registry import NetworkName

ADAMW_DECAY = 0.01
"""Of convolutions; biases and batch norm have none, their scale is free. Source: arXiv:1711.05101."""

SGD_DECAY = 1e-4
"""Of every parameter. Source: the public training code of arXiv:2005.10821, like the momentum."""

MOMENTUM = 0.9

Tensors = tuple[Tensor, ...] | list[Tensor]

_ENCODERS: dict[NetworkName, str] = {"deeplabv3plus": "encoder.", "deeperlab": "encoder.", "hrnet-ocr": "backbone."}


def make_optimizer(network: nn.Module, recipe: TrainingRecipe) -> Optimizer:
    """Make the optimiser, its parameters in groups by encoder or not and by decayed or not.

    AdamW leaves biases and batch norm without decay; SGD decays everything, as the reference does.

    Args:
        network: what is trained.
        recipe: which optimiser, and the encoder's share of the learning rate, which counts where weights are given.

    Returns:
        An optimiser whose groups have a "share" of the learning rate; see `set_learning_rate`.
    """
    encoder_rate = recipe.encoder_rate if recipe.is_pretrained else 1.0
    adamw = recipe.optimizer == "adamw"
    decay = recipe.weight_decay
    if decay is None:
        decay = ADAMW_DECAY if adamw else SGD_DECAY
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        share = encoder_rate if name.startswith(_ENCODERS[recipe.network]) else 1.0
        own_decay = decay if parameter.ndim > 1 or not adamw else 0.0
        groups.setdefault((share, own_decay), []).append(parameter)
    described = [{"params": p, "share": s, "weight_decay": d} for (s, d), p in groups.items()]
    return AdamW(described) if adamw else SGD(described, momentum=MOMENTUM)


def rate_factor(step: int, steps: int, *, warm_up: float, power: float) -> float:
    """How much of the highest learning rate a step gets.

    Args:
        step: 0..steps - 1.
        steps: of the whole run.
        warm_up: share of the steps in which it rises linearly, in [0, 1): fresh layers must not upset a pretrained
            encoder.
        power: of the polynomial by which it falls.

    Returns:
        In (0, 1]; near 0 at the last step.

    Source: polynomial: arXiv:1606.00915, section 4.1. The reference's steps are whole epochs; these are updates.
    """
    rising = max(1, round(warm_up * steps))
    return float(min(1.0, (step + 1) / rising) * (1 - step / steps) ** power)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set each group's learning rate to its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


class WeightAverage(AveragedModel):
    """The exponential moving average of a network's weights and of its batch norms' statistics: `module` has them.

    Over the first updates it forgets faster, min(decay, (1 + n) / (10 + n)), or the start values would stay in it.

    Args:
        network: what is averaged; its values at the first update are where the average starts.
        decay: a step, in [0, 1).

    Source: arXiv:1703.01780, section 3; the first updates as TensorFlow documents for its ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self._decay = decay
        self.multi_avg_fn = self._move

    def _move(self, averages: Tensors, values: Tensors, _: Tensor | int) -> None:
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, values)
            return
        done = int(self.n_averaged)  # it stays on the CPU; asking the device for its copy would wait for it
        weight = 1 - min(self._decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(averages, values, weight)
