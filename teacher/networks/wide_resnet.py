"""Wide ResNet-38: few but wide residual blocks, which normalise before they convolve; the trunk of several records.

No classifier and no head; named so that the public ImageNet weights load as they are.
"""

from collections import OrderedDict

from torch import Tensor, nn

from teacher.networks.layers import norm_relu

STEM_CHANNELS = 64
BLOCKS = (3, 3, 6, 3, 1, 1)
"""Residual blocks in the modules 2 to 7."""
STRIDES = (2, 4, 8, 16, 32, 32)
"""At which they work where nothing is dilated. The first two are entered by pooling, the others by a stride."""
DROPOUT = {6: 0.3, 7: 0.5}
"""Before the last convolution of the bottlenecks, by module."""


class IdentityBlock(nn.Module):
    """Residual block that leaves its sum as it is: batch norm and ReLU come before each convolution.

    Args:
        inputs: channels of what comes in.
        channels: of each convolution's result: two of 3x3, or a bottleneck of 1x1, 3x3 and 1x1.
        stride: of the first convolution.
        dilation: of the 3x3 convolutions.
        dropout: share of the values that are dropped before the last convolution.

    Source: arXiv:1603.05027, figure 4e, for the order within; arXiv:1611.10080 for where it is used.
    """

    def __init__(
        self, inputs: int, channels: tuple[int, ...], stride: int = 1, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.bn1 = norm_relu(inputs)
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = inputs
        for number, (kernel, outputs) in enumerate(zip(kernels, channels, strict=True), start=1):
            if number > 1:
                layers[f"bn{number}"] = norm_relu(before)
            if number == len(channels) and dropout:
                layers["dropout"] = nn.Dropout(dropout)
            layers[f"conv{number}"] = nn.Conv2d(
                before,
                outputs,
                kernel,
                stride if number == 1 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation if kernel > 1 else 1,
                bias=False,
            )
            before = outputs
        self.convs = nn.Sequential(layers)
        same = stride == 1 and inputs == before
        self.proj_conv = None if same else nn.Conv2d(inputs, before, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h, w), h and w divided by the stride and rounded up."""
        y = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(y)
        return self.convs(y).add_(shortcut)  # type: ignore[no-any-return] # modules return Any


class WideResNet(nn.Module):
    """The trunk: a stem, six modules of residual blocks, and a last batch norm.

    The modules from an output stride on keep their size and are dilated in its stead.

    Args:
        output_stride: of the coarsest features: 8, as segmentation uses it, 16 or 32.
        width: channels of the stem; 64 is wide ResNet-38, and the others follow from it.

    Source: arXiv:1611.10080, section 4 (model A, with the strides of its variant A2, as in arXiv:1712.02616).
    """

    HEAD = ("classifier.",)
    """Beginnings of the names that public ImageNet weights have beyond the trunk."""

    def __init__(self, output_stride: int = 32, width: int = STEM_CHANNELS) -> None:
        super().__init__()
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, width, 3, padding=1, bias=False)))
        self.pool2 = nn.MaxPool2d(3, stride=2, padding=1)
        self.pool3 = nn.MaxPool2d(3, stride=2, padding=1)
        factors: tuple[tuple[int, ...], ...] = ((2, 2), (4, 4), (8, 8), (8, 16), (8, 16, 32), (16, 32, 64))
        modules: list[nn.Module] = []
        before, stride = width, 4
        for number, (blocks, own, factor) in enumerate(zip(BLOCKS, STRIDES, factors, strict=True), start=2):
            kept = min(own, output_stride)
            step = kept // stride if number > 3 else 1  # the first two are entered by pooling
            stride = max(stride, kept)
            channels = tuple(width * f for f in factor)
            module: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(blocks):
                module[f"block{block + 1}"] = IdentityBlock(
                    before, channels, step if block == 0 else 1, own // kept, DROPOUT.get(number, 0.0)
                )
                before = channels[-1]
            modules.append(nn.Sequential(module))
        self.mod2, self.mod3, self.mod4, self.mod5, self.mod6, self.mod7 = modules
        self.bn_out = norm_relu(before)
        self.out_channels = [3, 2 * width, 4 * width, 8 * width, 16 * width, before]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute features, finest first.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.

        Returns:
            The images, and the results of the modules 2 to 5 and of the whole trunk: (batch, channel, h, w) at strides
            2, 4 and 8, then 16 and 32 or the output stride where that is less.
        """
        features = [images, self.mod2(self.pool2(self.mod1(images)))]
        features.append(self.mod3(self.pool3(features[-1])))
        features.append(self.mod4(features[-1]))
        features.append(self.mod5(features[-1]))
        features.append(self.bn_out(self.mod7(self.mod6(features[-1]))))
        return features
