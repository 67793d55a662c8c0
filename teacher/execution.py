"""How a network is run for inference: folded, in which layout and precision, compiled or recorded, on which device.

What is predicted is the network's; what is made of it is in `teacher.fusion` and `teacher.decision`.
"""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from storage.errors import first_line
from teacher.folding import fold_batch_norms
from teacher.networks.branchwise import BranchwiseHRNetOCR
from teacher.networks.hrnet_ocr import HRNetOCR
from teacher.networks.one_dnn import with_one_dnn
from teacher.networks.prediction import ScalePrediction
from teacher.replaying import MAX_GRAPHS, CudaRecorder, Replays


class Execution:
    """A network as it is run for inference; satisfies `teacher.networks.prediction.Network`.

    It works on a copy of its own, or takes the network over. Auxiliary logits are not given: no label needs them.

    Not for several threads at a time.

    Args:
        network: in evaluation mode.
        device: where it is run.
        half: the type in which convolutions and products are computed, bfloat16 or float16; None: float32 throughout.
        compiled: have torch compile the network, for each size of images when it first comes. That takes minutes and,
            on the CPU, a C++ compiler. Sizes beyond torch's limit (`torch._dynamo.config.recompile_limit`, 8) are run
            as they are.
        graphs: how many CUDA graphs are kept; 0: none is made. On the CPU there are none.
        take_over: change the network itself, of no use elsewhere from then on: a copy takes its weights' memory again.

    Raises:
        SettingsError: the network is in training mode.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        half: torch.dtype | None = None,
        *,
        compiled: bool = False,
        graphs: int = MAX_GRAPHS,
        take_over: bool = False,
    ) -> None:
        self.device = torch.empty(0, device=device).device  # with its index
        on_cuda = self.device.type == "cuda"
        # On the CPU channels last takes about a third less processor time, and tensor cores take half precision so; the
        # float32 kernels of CUDA are made for the other layout.
        self._layout = torch.channels_last if half is not None or not on_cuda else torch.contiguous_format
        own = fold_batch_norms(network if take_over else copy.deepcopy(network))
        if half is None and not on_cuda:
            own = _with_less_at_once(own, compiled=compiled)
        if half is None and not on_cuda and not compiled:  # a compiler chooses kernels itself
            own = with_one_dnn(own)
        if half is not None:
            _store_weights(own, half)
        own.requires_grad_(requires_grad=False).to(self.device).to(memory_format=self._layout)
        self._runner = _Runner(own, self.device, half, compiled)
        self._graphs = graphs if on_cuda else 0
        self._replays = self._new_replays()

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up, and why, in words for the user; labels do not suffer by it."""
        recorded = None if self._replays is None else self._replays.problem
        return tuple(problem for problem in (self._runner.problem, recorded) if problem is not None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the parameters and buffers."""
        return self._runner.weight_bytes

    def release(self) -> None:
        """Let go of the memory that is kept from image to image: before a smaller batch is tried, say."""
        if self._replays is not None and self._replays.problem is None:
            torch.cuda.synchronize(self.device)  # nobody says that a graph may go while the device is still at it
            self._replays = self._new_replays()
            torch.cuda.empty_cache()

    def __call__(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        """As `Network`: images (batch, 3, height, width) float32 on the device; the results are the caller's own."""
        with torch.inference_mode(), _current(self.device):
            run = self._runner if self._replays is None else self._replays
            return run(images.contiguous(memory_format=self._layout), attend)

    def run_eagerly(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        """As a call, but operation by operation also where a call is compiled or recorded: for those who watch them."""
        with torch.inference_mode(), _current(self.device):
            return self._runner.run(images.contiguous(memory_format=self._layout), attend, self._runner.module)

    def _new_replays(self) -> Replays | None:
        if not self._graphs:
            return None
        return Replays(self._runner, CudaRecorder(self._runner, self.device), self._graphs)


class _Runner:
    """Runs a module where and in which precision it is to be run, compiled where that works."""

    def __init__(self, module: nn.Module, device: torch.device, half: torch.dtype | None, compiled: bool) -> None:
        self.problem: str | None = None
        """Why the module is not compiled, though it was asked for."""
        self.module, self._device, self._half = module, device, half
        self._compiled: Callable[..., ScalePrediction] | None = None
        if compiled:
            self._compiled = torch.compile(module, dynamic=False)

    @property
    def weight_bytes(self) -> int:
        """Of parameters and buffers."""
        return sum(tensor.nbytes for tensor in chain(self.module.parameters(), self.module.buffers()))

    def __call__(self, images: Tensor, attend: bool) -> ScalePrediction:
        """As `teacher.replaying.Run`."""
        return self.run(images, attend, self._forward)

    def run(self, images: Tensor, attend: bool, forward: Callable[..., ScalePrediction]) -> ScalePrediction:
        """Run a forward in the precision."""
        # no cache of autocast, which a recording would outlive; the weights are of the half type already
        autocast = torch.autocast(
            self._device.type, dtype=self._half, enabled=self._half is not None, cache_enabled=False
        )
        with exact(self._device), autocast:
            logits, attention, _ = forward(images, attend=attend)
        return ScalePrediction(logits, attention, None)

    def _forward(self, images: Tensor, attend: bool) -> ScalePrediction:
        if self._compiled is not None:
            try:
                return self._compiled(images, attend=attend)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a compiler fails in many ways, and none may cost an image
                cause = getattr(error, "inner_exception", error)  # torch names the compiler first, and then its trouble
                problem = f"the network is run without being compiled: {first_line(cause)}"
        prediction: ScalePrediction = self.module(images, attend=attend)
        if self._compiled is not None:  # else it would have failed again: so it was the compiler's fault
            self._compiled, self.problem = None, problem
        return prediction


def _with_less_at_once(network: nn.Module, *, compiled: bool) -> nn.Module:
    """The same function by a form of the network that is made for the CPU, where there is one.

    Stripes are a loop as long as the image is high, which a compiler would write out.
    """
    if isinstance(network, HRNetOCR):
        return BranchwiseHRNetOCR(network)
    deeplab = sys.modules.get("teacher.networks.deeplab")  # which is heavy, and imported if the network is of its kind
    if deeplab is not None and isinstance(network, deeplab.DeepLab) and not compiled:
        from teacher.networks.striped_deeplab import in_stripes

        return in_stripes(network)
    return network


def _store_weights(network: nn.Module, half: torch.dtype) -> None:
    """Round weights once to the type to which autocast would round them at each call.

    Only of the layers that hand autocast their weights as they are: others compute something from them first.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(half)


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Keep CUDA convolutions and products at the precision that was asked for, and the same from run to run."""
    if device.type != "cuda":
        yield
        return
    # NVIDIA's containers ask torch by a variable of the environment to round the factors of float32 products to TF32.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        # By default cuDNN rounds float32 convolutions to TF32, and may choose another algorithm each run.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
