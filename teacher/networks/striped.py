"""Convolutions for inference on the CPU in row stripes, so that wide maps between two narrow ones are never whole.

**What holds.** Let a block be g(W(f(x))), where f and g work on each pixel for itself and W is a convolution of kernel
height k, dilation d and stride s with t rows of zeros above the map. Output row r is a function of the rows

    s r - t,  s r - t + d,  ...,  s r - t + (k - 1) d

of f(x) alone, and a row outside the map is zeros there, not f of zeros. Rows of f(x) are f of the rows of x. So the
rows a .. b - 1 of the block are W, without padding above and below, of f of those of the rows s a - t ..
s (b - 1) - t + (k - 1) d of x that there are, with a row of zeros for each that there is not; then g. Nothing is
approximated: the same products are added up, by kernels that may add them in another order. What neighbouring stripes
both need of f(x), (k - 1) d + 1 - s rows, is computed twice.

A map that a stripe makes on its way is still in the cache when it is read again, and its memory serves the next stripe.
On CUDA, where a stripe is not enough work for a kernel, nothing of this is done.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDE_BYTES = 32 << 20
"""Of the widest map of a stripe, roughly. Processor seconds of a forward of DeepLabV3+ (tf_efficientnet_lite0) on one
core at 1920x1080: 2.41 with stripes of 2 MB, 1.85 of 8, 1.68 of 32, 1.79 of 128, 1.83 whole. Small ones cost something
because oneDNN brings a layer's weights into its own order once a stripe."""


def stripes(height: int, rows: int) -> Iterator[slice]:
    """Cut a map's rows into stripes of nearly the same height.

    Args:
        height: of the map, in rows.
        rows: of a stripe, at most; one at least.
    """
    number = -(-height // max(1, rows))
    return (slice(height * i // number, height * (i + 1) // number) for i in range(number))


class StripedConvolution(nn.Module):
    """A convolution of rows that are made as they are needed; it takes over the convolution's weights.

    Args:
        convolution: padded with zeros, by a fixed number or, as timm's `Conv2dSame`, by what gives ceil(size / stride).
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.padding_mode == "zeros", "which is what rows outside are"
        assert not isinstance(convolution.padding, str), "timm and torch's layers here give numbers"
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.dilation, self.groups = convolution.stride, convolution.dilation, convolution.groups
        self.padding: tuple[int, ...] | None = convolution.padding
        if type(convolution) is not nn.Conv2d:
            self.padding = None

    def forward(
        self, rows_of: Callable[[slice], Tensor], batch: int, size: tuple[int, int]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Convolve stripe by stripe.

        Args:
            rows_of: gives the asked rows of the input, (batch, channel, rows, width).
            batch: images of the input.
            size: (height, width) of the input.

        Yields:
            Rows of the output and their content, (batch, output, rows, w), from top to bottom.
        """
        (top, bottom), (left, right) = (self._padding(axis, size[axis]) for axis in (0, 1))
        height, stride = size[0], self.stride[0]
        reach = self._reach(0)
        row_bytes = batch * self.weight.shape[1] * self.groups * size[1] * self.weight.element_size()
        for rows in stripes((height + top + bottom - reach) // stride + 1, WIDE_BYTES // (row_bytes * stride)):
            first, last = rows.start * stride - top, (rows.stop - 1) * stride - top + reach
            wide = rows_of(slice(max(first, 0), min(last, height)))
            above, below = max(-first, 0), max(last - height, 0)
            across = left if left == right else 0
            if above or below or left != right:
                wide = functional.pad(wide, (left - across, right - across, above, below))
            padding = 0, across
            made = functional.conv2d(wide, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
            yield rows, made

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the output for an input of `size`."""
        height, width = (
            (size[axis] + sum(self._padding(axis, size[axis])) - self._reach(axis)) // self.stride[axis] + 1
            for axis in (0, 1)
        )
        return height, width

    def _reach(self, axis: int) -> int:
        """How many pixels of the input, along an axis, one of the output is made of, those between included."""
        return (self.weight.shape[2 + axis] - 1) * self.dilation[axis] + 1

    def _padding(self, axis: int, length: int) -> tuple[int, int]:
        """Zeros before and after."""
        if self.padding is not None:
            return self.padding[axis], self.padding[axis]
        missing = max(0, (-(-length // self.stride[axis]) - 1) * self.stride[axis] + self._reach(axis) - length)
        return missing // 2, missing - missing // 2


class StripedBlock(nn.Module):
    """Layers pixel by pixel, a convolution, and layers pixel by pixel again, with or without a shortcut around them.

    Args:
        before: from the block's input to the convolution's; it leaves its own input as it is.
        convolution: the only layer that sees more than a pixel.
        after: from the convolution's output to the block's.
        shortcut: whether the input is added to the output, which has its shape.
    """

    def __init__(self, before: nn.Module, convolution: nn.Conv2d, after: nn.Module, *, shortcut: bool) -> None:
        super().__init__()
        self.before, self.convolution, self.after = before, StripedConvolution(convolution), after
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h', w')."""
        size = (x.shape[-2], x.shape[-1])
        output: Tensor | None = None
        for rows, convolved in self.convolution(lambda wanted: self.before(x[:, :, wanted]), x.shape[0], size):
            made = self.after(convolved)
            if self.shortcut:
                made = made.add_(x[:, :, rows])
            if output is None:
                output = rows_to_fill(made, self.convolution.output_size(size)[0])
            output[:, :, rows] = made
        assert output is not None, "a map has rows"
        return output


def rows_to_fill(stripe: Tensor, height: int) -> Tensor:
    """An empty map of a stripe's kind: (batch, channel, height, width), channels last."""
    batch, channels, _, width = stripe.shape
    layout = torch.channels_last
    return torch.empty((batch, channels, height, width), dtype=stripe.dtype, device=stripe.device, memory_format=layout)


def with_stripes(network: nn.Module) -> nn.Module:
    """Have a network's inverted residuals of timm's kind computed in stripes, in place.

    Those with a squeeze and excitation, which sees the whole map, stay as they are.

    Args:
        network: for inference alone, on the CPU, in evaluation mode.
    """
    timm = sys.modules.get("timm.models._efficientnet_blocks")  # a network that has such blocks has imported it
    if timm is None:
        return network
    for parent in [*network.modules()]:
        for name, child in parent.named_children():
            block: Any = child
            before: tuple[nn.Module, ...]
            if type(child) is timm.InvertedResidual and _is_plain(block, block.conv_pw, block.conv_pwl):
                before, after = (block.conv_pw, block.bn1), (block.bn2, block.conv_pwl, block.bn3)
            elif type(child) is timm.DepthwiseSeparableConv and _is_plain(block, block.conv_pw):
                before, after = (nn.Identity(),), (block.bn1, block.conv_pw, block.bn2)
            else:
                continue
            layers = nn.Sequential(*before), block.conv_dw, nn.Sequential(*after)
            setattr(parent, name, StripedBlock(*layers, shortcut=block.has_skip).eval())
    return network


def _is_plain(block: Any, *pointwise: nn.Module) -> bool:  # noqa: ANN401 - timm is untyped
    """Whether only a block's depthwise convolution sees more than a pixel."""
    beside = (getattr(block, name, None) for name in ("se", "aa", "conv_s2d"))
    return (
        all(one is None or type(one) is nn.Identity for one in beside)
        and isinstance(block.conv_dw, nn.Conv2d)
        and all(type(one) is nn.Conv2d and one.kernel_size == one.stride == (1, 1) for one in pointwise)
    )
