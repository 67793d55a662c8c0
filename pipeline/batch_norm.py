"""Batch norm over the batches of all processes: with few crops a device, its own are too few for good statistics.

Torch has it for accelerators only; this is the same for the CPU, to train there, and to test, in several processes.
"""

from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable


def synchronise_batch_norm(network: nn.Module) -> nn.Module:
    """Let a network's batch norms take their statistics over all processes of the default group.

    Where the processes exchange over NCCL, or the network is on CUDA, torch's own layers are put in; elsewhere
    `SynchronisedBatchNorm`. Parameters and buffers are the same tensors as before, under the same names. In
    training all processes must run the same layers in the same order; their batches may differ in size, down to one.

    Args:
        network: changed in place, unless it is itself a batch norm.

    Returns:
        The network; unchanged where there are no other processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return network
    # the network may be moved to its device later
    if distributed.get_backend() == "nccl" or any(parameter.is_cuda for parameter in network.parameters()):
        converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call] # timm leaves it untyped
        return converted
    return _convert(network)


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        return SynchronisedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """A batch norm, of torch or timm's with an activation, whose statistics are those of all processes' batches.

    Args:
        original: whose tensors are taken over.
    """

    def __init__(self, original: nn.BatchNorm2d) -> None:
        super().__init__(
            original.num_features, original.eps, original.momentum, original.affine, original.track_running_stats
        )
        self.weight, self.bias = original.weight, original.bias
        for name, buffer in original.named_buffers(recurse=False):
            setattr(self, name, buffer)
        # timm's batch norm goes on with these two; they keep their names, for they may have weights
        for name, child in original.named_children():
            self.add_module(name, child)
        self.train(original.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise.

        Args:
            features: (batch, channel, height, width), float; half precision is computed in float32.

        Returns:
            The same shape, precision and memory layout.
        """
        normalised = self._normalise(features) if self.training else super().forward(features)
        for child in self.children():
            normalised = child(normalised)
        return normalised

    def _normalise(self, features: Tensor) -> Tensor:
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        count, mean, variance = _global_statistics(exact)
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        normalised = exact * scale.to(exact.dtype)[:, None, None] + shift.to(exact.dtype)[:, None, None]
        return normalised.to(features.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as torch does: by `momentum`, or where that is None to the mean of all."""
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            assert self.num_batches_tracked is not None, "kept where momentum is None"
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _global_statistics(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values a channel, their mean and their biased variance, over all processes: scalar, (channel,), (channel,).

    Float64, in which the squares' sums of all processes can be exchanged together with the sums: in float32 the
    variance would be lost in them.
    """
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    mean, variance = mean.double(), variance.double()
    count = mean.new_full((1,), features.numel() // features.shape[1])
    sums = _sum_over_processes(torch.cat([count, count * mean, count * (variance + mean.square())]))
    total, values, squares = torch.split(sums, [1, len(mean), len(mean)])
    mean = values / total
    return total[0].detach(), mean, (squares / total - mean.square()).clamp(min=0)


def _sum_over_processes(values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values)
    return summed


class _Sum(torch.autograd.Function):
    """A tensor's sum over all processes. Each process's loss depends on it, so its gradient is their sum as well."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no public type
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    @once_differentiable
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no public type
        summed = gradient.clone()
        distributed.all_reduce(summed)
        return summed
