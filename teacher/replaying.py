"""CUDA graphs: a network's kernels for one size of images, recorded once and launched together from then on.

HRNet-OCR launches some thousand kernels a scale, which at the small scales takes the host longer than the device needs
to run them; a graph is one launch. What is launched is the same, and so is the result. Which sizes are worth a graph,
and how many are kept, is decided here; the network is run by whoever is given.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from teacher.networks.prediction import ScalePrediction

MAX_GRAPHS = 16
"""Kept at a time. A set of one size needs at most two a scale, for full batches and for the last one."""
_REMEMBERED = 4 * MAX_GRAPHS
"""Sizes met once that are remembered."""

Key = tuple[tuple[int, ...], bool]
Run = Callable[[Tensor, bool], ScalePrediction]
"""Predicts from images, with or without attention."""
Replay = Callable[[Tensor], ScalePrediction]
"""Predicts from images of the one size that was recorded."""


class Replays:
    """Runs a network, the second time a size comes by a graph of it.

    So a set in which every image has a size of its own is run as if there were no graphs. When a graph cannot be made,
    all are given up: the network is run directly, that image and those after it, and `problem` says why.

    Not for several threads at a time.

    Args:
        run: the network.
        record: makes what replays the network on images like those given; raises RuntimeError where it cannot.
        limit: of the graphs kept; the one used least recently goes.
    """

    def __init__(self, run: Run, record: Callable[[Tensor, bool], Replay], limit: int = MAX_GRAPHS) -> None:
        self.problem: str | None = None
        self._run, self._record, self._limit = run, record, limit
        self._replays: OrderedDict[Key, Replay] = OrderedDict()
        self._met: OrderedDict[Key, None] = OrderedDict()

    def __call__(self, images: Tensor, attend: bool) -> ScalePrediction:
        """Predict from images (batch, 3, height, width)."""
        key = (tuple(images.shape), attend)
        if key in self._replays:
            self._replays.move_to_end(key)
            return self._replays[key](images)
        if self.problem is not None:
            return self._run(images, attend)
        if key not in self._met:
            prediction = self._run(images, attend)
            self._met[key] = None  # not before it has worked: what cannot be run need not be recorded
            _keep(self._met, _REMEMBERED)
            return prediction
        try:
            replay = self._record(images, attend)
        except RuntimeError as error:
            self.problem = f"CUDA graphs are not used: {error}"
        else:
            del self._met[key]  # once its graph has gone, it has to come twice again
            self._replays[key] = replay
            _keep(self._replays, self._limit)
            return replay(images)
        self._replays.clear()  # their memory may be what was missing
        return self._run(images, attend)


def _keep(recent: OrderedDict[Key, Any], limit: int) -> None:
    while len(recent) > limit:
        recent.popitem(last=False)


class CudaRecorder:
    """Records a network's kernels on a device as graphs.

    All graphs take their working memory from one pool, which so is as large as the largest of them needs and not their
    sum. torch allows that to graphs of which none runs while another's results are still wanted: here results are
    copied out of the pool, and images into a buffer outside of it, on the stream on which the graphs themselves run.
    At 1024x2048 and 19 classes the two copies move 25 MB of images and 10 MB of scores at stride 4 within the device,
    tens of microseconds beside 3 TFLOP of convolutions.

    A recording that fails leaves torch in a state that its authors call undefined; it is not tried again.

    The host waits for the device when it records, which torch begins with a synchronisation, and never when it replays.

    Args:
        run: the network; it must have been run on the size before, so that libraries have chosen their algorithms and
            a compiler has done its work: none of that can be recorded.
        device: a CUDA device with its index, the current one whenever a graph is recorded or replayed.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch has no types here
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, images: Tensor, attend: bool) -> Replay:
        """Record the network for images of this size, type and layout.

        Raises:
            RuntimeError: something in the network cannot be recorded, or there is no memory for it.
        """
        # as recording does itself, but too late for an error before it, for which all graphs go: none may be running
        torch.cuda.synchronize(self._device)
        current = torch.cuda.current_stream(self._device)
        held = images.clone()  # of the same layout
        # torch leaves its recording stream the current one when a recording fails: the outer context puts that right
        with torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._run(held, attend)  # libraries keep a workspace for each stream
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # other threads may allocate pinned memory meanwhile, which the default mode would forbid them
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                logits, attention, _ = self._run(held, attend)

        def replay(others: Tensor) -> ScalePrediction:
            held.copy_(others)
            graph.replay()
            return ScalePrediction(logits.clone(), None if attention is None else attention.clone(), None)

        return replay
