"""What training a network costs."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.losses import count_for_normaliser, training_loss
from pipeline.training_cost import TrainingCost, device_speed, measure_cost
from pipeline.training_settings import TrainingRecipe
from pipeline.two_scale import TwoScale
from storage.errors import ImageError, SettingsError
from teacher.networks.registry import NetworkSpec, build_network, default_spec

SPECS = {
    "deeplabv3plus": default_spec("deeplabv3plus", 5, "mobilenetv3_small_050"),
    "hrnet-ocr": NetworkSpec("hrnet-ocr", 5, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16),
}
CROP = (64, 96)


@functools.cache
def _cost(spec: NetworkSpec, crop: tuple[int, int] = CROP, batch: int = 2, **given: Any) -> TrainingCost:
    # not validated: what a network may be trained with is none of the costs' business
    return measure_cost(spec, TrainingRecipe.model_construct(crop=crop, batch=batch, **given))


def _forward(network: nn.Module, spec: NetworkSpec, **given: Any) -> Tensor:
    """The loss of two crops, computed in earnest."""
    images = torch.randint(0, 256, (2, 3, *CROP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target, weight = torch.zeros((2, *CROP), dtype=torch.int64), torch.ones(2)
    prediction = TwoScale(network, spec, given.pop("precision"), checkpointing=False)(images)
    norm = count_for_normaliser(target, weight)
    return training_loss(prediction, target, weight, norm, auxiliary_weight=0.4, scale_weight=0.05, **given).value


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("precision", "loss"), [("fp32", "ce"), ("bf16", "ce"), ("fp32", "rmi")])
def test_activations_are_those_of_a_real_forward(name: str, precision: str, loss: str) -> None:
    """Activations are within a twentieth of what a real forward on the CPU has kept at its end."""
    network = build_network(SPECS[name])
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        value = _forward(network, SPECS[name], precision=precision, loss=loss)
    assert torch.isfinite(value)
    measured = _cost(SPECS[name], precision=precision, loss=loss).activation_bytes
    assert measured == pytest.approx(sum(kept.values()), rel=0.05)


@pytest.mark.parametrize("name", SPECS)
def test_state_is_weights_gradients_and_averages(name: str) -> None:
    """The state is the weights and statistics, once or twice, the gradients, and one or two averages."""
    network = build_network(SPECS[name])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    state = sum(tensor.nbytes for tensor in network.state_dict().values())
    cost = _cost(SPECS[name])
    assert cost.parameters == parameters
    assert cost.state_bytes == 2 * state + 3 * 4 * parameters
    assert _cost(SPECS[name], optimizer="sgd", ema=0).state_bytes == state + 2 * 4 * parameters
    assert cost.memory_bytes == cost.state_bytes + cost.activation_bytes


def test_operations_are_those_of_its_convolutions() -> None:
    """Operations are three times those of all convolutions at both scales, counted from their real inputs."""
    counted = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal counted
        assert isinstance(module, nn.Conv2d)
        counted += 2 * module.weight[0].numel() * output.numel()

    spec = SPECS["deeplabv3plus"]
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    _forward(network, spec, precision="fp32", loss="ce")
    assert _cost(spec).flops == 3 * counted
    assert _cost(spec, gradient_checkpointing=True).flops == 4 * counted


def test_checkpointing_keeps_the_larger_scale_alone() -> None:
    """With gradient checkpointing less is kept, but no less than scale 1 needs: nearly four fifths."""
    spec = SPECS["deeplabv3plus"]
    plain, checkpointed = _cost(spec).activation_bytes, _cost(spec, gradient_checkpointing=True).activation_bytes
    assert 0.7 * plain < checkpointed < plain


def test_cost_grows_with_crops_and_pixels() -> None:
    """Twice the batch costs twice as much, a single crop half of two; twice the pixels about twice as much."""
    spec = SPECS["deeplabv3plus"]
    one, two, four = (_cost(spec, batch=batch) for batch in (1, 2, 4))
    wide = _cost(spec, (CROP[0], 2 * CROP[1]))
    for more, less, tolerance in ((four, two, 0.02), (two, one, 1e-6), (wide, two, 0.05)):
        assert more.activation_bytes == pytest.approx(2 * less.activation_bytes, rel=tolerance)
        assert more.flops == pytest.approx(2 * less.flops, rel=tolerance)
    assert one.state_bytes == four.state_bytes


def test_weight_of_zero_saves_the_terms_memory() -> None:
    """Where the single scales have no loss, their maps are not kept for it."""
    spec = SPECS["deeplabv3plus"]
    maps = 2 * 2 * 5 * CROP[0] * CROP[1] * 4
    saved = _cost(spec).activation_bytes - _cost(spec, scale_loss=0).activation_bytes
    assert saved == pytest.approx(maps, rel=0.3)


def test_nothing_is_left_behind() -> None:
    """Measuring neither draws random numbers nor disturbs networks that are built afterwards."""
    before = torch.get_rng_state()
    _cost(SPECS["hrnet-ocr"], precision="fp16", gradient_checkpointing=True)
    assert torch.equal(torch.get_rng_state(), before)
    value = _forward(build_network(SPECS["hrnet-ocr"]), SPECS["hrnet-ocr"], precision="fp32", loss="ce")
    value.backward()
    assert torch.isfinite(value)


def test_full_size_is_measured_on_any_machine() -> None:
    """The full teacher at its full crop, more than most machines hold, is measured all the same."""
    cost = _cost(default_spec("hrnet-ocr", 19), (1024, 2048), 1, precision="bf16")
    assert cost.parameters == 72_143_430
    assert 8e9 < cost.activation_bytes < 12e9
    assert 1e13 < cost.flops < 1.3e13


def test_impossible_training_is_refused() -> None:
    """A crop too small for the low scale and an encoder that cannot be used have the errors that training has."""
    with pytest.raises(ImageError, match="7x7 pixels"):
        _cost(SPECS["deeplabv3plus"], (7, 7))
    with pytest.raises(SettingsError, match="vit_tiny"):
        _cost(replace(SPECS["deeplabv3plus"], encoder="vit_tiny_patch16_224"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_device_has_a_speed(precision: Any) -> None:
    """Any machine computes between a million and 10^16 operations a second, and the probe draws no random numbers."""
    before = torch.get_rng_state()
    assert 1e6 < device_speed(torch.device("cpu"), precision) < 1e16
    assert torch.equal(torch.get_rng_state(), before)


def test_encoders_with_stochastic_depth_are_counted() -> None:
    """An encoder whose layers are dropped at random, at rates that it looks up in a tensor, has a cost as any other."""
    spec = default_spec("deeplabv3plus", 5, "convnext_atto", output_stride=32)
    cost = _cost(spec)
    assert cost.parameters == sum(parameter.numel() for parameter in build_network(spec).parameters())
    assert cost.flops > 0
    assert cost.activation_bytes > 0
