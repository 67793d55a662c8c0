"""The optimiser's groups and the learning rate of each step."""

import pytest

from pipeline.optimisation import make_optimizer, rate_factor, set_learning_rate
from teacher.networks.registry import build_network, default_spec


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 1000])
def test_rate_rises_then_falls_and_is_never_zero(steps: int) -> None:
    """The rate is positive at every step, rises to its highest and falls from there."""
    factors = [rate_factor(step, steps) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_groups_hold_every_parameter_once() -> None:
    """Every parameter is in one group; only weights of convolutions decay; the encoder has its share of the rate."""
    network = build_network(default_spec("deeplabv3plus", 3, "resnet10t"))
    optimizer = make_optimizer(network, "deeplabv3plus", 0.25)
    set_learning_rate(optimizer, 0.1)
    grouped = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(grouped) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in network.named_parameters():
        group = grouped[id(parameter)]
        assert group["lr"] == pytest.approx(0.025 if name.startswith("encoder.") else 0.1)
        assert (group["weight_decay"] > 0) == (parameter.ndim > 1)
    assert len(grouped) == len(list(network.parameters()))
