"""1x1 convolutions by oneDNN on the CPU, whatever the number of threads.

With exactly one thread torch takes another kernel for them: labels of processes with one thread would be rounded
otherwise than those of processes with several.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# `torch.library.custom_op` would be shorter, and imports torch's compiler when it is first called: 200 MB
_LIBRARY = torch.library.Library("autocoarse", "DEF")  # type: ignore[no-untyped-call] # torch has no types here
_LIBRARY.define("pointwise(Tensor images, Tensor weight, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call] # nor here


@torch.library.impl(_LIBRARY, "pointwise", "CPU")
def _by_one_dnn(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    convolved: Tensor = torch.mkldnn_convolution(images, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return convolved


@torch.library.impl(_LIBRARY, "pointwise", "Meta")  # for tensors that have a shape and no content
def _without_content(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv2d(images, weight, bias)


class OneDnnConvolution(nn.Module):
    """A 1x1 convolution's inference; it takes over the convolution's weights."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, images: Tensor) -> Tensor:
        """As the convolution: (batch, channel, height, width) float32 on the CPU."""
        return pointwise(images, self.weight, self.bias)


def pointwise(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 1x1 kernel: (batch, channel, h, w) and (output, channel, 1, 1) -> (batch, output, h, w).

    By oneDNN where there is one and it can, which is float32.
    """
    if images.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call,unused-ignore] # torch has no types here
        return functional.conv2d(images, weight, bias)
    convolved: Tensor = torch.ops.autocoarse.pointwise(images, weight, bias)
    return convolved


def with_one_dnn(network: nn.Module) -> nn.Module:
    """Replace the plain 1x1 convolutions of a network, in place.

    Args:
        network: for inference alone, on the CPU.
    """
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _is_pointwise(child):
                setattr(parent, name, OneDnnConvolution(child))
    return network


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    plain = convolution.stride == (1, 1) and convolution.groups == 1 and convolution.padding in ((0, 0), 0, "valid")
    return convolution.kernel_size == (1, 1) and plain
