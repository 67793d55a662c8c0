"""The optimiser's groups and the learning rate of each step."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pipeline.optimisation import WeightAverage, make_optimizer, rate_factor, set_learning_rate
from pipeline.training_settings import TrainingRecipe
from teacher.networks.registry import build_network, default_spec


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 1000])
def test_rate_rises_then_falls_and_is_never_zero(steps: int) -> None:
    """The rate is positive at every step, rises to its highest and falls from there."""
    factors = [rate_factor(step, steps, warm_up=0.05, power=0.9) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_groups_hold_every_parameter_once() -> None:
    """Every parameter is in one group; only weights of convolutions decay; the encoder has its share of the rate."""
    network = build_network(default_spec("deeplabv3plus", 3, "resnet10t"))
    recipe = TrainingRecipe(encoder_weights=Path("weights.pt"), encoder_rate=0.25)
    optimizer = make_optimizer(network, recipe)
    set_learning_rate(optimizer, 0.1)
    grouped = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(grouped) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in network.named_parameters():
        group = grouped[id(parameter)]
        assert group["lr"] == pytest.approx(0.025 if name.startswith("encoder.") else 0.1)
        assert (group["weight_decay"] > 0) == (parameter.ndim > 1)
    assert len(grouped) == len(list(network.parameters()))


def test_sgd_is_the_references() -> None:
    """SGD has momentum 0.9 and decays every parameter by 1e-4, unless another decay is asked for."""
    network = build_network(default_spec("deeplabv3plus", 3, "resnet10t"))
    optimizer = make_optimizer(network, TrainingRecipe(optimizer="sgd"))
    assert isinstance(optimizer, SGD)
    assert {(g["momentum"], g["weight_decay"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, 1e-4, False)}
    other = make_optimizer(network, TrainingRecipe(optimizer="sgd", weight_decay=0.5))
    assert {g["weight_decay"] for g in other.param_groups} == {0.5}


def test_average_follows_the_weights_and_the_statistics() -> None:
    """The average starts at the first weights, moves by the decay's complement, and copies what is no float."""
    network = nn.BatchNorm1d(2)
    average = WeightAverage(network, decay=0.5)
    expected = torch.zeros(2)
    for step in range(12):
        with torch.no_grad():
            network.weight.fill_(step)
            network.running_mean.fill_(2 * step)
            network.num_batches_tracked.fill_(step)
        average.update_parameters(network)
        weight = 1.0 if step == 0 else 1 - min(0.5, (1 + step) / (10 + step))
        expected = torch.lerp(expected, torch.full((2,), float(step)), weight)
    assert torch.allclose(average.module.weight, expected)
    assert torch.allclose(average.module.running_mean, 2 * expected)
    assert average.module.num_batches_tracked == 11
