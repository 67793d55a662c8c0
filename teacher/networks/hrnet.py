"""HRNetV2 in its segmentation form: a trunk that keeps four resolutions side by side and ends at stride 4.

No classifier and no head: see `teacher.networks.ocr`.
"""

import torch
from torch import Tensor, nn

from teacher.networks.layers import convolution, resize

STEM_CHANNELS = 64
EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual block of stage 1: 1x1, 3x3 and 1x1 convolutions, the last four times as wide."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs)) if inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, 4 * width, h, w)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)).add_(shortcut))  # type: ignore[no-any-return] # modules return Any


class BasicBlock(nn.Module):
    """Residual block of the branches: two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = convolution(width, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, h, w) -> the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)).add_(x))  # type: ignore[no-any-return] # modules return Any


class FusionModule(nn.Module):
    """Residual blocks on every branch, then every branch receives the sum of all, each brought to its resolution."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(w) for _ in range(blocks))) for w in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map a branch, finest first -> the same shapes."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self._sum(paths, maps, target) for target, paths in enumerate(self.fuse_layers)]

    def _sum(self, paths: nn.Module, maps: list[Tensor], target: int) -> Tensor:
        # To the target's own size, never by a fixed factor: a branch's height or width may be odd.
        size = (maps[target].shape[-2], maps[target].shape[-1])
        parts = (resize(path(x), size) for path, x in zip(paths.children(), maps, strict=True))
        total = next(parts)
        for source, part in enumerate(parts, start=1):
            # In place, but never in the target's own map: it goes into the other sums too.
            total = total.add_(part) if source == target else part.add_(total)
        return self.relu(total)  # type: ignore[no-any-return] # modules return Any


def _path(widths: list[int], source: int, target: int) -> nn.Module:
    """What brings branch `source` to the channels of branch `target`, and to its resolution where that is coarser."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(convolution(widths[source], widths[target], 1), nn.BatchNorm2d(widths[target]))
    steps: list[nn.Module] = []
    for step in range(source + 1, target + 1):
        last = step == target
        outputs = widths[target] if last else widths[source]
        parts: list[nn.Module] = [convolution(widths[source], outputs, 3, 2), nn.BatchNorm2d(outputs)]
        steps.append(nn.Sequential(*parts) if last else nn.Sequential(*parts, nn.ReLU(inplace=True)))
    return nn.Sequential(*steps)


def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
    """Between stages: branches that change width get a convolution; the new one is halved from the coarsest."""
    layers: list[nn.Module] = []
    for index, width in enumerate(after):
        if index >= len(before):
            layers.append(nn.Sequential(_unit(before[-1], width, 2)))
        elif width != before[index]:
            layers.append(_unit(before[index], width, 1))
        else:
            layers.append(nn.Identity())
    return nn.ModuleList(layers)


def _unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class HRNet(nn.Module):
    """The trunk.

    Args:
        width: channels of the finest branch; the others have 2, 4 and 8 times as many.
        modules: fusion modules in stages 2, 3 and 4.
        blocks: residual blocks in stage 1, and on each branch of a fusion module.

    Source: arXiv:1904.04514, section 3.2 (HRNetV2); the defaults are HRNetV2-W48.
    """

    HEAD = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
    """Beginnings of the names that public ImageNet weights have beyond the trunk."""

    def __init__(self, width: int = 48, modules: tuple[int, int, int] = (1, 4, 3), blocks: int = 4) -> None:
        super().__init__()
        self.conv1 = convolution(3, STEM_CHANNELS, 3, 2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.conv2 = convolution(STEM_CHANNELS, STEM_CHANNELS, 3, 2)
        self.bn2 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        stage1 = STEM_CHANNELS * EXPANSION
        self.layer1 = nn.Sequential(
            *(Bottleneck(STEM_CHANNELS if i == 0 else stage1, STEM_CHANNELS) for i in range(blocks))
        )
        widths = [width * 2**i for i in range(4)]
        self.transition1 = _transition([stage1], widths[:2])
        self.stage2 = nn.Sequential(*(FusionModule(widths[:2], blocks) for _ in range(modules[0])))
        self.transition2 = _transition(widths[:2], widths[:3])
        self.stage3 = nn.Sequential(*(FusionModule(widths[:3], blocks) for _ in range(modules[1])))
        self.transition3 = _transition(widths[:3], widths)
        self.stage4 = nn.Sequential(*(FusionModule(widths, blocks) for _ in range(modules[2])))
        self.widths = tuple(widths)
        self.out_channels = sum(widths)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            # torch has its compiler do this to weights without content, and imports it for that: 200 MB
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.normal_(module.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of all branches at the resolution of the finest.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.

        Returns:
            Features, (batch, 15 * width, ceil(height / 4), ceil(width / 4)), finest branch first.
        """
        maps = self.branches(images)
        size = (maps[0].shape[-2], maps[0].shape[-1])
        return torch.cat([resize(m, size) for m in maps], dim=1)

    def branches(self, images: Tensor) -> list[Tensor]:
        """Compute the features of each branch at its own resolution.

        Args:
            images: as `forward` takes them.

        Returns:
            Four maps, finest first: (batch, width * 2**i, h, w), h and w half of the map before, rounded up.
        """
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # A branch that the stage adds starts from the coarsest one there is.
            sources = maps + [maps[-1]] * (len(transition) - len(maps))
            maps = stage([layer(source) for layer, source in zip(transition, sources, strict=True)])
        return maps
