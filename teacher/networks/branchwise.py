"""HRNet-OCR for inference on the CPU: the same function, without enlarging the trunk's coarse branches first.

The network enlarges three of its four branches to the finest one's size, joins them, and convolves the whole: 14 of 15
input channels of its two largest convolutions are enlarged copies of maps with 4, 16 and 64 times fewer pixels. Both
steps are linear, so the channels can be mixed before enlarging, where there are few pixels, and the results be enlarged
and added up. Training needs none of this, and on CUDA, where memory and not arithmetic would then be the limit, it
gains nothing.

The head's maps would be what takes the most memory, so they are never whole where they need not be: the convolutions
give some of their channels at a time, and what works pixel by pixel is done for some rows at a time.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from teacher.networks.hrnet_ocr import HRNetOCR
from teacher.networks.layers import resize
from teacher.networks.ocr import gather_regions
from teacher.networks.one_dnn import pointwise
from teacher.networks.prediction import ScalePrediction
from teacher.networks.striped import stripes

_TOGETHER = 64
"""At most so many output channels of a head's convolution are computed together."""
_STRIPE = 8 << 20
"""Bytes of features whose pixels are described by regions together; some five times as many are computed on the way."""


class BranchConvolution(nn.Module):
    """A convolution of maps of several sizes, as if they were enlarged to the first one's size and joined.

    With u(z) a coarse map z enlarged, W(i, j) the kernel's matrix at row i and column j, and s(i, j) the shift by as
    many pixels that fills with zeros,

        sum over i, j of s(i, j) W(i, j) u(z)  =  sum over i of s(i) u_rows( sum over j of s(j) u_columns( W(i, j) z ) )

    W mixes channels and u mixes pixels, so they commute; u is bilinear, one step along the columns and one along the
    rows, and a shift along the one commutes with the step along the other. On the right W works at the size of z. Per
    pixel and output channel of a 3x3 kernel on HRNet's branches, 9 * 720 multiplications become 9 * 90, and some 17
    values are interpolated and added. Measured at 480x360 on one core, the two convolutions took a quarter of the time
    and the whole forward pass 23 % less.

    Args:
        convolution: with stride and dilation 1, one group, and zeros around that keep the size.
        channels: of each map; together the convolution's inputs.
    """

    def __init__(self, convolution: nn.Conv2d, channels: Sequence[int]) -> None:
        super().__init__()
        rows, columns = convolution.kernel_size
        assert convolution.padding == (rows // 2, columns // 2), "keeps the size"
        assert (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1), "plain"
        assert convolution.padding_mode == "zeros", "which is what a shift fills with"
        self.kernel = rows, columns
        finest, *coarser = torch.split(convolution.weight.detach(), list(channels), dim=1)
        self.finest = nn.Parameter(finest.clone())
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach().clone())
        # a matrix for each place of the kernel, in rows of it: (rows * columns, outputs, channels)
        self.coarser = nn.ParameterList(w.permute(2, 3, 0, 1).flatten(0, 1).contiguous() for w in coarser)

    def forward(self, maps: Sequence[Tensor], outputs: slice = slice(None)) -> Tensor:
        """Convolve.

        Args:
            maps: (batch, channel, h, w) each, finest first, with the channels that the constructor was given.
            outputs: which output channels are computed.

        Returns:
            (batch, output, h, w), of the finest map's size.
        """
        rows, columns = self.kernel
        bias = None if self.bias is None else self.bias[outputs]
        total = functional.conv2d(maps[0], self.finest[outputs], bias, padding=(rows // 2, columns // 2))
        height, width = total.shape[-2:]
        for x, matrices in zip(maps[1:], self.coarser, strict=True):
            for i in range(rows):
                wide: Tensor | None = None  # enlarged along its rows only
                for j in _middle_first(columns):
                    mixed = pointwise(x, matrices[i * columns + j, outputs, :, None, None])
                    part = resize(mixed, (x.shape[-2], width))
                    wide = part if wide is None else _add_shifted(wide, part, j - columns // 2, dim=3)
                assert wide is not None, "a kernel has a column"
                _add_shifted(total, resize(wide, (height, width)), i - rows // 2, dim=2)
        return total

    def groups(self) -> Iterator[slice]:
        """Runs of output channels that are good to compute together."""
        count = len(self.finest)
        number = -(-count // _TOGETHER)
        return (slice(count * i // number, count * (i + 1) // number) for i in range(number))


def _middle_first(count: int) -> list[int]:
    """0..count-1 beginning with the middle, whose part has no shift and can take the others in."""
    return sorted(range(count), key=lambda j: j != count // 2)


def _add_shifted(total: Tensor, part: Tensor, offset: int, dim: int) -> Tensor:
    """Add to each pixel the part's pixel that lies `offset` further, in place, and nothing where that is outside."""
    length = total.shape[dim] - abs(offset)
    if length > 0:
        total.narrow(dim, max(-offset, 0), length).add_(part.narrow(dim, max(offset, 0), length))
    return total


class BranchwiseHRNetOCR(nn.Module):
    """HRNet-OCR whose head takes the branches apart; satisfies `teacher.networks.prediction.Network`.

    Args:
        network: in evaluation mode, the batch norms of its head folded; its parts are taken over.
    """

    def __init__(self, network: HRNetOCR) -> None:
        super().__init__()
        self.backbone, self.ocr, self.scale_attn = network.backbone, network.ocr, network.scale_attn
        self.pixels, self.after_pixels = _apart(network.ocr.conv3x3_ocr, network.backbone.widths)
        self.regions, self.after_regions = _apart(network.ocr.aux_head, network.backbone.widths)
        self.regions_head = cast(nn.Conv2d, self.after_regions.pop(-1))
        del self.ocr.conv3x3_ocr, self.ocr.aux_head
        self.eval()

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """As `HRNetOCR.forward`, within rounding."""
        maps = self.backbone.branches(images)
        auxiliary = self._auxiliary(maps)
        features = self._pixel_features(maps)
        del maps
        regions = gather_regions(features, auxiliary)
        for rows in stripes(features.shape[-2], _STRIPE // features[:, :, 0].nbytes):
            some = features[:, :, rows]
            some.copy_(self.ocr.ocr_distri_head(some, regions))  # in its own place: pixel by pixel
        attention = self.scale_attn(features) if attend and self.scale_attn is not None else None
        return ScalePrediction(self.ocr.cls_head(features), attention, auxiliary)

    def _auxiliary(self, maps: Sequence[Tensor]) -> Tensor:
        """The auxiliary logits, (batch, class, h, w): the last convolution's sum over channels, a group at a time."""
        total: Tensor | None = None
        for group in self.regions.groups():
            hidden = self.after_regions(self.regions(maps, group))
            bias = self.regions_head.bias if total is None else None
            part = pointwise(hidden, self.regions_head.weight[:, group], bias)
            total = part if total is None else total.add_(part)
        assert total is not None, "a convolution has an output"
        return total

    def _pixel_features(self, maps: Sequence[Tensor]) -> Tensor:
        """The pixel features, (batch, channel, h, w)."""
        finest, count = maps[0], len(self.pixels.finest)
        features = torch.empty(
            (finest.shape[0], count, *finest.shape[-2:]),
            dtype=finest.dtype,
            device=finest.device,
            memory_format=torch.channels_last,
        )
        for group in self.pixels.groups():
            features[:, group] = self.after_pixels(self.pixels(maps, group))
        return features


def _apart(layers: nn.Module, channels: Sequence[int]) -> tuple[BranchConvolution, nn.Sequential]:
    """A head's first layer, a convolution of the joined branches, for branches apart; and what follows it."""
    first, *rest = layers.children()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers.modules()), "folded: it has all the channels"
    return BranchConvolution(cast(nn.Conv2d, first), channels), nn.Sequential(*rest)
