"""What labelling an image takes in memory, told before anything of it is computed.

What is done where memory does not suffice is decided elsewhere; and nothing here knows how much there is.
"""

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode  # documented by torch, though its module has an underscore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from storage.soft_store import Keep
from teacher.fusion import check_scales, size_at_scale
from teacher.networks.prediction import Network, ScalePrediction
from teacher.tiling import GLOBAL_CONTEXT, STRIDE, plan_tiles

_SIDES, _SMALL_SIDES = (768, 1280), (256, 512)
"""Of the images that a forward is measured on; they cost no memory. The large ones are computed in stripes, where a
network is, the small ones not."""
_LIBRARIES = 14 << 20
"""What oneDNN and others take on the CPU to work in; measured, between 3 and 22 MB."""
_SOFT_PLANES: dict[Keep, int] = {"none": 0, "confidence": 2, "top2": 3}
"""Bytes a pixel of what is kept beside the label."""


@dataclass(frozen=True, slots=True)
class ForwardMemory:
    """The peak of one forward beyond its weights and its input, linear in the pixels of the scaled images.

    Of two lines where small images are computed in another way than large ones: the lower one holds, as stripes that
    are as large as the map save nothing.
    """

    fixed: int
    """Bytes."""
    per_pixel: float
    """Bytes for each pixel of each image of the batch."""
    of_small: Self | None = None
    """The line of small images; None: it is the same."""

    def peak(self, pixels: int) -> int:
        """Bytes for so many pixels."""
        own = self.fixed + math.ceil(self.per_pixel * pixels)
        return own if self.of_small is None else min(own, self.of_small.peak(pixels))


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves its hook without types
    """Counts the bytes of the tensors that operations make, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, 200 MB, to keep this class from being compiled, which nobody does."""
        return False

    def __torch_dispatch__(
        self, func: OpOverload, _types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001 - its only identity, for the views of one storage are objects of their own
        if key not in self._live:  # else an operation in place gave its own argument
            self._live[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.now -= self._live.pop(key)


def measure_forward(network: Network, device: torch.device, *, attend: bool = True) -> ForwardMemory:
    """Run a network on tensors that have a shape and no content, at four sizes, and see how much is alive at once.

    It takes no memory, and time by the operation, whatever its size: four processor seconds for HRNet-OCR. Counted is
    what torch's operations make; a library's room to work in is not (that of cuDNN was not measured).

    Args:
        network: what predicts, the way it will be run: precision, layout and folding count. Not a compiled one, and no
            recorded graphs: these keep memory of their own.
        device: where its weights are.
        attend: whether the attention is wanted.
    """
    of_small = _line([_peak_of(network, device, side, attend) for side in _SMALL_SIDES], _SMALL_SIDES)
    of_large = _line([_peak_of(network, device, side, attend) for side in _SIDES], _SIDES)
    return of_large if of_small == of_large else replace(of_large, of_small=of_small)


def _peak_of(network: Network, device: torch.device, side: int, attend: bool) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        images = torch.empty((1, 3, side, side), device=device)
        with _LiveBytes() as live:
            network(images, attend=attend)
    return int(live.peak)


def _line(peaks: Sequence[int], sides: Sequence[int]) -> ForwardMemory:
    small, large = (side**2 for side in sides)
    per_pixel = (peaks[1] - peaks[0]) / (large - small)
    return ForwardMemory(max(0, round(peaks[0] - per_pixel * small)), per_pixel)


@dataclass(frozen=True, slots=True)
class LabelMemory:
    """What a teacher takes at labelling, on its device.

    On CUDA that is what `torch.cuda.max_memory_allocated` tells, weights included, with a graph for each scale; the
    context of CUDA, some hundred megabytes, and what the caching allocator holds unused come on top. On the CPU it is
    the growth of the process's resident memory over that of a process that has labelled one small image, weights not
    included, where freed blocks go back to the system at once; glibc by default keeps 10 to 80 % more. Images that are
    read ahead (on CUDA but for the next batch), and labels that are being written, are not in it.
    """

    weights: int
    """Bytes of parameters and buffers."""
    forward: ForwardMemory
    """Of the largest scale, whose attention nobody asks for."""
    classes: int
    working: int
    """Bytes that fusion and decision may work in."""
    on_host: bool
    """Whether the device is the CPU, whose memory the images as they were read are in too."""
    attended: ForwardMemory | None = None
    """Of the other scales; None: there is no attention that could take more."""

    @classmethod
    def of(cls, predict: Network, device: torch.device, classes: int, weights: int, working: int) -> Self:
        """Measure a network; with and without its attention, where it has one.

        Args:
            predict: the network as it is run; see `measure_forward`.
            device: where it is run.
            classes: of its predictions.
            weights: bytes of its parameters and buffers.
            working: bytes that fusion and decision may work in.
        """
        attends = False

        def watched(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
            nonlocal attends
            prediction = predict(images, attend=attend)
            attends |= prediction.attention is not None
            return prediction

        forward = attended = measure_forward(watched, device)
        if attends:
            forward = measure_forward(predict, device, attend=False)
        return cls(weights, forward, classes, working, device.type == "cpu", attended if attends else None)

    def peak(
        self,
        size: tuple[int, int],
        scales: Sequence[float],
        *,
        batch: int = 1,
        tile: int | None = None,
        flip: bool = False,
        keep: Keep = "none",
    ) -> int:
        """Predict the peak of labelling images of one size as one batch.

        Scales are predicted one after the other, from the largest down; of each only its prediction at the network's
        stride stays, in float32. The peak is that of one forward, beside what is there already, or that of the fusion.

        Args:
            size: (height, width) of the images, in pixels.
            scales: ratios to the images, 1.0 among them.
            batch: images labelled together.
            tile: side of the tiles that are predicted one by one; None: each scale is predicted whole.
            flip: the mirrored images are predicted too.
            keep: what is kept beside the label.

        Returns:
            Bytes.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0; or the tile is too small.
            ImageError: the images are too small for the lowest scale.
        """
        ordered = check_scales(scales)
        pixels = batch * size[0] * size[1]
        floats = 3 * 4  # bytes a pixel of normalised images
        # as they were read, in bytes, they are there, too; and on CUDA those that come next
        images = pixels * (floats + 3 * (1 if self.on_host else 2))
        maps = highest = recorded = 0
        for mirrored in (False, True)[: 1 + flip]:
            for scale in ordered:
                height, width = size_at_scale(size, scale)
                scaled = batch * height * width
                inputs = floats * (pixels * mirrored + scaled * (scale != 1))
                own = 4 * batch * math.ceil(height / STRIDE) * math.ceil(width / STRIDE)
                own *= self.classes + (scale != ordered[0])  # nobody asks for the largest scale's attention
                joined = 0
                if tile is not None and max(height, width) > tile:
                    scaled, joined = batch * _largest_tile((height, width), tile), own
                forward = self.forward if scale == ordered[0] else self.attended or self.forward
                highest = max(highest, maps + inputs + joined + forward.peak(scaled))
                maps += own
                # a CUDA graph, which serves the mirrored images too, keeps what it reads and what it gives
                recorded += (floats * scaled + own) * (not mirrored)
        planes = _SOFT_PLANES[keep]
        fusion = maps + self.working + pixels * (2 + 2 * planes + (planes > 0))  # where kept, also what is in doubt
        return images + max(highest, fusion) + (_LIBRARIES if self.on_host else self.weights + recorded)


def _largest_tile(size: tuple[int, int], tile: int) -> int:
    """Pixels of the largest tile into which an image is cut; tiles may be smaller than they are allowed to be."""
    tiles = plan_tiles(size, tile, GLOBAL_CONTEXT)
    return max((one.rows.stop - one.rows.start) * (one.columns.stop - one.columns.start) for one in tiles)
