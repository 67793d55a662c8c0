"""DeepLabV3+ for inference on the CPU: the same function, with its wide maps made a few rows at a time.

What the decoder joins at stride 4, 304 channels, and the encoder's inverted residuals widen at stride 2 and 4, would be
nine tenths of the memory of a forward pass. See `teacher.networks.striped`.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from teacher.networks.deeplab import DeepLab, DeepLabDecoder
from teacher.networks.layers import resize
from teacher.networks.one_dnn import pointwise
from teacher.networks.prediction import ScalePrediction
from teacher.networks.striped import StripedConvolution, rows_to_fill, with_stripes
from teacher.resampling import positions


def in_stripes(network: DeepLab) -> nn.Module:
    """The same function, within rounding, with as much of it in row stripes as there is a way for.

    Args:
        network: in evaluation mode; its parts are taken over.
    """
    if isinstance(network.decoder, DeepLabDecoder) and not network.scales:
        return StripedDeepLabV3Plus(network)
    network.encoder = with_stripes(network.encoder)
    return network


class StripedDeepLabV3Plus(nn.Module):
    """The network, computed in row stripes; satisfies `teacher.networks.prediction.Network`.

    Args:
        network: with `DeepLabDecoder`, predicting a scale at a time, in evaluation mode; its parts are taken over.
    """

    def __init__(self, network: DeepLab) -> None:
        super().__init__()
        assert isinstance(network.decoder, DeepLabDecoder), "no other decoder has these parts"
        self.encoder = with_stripes(network.encoder)
        pyramid, *after = network.decoder.aspp.children()
        self.pyramid, self.after_pyramid = SummedPyramid(pyramid), nn.Sequential(*after)
        self.fine = network.decoder.block1
        separable, *rest = network.decoder.block2.children()
        depthwise, mixing = separable.children()
        self.join, self.after_join = StripedConvolution(depthwise), nn.Sequential(mixing, *rest)
        self.classifier, self.scale_attn = network.classifier, network.scale_attn
        self.eval()

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        """As `DeepLab.forward`, within rounding."""
        attend = attend and self.scale_attn is not None
        features = self.encoder(images)
        fine, coarse = features[2], self.after_pyramid(self.pyramid(features[-1]))
        del features
        size = (fine.shape[-2], fine.shape[-1])

        def joined(rows: slice) -> Tensor:
            return torch.cat([enlarged_rows(coarse, size, rows), self.fine(fine[:, :, rows])], dim=1)

        kept: Tensor | None = None  # the features, if the attention asks for them, or the logits
        for rows, convolved in self.join(joined, fine.shape[0], size):
            made = self.after_join(convolved)
            part = made if attend else self.classifier(made)
            kept = rows_to_fill(part, size[0]) if kept is None else kept
            kept[:, :, rows] = part
        assert kept is not None, "a map has rows"
        if not attend or self.scale_attn is None:
            return ScalePrediction(kept, None, None)
        return ScalePrediction(self.classifier(kept), self.scale_attn(kept), None)


class SummedPyramid(nn.Module):
    """The atrous pyramid, whose branches are mixed one after the other: no map has the channels of all of them.

    The 1x1 convolution of joined branches is the sum of those of each.

    Args:
        pyramid: the library's, in evaluation mode; its parts are taken over.
    """

    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        self.branches = cast(nn.ModuleList, pyramid.convs)
        mixing, *rest = cast(nn.Sequential, pyramid.project).children()
        assert isinstance(mixing, nn.Conv2d), "as the library has it"
        self.bias = mixing.bias
        self.weights = nn.ParameterList(
            weight.contiguous() for weight in mixing.weight.detach().chunk(len(self.branches), dim=1)
        )
        self.after = nn.Sequential(*rest)

    def forward(self, features: Tensor) -> Tensor:
        """As the pyramid, within rounding: (batch, inputs, h, w) -> (batch, 256, h, w)."""
        total: Tensor | None = None
        for branch, weight in zip(self.branches, self.weights, strict=True):
            part = pointwise(branch(features), weight, self.bias if total is None else None)
            total = part if total is None else total.add_(part)
        return self.after(total)  # type: ignore[no-any-return] # modules return Any


def enlarged_rows(maps: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Some rows of `resize(maps, size)`, made of the rows that they need.

    Args:
        maps: (batch, channel, h, w), float.
        size: (height, width) to reach.
        rows: which rows of the result.

    Returns:
        (batch, channel, rows, width).
    """
    length = maps.shape[-2]
    if length == size[0]:
        return resize(maps[:, :, rows], (rows.stop - rows.start, size[1]))
    places = positions(np.arange(rows.start, rows.stop), length, size[0])
    upper = places.astype(np.int64)
    first, last = int(upper[0]), min(int(upper[-1]) + 2, length)
    some = resize(maps[:, :, first:last], (last - first, size[1]))
    weights = torch.from_numpy(places - upper).to(some)[:, None]
    lower = np.minimum(upper + 1, length - 1)
    above, below = (some.index_select(2, torch.from_numpy(each - first)) for each in (upper, lower))
    return torch.lerp(above, below, weights)
