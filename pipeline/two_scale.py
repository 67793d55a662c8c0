"""The network as it is trained: its scales, normalisation and mixed precision in one forward.

One forward a batch is what data parallel training needs: it counts gradients between a forward and its backward.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from teacher.fusion import TrainingPrediction, single_scale_forward, training_forward
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec
from teacher.normalisation import normalise
from teacher.precision import DTYPES, Precision


class TwoScale(nn.Module):
    """A network with the training forward around it: at two scales, or at one where it has no attention between them.

    Args:
        network: built from `spec`.
        spec: how scales are fused and images normalised.
        precision: of the network alone; the fusion of the scales is float32.
        checkpointing: keep the inputs of each scale only, and compute its activations again for the gradients.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec, precision: Precision, *, checkpointing: bool) -> None:
        super().__init__()
        self.network = network
        self._spec = spec
        self._dtype = DTYPES[precision]
        self._checkpointing = checkpointing

    def forward(self, images: Tensor) -> TrainingPrediction:
        """Images (batch, 3, height, width) uint8 RGB -> joint and single-scale logits at their size, float32."""
        normalised = normalise(images.permute(0, 2, 3, 1), self._spec.mean, self._spec.std)
        forward = training_forward if self._spec.attention == "hierarchical" else single_scale_forward
        return forward(self._predict, normalised.contiguous(memory_format=torch.channels_last))

    def _predict(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        with torch.autocast(images.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            prediction: ScalePrediction = (
                checkpoint(
                    self.network,
                    images,
                    attend=attend,
                    use_reentrant=False,
                    context_fn=lambda: (contextlib.nullcontext(), _frozen_statistics(self.network)),
                )
                if self._checkpointing
                else self.network(images, attend=attend)
            )
        return prediction


@contextlib.contextmanager
def _frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Leave batch norm's running statistics alone: the second computation of a batch must not count twice."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            # the counter as well; torch's synchronised layer insists on having one
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


class SharedDropout(nn.Module):
    """Dropout whose mask is that of the whole batch over all processes, of which each takes its own part.

    So the mask of a crop does not depend on how many processes share the batch. The generators of all processes must
    be in the same state.

    Args:
        rate: share of the values that are dropped.
        channels: drop whole channels.
        rank: this process, 0..world - 1.
        world: processes, each with equally many crops.
    """

    def __init__(self, rate: float, *, channels: bool, rank: int, world: int) -> None:
        super().__init__()
        self.rate, self.channels, self.rank, self.world = rate, channels, rank, world

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, channel, height, width), float -> the same, some dropped and the others scaled up."""
        if not self.training or self.rate == 0:
            return features
        batch = features.shape[0]
        rest = (features.shape[1], 1, 1) if self.channels else tuple(features.shape[1:])
        keep = torch.rand((self.world * batch, *rest), device=features.device) >= self.rate
        own = keep[self.rank * batch : (self.rank + 1) * batch]
        return features * own / (1 - self.rate)


def share_dropout(network: nn.Module, rank: int, world: int) -> None:
    """Replace a network's dropout by one that does not depend on the number of processes, in place."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                channels = isinstance(child, nn.Dropout2d)
                setattr(module, name, SharedDropout(child.p, channels=channels, rank=rank, world=world))
