"""Batch norms folded into the convolutions before them: the same function of the image with fewer passes over memory.

At inference a batch norm multiplies each channel by one number and adds another, which the convolution before it can do
for nothing. Only networks for inference are changed: training and checkpoints keep their batch norms.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from storage.errors import SettingsError
from storage.out_of_memory import is_out_of_memory
from teacher.networks.prediction import ScalePrediction

_PROBE = (32, 64)
"""Height and width of the image by which a network shows what follows what. All that is computed on the way is kept;
there are encoders that take multiples of 32 only."""


def _remainders() -> dict[type[nn.Module], Callable[[Any], nn.Module]]:
    """What each kind of norm does besides norming. Other kinds, which may do more, are never folded."""
    kinds: dict[type[nn.Module], Callable[[Any], nn.Module]] = {nn.BatchNorm2d: lambda _: nn.Identity()}
    if timm := sys.modules.get("timm.layers.norm_act"):  # a network that has timm's has imported it; it is large
        kinds[timm.BatchNormAct2d] = lambda norm: nn.Sequential(norm.drop, norm.act)
    return kinds


class Pair(NamedTuple):
    """A convolution and the batch norm that alone reads what it writes, by their names in the network."""

    convolution: str
    norm: str


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold each batch norm of a network that directly follows a convolution into it, in place.

    Layer by layer, so that there is never more than one layer's weights beside the network's. The products are made in
    float64 and rounded once. A batch norm that follows anything else, or whose convolution is read by somebody else
    too, stays as it is. Of a timm norm with an activation, the activation is kept.

    Args:
        network: satisfies `teacher.networks.prediction.Network`; in evaluation mode; for inference alone from then on.

    Returns:
        The network: the same function of its images up to rounding, with other entries in its state dict.

    Raises:
        SettingsError: the network, or a part of it, is in training mode, where its norms depend on the batch.
    """
    if any(module.training for module in network.modules()):
        raise SettingsError("batch norms are folded for inference only, and this network trains: call its eval() first")
    remainders = _remainders()
    for pair in find_pairs(network):
        convolution, norm = network.get_submodule(pair.convolution), network.get_submodule(pair.norm)
        assert isinstance(convolution, nn.Conv2d), "as found"
        assert isinstance(norm, nn.BatchNorm2d), "as found"
        _fold(convolution, norm)
        _replace(network, norm, remainders[type(norm)](norm).eval())
    return network


def find_pairs(network: nn.Module) -> list[Pair]:
    """Find the convolutions that a batch norm directly follows, by running the network on a small image.

    The operations themselves are watched, so it does not matter how a network is put together: the names, the order of
    definition and the nesting of its modules say nothing certain about what is applied to what. A pair is one where

    - the convolution works with the module's own weight (a standardised weight is computed anew each time, and cannot
      take a factor), and once only: a shared convolution has more than one reader;
    - its output goes into the norm and into nothing else, not even a view or the network's own result;
    - the norm works with the statistics it has kept, and once only.

    Args:
        network: in evaluation mode, on any device.

    Returns:
        The pairs in the order in which they are run.

    Raises:
        SettingsError: the network does not take that image, and so is made for images of another size only.
    """
    convolutions = {
        id(m.weight): name for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and not m.training
    }
    kinds = _remainders()
    norms = {
        id(m.running_mean): name
        for name, m in network.named_modules()
        if type(m) in kinds and isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
    }
    first = next(network.parameters())
    image = torch.zeros(1, 3, *_PROBE, dtype=first.dtype, device=first.device)
    # in inference mode a convolution would be seen in another form
    watch = _Watch(convolutions, norms)
    with torch.inference_mode(mode=False), torch.no_grad(), watch:
        try:
            prediction = network(image, attend=True)
        except (AssertionError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise SettingsError(
                f"the network takes images of some sizes only, and none of {_PROBE[1]}x{_PROBE[0]} ({error}): a "
                f"teacher must take those that it labels; train one on another encoder"
            ) from error
    return watch.pairs(prediction)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here
    """Keeps who reads each tensor that a convolution writes.

    Tensors are told apart by identity, so all are kept until the watch ends: none may take the place of another.
    """

    def __init__(self, convolutions: Mapping[int, str], norms: Mapping[int, str]) -> None:
        """Take the names of the convolutions by the identity of their weight, of the norms by that of their mean."""
        super().__init__()  # type: ignore[no-untyped-call] # nor here
        self._convolutions, self._norms = convolutions, norms
        self._kept: list[Tensor] = []
        self._written: dict[int, str] = {}
        self._reads: Counter[int] = Counter()
        self._runs: Counter[str] = Counter()
        self._followed: list[tuple[int, str]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, 200 MB, to keep this class from being compiled, which nobody does."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        outputs = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self._kept += read
        self._reads.update({id(x) for x in read})
        norm = next((self._norms[id(x)] for x in read if id(x) in self._norms), None)
        if norm is not None:
            self._runs[norm] += 1
            self._followed.append((id(read[0]), norm))  # of all batch norms the input comes first
        if func.overloadpacket is torch.ops.aten.convolution and id(args[1]) in self._convolutions:
            name = self._convolutions[id(args[1])]
            self._runs[name] += 1
            self._kept.append(outputs)
            self._written[id(outputs)] = name
        return outputs

    def pairs(self, prediction: ScalePrediction) -> list[Pair]:
        """What was seen to belong together, given the network's result."""
        self._reads.update(id(x) for x in prediction)
        return [
            Pair(self._written[read], norm)
            for read, norm in self._followed
            if read in self._written and self._reads[read] == self._runs[norm] == self._runs[self._written[read]] == 1
        ]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None, "as found"
    assert norm.running_var is not None, "as found"
    old = convolution.weight
    weight, bias = fuse_conv_bn_weights(
        old.double(),
        _double(convolution.bias),
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        _double(norm.weight),
        _double(norm.bias),
    )
    convolution.weight = nn.Parameter(weight.detach().to(old), requires_grad=old.requires_grad)
    convolution.bias = nn.Parameter(bias.detach().to(old), requires_grad=old.requires_grad)


def _double(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.double()


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module under each name it has."""
    for name in [n for n, m in network.named_modules(remove_duplicate=False) if m is old]:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, new)
