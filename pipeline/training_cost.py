"""What training a network will cost, before anything of it is computed: memory, arithmetic, and a device's speed.

Only shapes are computed here, by the code that trains; how long a run takes is estimated in the training's plan.
"""

import itertools
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pipeline.losses import count_for_normaliser, training_loss
from pipeline.training_settings import OptimizerName, TrainingRecipe
from pipeline.two_scale import TwoScale
from teacher.networks.registry import NetworkSpec
from teacher.networks.shapes import network_of_shapes
from teacher.precision import DTYPES, Precision

AVERAGES: dict[OptimizerName, int] = {"adamw": 2, "sgd": 1}
"""Numbers an optimiser keeps for each parameter: the gradient's mean and mean square, or the momentum."""

_PROBES = 5


@dataclass(frozen=True)
class TrainingCost:
    """Of training a network on one device."""

    parameters: int
    """Numbers that are learned."""
    state_bytes: int
    """Of weights, running statistics, gradients, the optimiser's averages and the moving average of the weights."""
    activation_bytes: int
    """Of what the gradients of a batch need from its forward; not of the room an operation needs while it runs."""
    flops: int
    """Floating point operations of a batch, forward and backward; a multiplication and its addition count as two."""

    @property
    def memory_bytes(self) -> int:
        """State and activations together."""
        return self.state_bytes + self.activation_bytes


def measure_cost(spec: NetworkSpec, recipe: TrainingRecipe) -> TrainingCost:
    """Run the training forward and the loss on tensors that have a shape and no content, and count.

    It takes seconds, whatever the size, and neither memory nor random numbers. The backward is counted as twice the
    forward; its own buffers are not counted. With gradient checkpointing there are two forwards, and the activations
    are those kept in any case and those of the network at scale 1, which is computed again as a whole.

    Args:
        spec: the network.
        recipe: how it is trained; what is drawn does not matter here.

    Raises:
        SettingsError: the network cannot be built.
        ImageError: the crop is too small for the low scale.
    """
    # A batch norm may refuse a single crop, which in training shares its statistics with other devices'.
    batch, crops = recipe.batch, max(recipe.batch, 2)
    with network_of_shapes(spec) as network:
        two_scale = TwoScale(network, spec, recipe.precision, checkpointing=recipe.gradient_checkpointing)
        images = torch.empty((crops, 3, *recipe.crop), dtype=torch.uint8)
        target, weight = torch.zeros((crops, *recipe.crop), dtype=torch.int64), torch.ones(crops)

        def forward() -> Tensor:
            return training_loss(
                two_scale(images),
                target,
                weight,
                count_for_normaliser(target, weight),
                loss=recipe.loss,
                auxiliary_weight=recipe.auxiliary_loss,
                scale_weight=recipe.scale_loss,
            ).value

        with FlopCounterMode(display=False) as counter:
            activations = _kept_bytes(forward, network)
        flops = 3 * counter.get_total_flops()
        if recipe.gradient_checkpointing:
            activations += _kept_bytes(lambda: _predict(network, images.float(), recipe.precision), network)
            flops = flops // 3 * 4
    parameters = [parameter.numel() for parameter in network.parameters()]
    weights = sum(tensor.nbytes for tensor in _tensors(network))
    copies = 1 + AVERAGES[recipe.optimizer]  # the gradients, too, are as many as the parameters
    return TrainingCost(
        parameters=sum(parameters),
        state_bytes=weights * (2 if recipe.ema else 1) + copies * sum(p.nbytes for p in network.parameters()),
        activation_bytes=activations * batch // crops,
        flops=flops * batch // crops,
    )


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())


def _predict(network: nn.Module, images: Tensor, precision: Precision) -> object:
    dtype = DTYPES[precision]
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        return network(images)


def _kept_bytes(forward: Callable[[], object], network: nn.Module) -> int:
    """Bytes that a forward's result keeps for its gradients, each storage once, but for the network's own tensors."""
    kept: list[weakref.ref[Tensor]] = []

    def keep(tensor: Tensor) -> Tensor:
        # weakly: what a result that nobody used needed is gone at the end
        kept.append(weakref.ref(tensor))
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    alive = [tensor for ref in kept if (tensor := ref()) is not None]
    del result  # until here it held them
    # by its address, for the views of one storage are objects of their own
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in alive}  # noqa: SLF001 - its only identity
    for tensor in _tensors(network):
        storages.pop(tensor.untyped_storage()._cdata, None)  # noqa: SLF001 - as above
    return sum(storages.values())


def device_speed(device: torch.device, precision: Precision = "fp32") -> float:
    """Measure how fast a device computes 3x3 convolutions and their gradients.

    A network is slower: its other layers wait for memory and not for arithmetic. It takes less than a second.

    Args:
        device: where.
        precision: of the convolution.

    Returns:
        Floating point operations a second: the median of a few runs.
    """
    batch, channels, side = (8, 256, 128) if device.type == "cuda" else (2, 64, 32)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        convolution = nn.Conv2d(channels, channels, 3, padding=1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch leaves this form out of its types
    images = torch.ones(batch, channels, side, side, device=device, requires_grad=True)
    images = images.contiguous(memory_format=torch.channels_last)
    dtype = DTYPES[precision]

    def seconds() -> float:
        _wait_for(device)
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            total = convolution(images).sum()
        torch.autograd.grad(total, (images, *convolution.parameters()))
        _wait_for(device)
        return time.perf_counter() - start

    seconds()  # the first call chooses algorithms and reserves memory
    flops = 3 * 2 * 9 * channels * channels * side * side * batch
    return flops / statistics.median(seconds() for _ in range(_PROBES))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
