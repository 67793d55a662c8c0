"""How the weights are changed: the optimiser's groups of parameters, and the learning rate of each step.

The loop is in `pipeline.training`.
"""

from torch import nn
from torch.optim import AdamW, Optimizer

from teacher.networks.registry import NetworkName

WEIGHT_DECAY = 0.01
"""Of convolutions; biases and batch norm have none, their scale is free."""

WARM_UP = 0.05
"""Share of the steps in which the rate rises from zero: fresh layers must not upset a pretrained encoder."""

POWER = 0.9
"""Of the polynomial by which the rate falls. Source: arXiv:1606.00915, section 4.1."""

MAX_GRADIENT_NORM = 5.0
"""A rare crop whose few labelled pixels are all wrong must not undo many steps."""

_ENCODERS: dict[NetworkName, str] = {"deeplabv3plus": "encoder.", "hrnet-ocr": "backbone."}


def make_optimizer(network: nn.Module, name: NetworkName, encoder_rate: float) -> Optimizer:
    """Make the optimiser: AdamW in four groups, by encoder or not and by decayed or not.

    Args:
        network: what is trained.
        name: which network it is.
        encoder_rate: share of the learning rate that the encoder is trained with.

    Returns:
        An optimiser whose groups have a "share" of the learning rate; see `set_learning_rate`.

    Source: arXiv:1711.05101.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter_name, parameter in network.named_parameters():
        share = encoder_rate if parameter_name.startswith(_ENCODERS[name]) else 1.0
        decay = WEIGHT_DECAY if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    return AdamW([{"params": p, "share": s, "weight_decay": d} for (s, d), p in groups.items()])


def rate_factor(step: int, steps: int) -> float:
    """How much of the highest learning rate a step gets.

    Args:
        step: 0..steps - 1.
        steps: of the whole run.

    Returns:
        In (0, 1]: rises linearly over the first `WARM_UP` of the steps, falls to near 0 at the last.
    """
    warm_up = max(1, round(WARM_UP * steps))
    return float(min(1.0, (step + 1) / warm_up) * (1 - step / steps) ** POWER)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set each group's learning rate to its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
