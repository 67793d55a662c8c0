"""A CUDA device that is none: tensors that say that they are on one, and are computed on the CPU.

A computation that takes such tensors and tensors of the host together is an error, as on a device, and where the host
would wait for the device is written down. What runs here keeps its tensors together; kernels, streams, graphs and
memory only a real device shows (`pytest -m cuda`).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA = torch.device("cuda:0")
_CPU = torch.device("cpu")
_COPIES = ("_to_copy", "to", "copy_")
_READS = ("_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "equal", "is_nonzero")
"""What the host reads, if only how many there are."""
_INDEXED = ("index", "_unsafe_index", "index_put", "index_put_")
"""May take an index of the host, which is sent."""


class ClaimedTensor(Tensor):
    """A tensor that says that it is on `CUDA`."""

    held: Tensor
    """What is computed with."""
    waits: list[str]
    """Of the device, as `ClaimedDevice.waits`."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] # as torch says

    def __repr__(self) -> str:  # type: ignore[override] # torch's has an argument that nobody uses
        """Its values."""
        return f"ClaimedTensor({self.held!r})"

    def tolist(self) -> Any:
        """Its values, which torch gives of its own tensors only."""
        self.waits.append("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # as torch says
        cls, func: OpOverload, _types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        """Compute where no mode is on, as in a computation that a mode has begun."""
        first = next(x for x in tree_flatten((args, kwargs))[0] if isinstance(x, ClaimedTensor))
        return _run(func, args, kwargs or {}, first.waits)


def _claim(values: Tensor, waits: list[str]) -> ClaimedTensor:
    made: ClaimedTensor = Tensor._make_wrapper_subclass(
        ClaimedTensor,
        values.shape,
        strides=values.stride(),
        storage_offset=values.storage_offset(),
        dtype=values.dtype,
        device=CUDA,
    )
    made.held, made.waits = values, waits
    return made


def _run(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], waits: list[str]) -> object:
    flat, form = tree_flatten((tuple(args), dict(kwargs)))
    devices = [x for x in flat if isinstance(x, torch.device)]
    claimed = [x for x in flat if isinstance(x, ClaimedTensor)]
    own = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, ClaimedTensor)]
    name = func.overloadpacket.__name__
    if name == "_has_compatible_shallow_copy_type":
        return False  # a module takes a new parameter then
    if claimed and name not in (*_COPIES, *_INDEXED) and (mixed := [tuple(x.shape) for x in own if x.ndim]):
        raise RuntimeError(f"{func} takes tensors of both devices; those of the host are {mixed}")
    if claimed and (name in _READS or (name in _INDEXED and any(x.ndim for x in own))):
        waits.append(name)
    crosses = name in _COPIES and (bool(claimed and own) or (devices and (devices[0] == _CPU) == bool(claimed)))
    if crosses and not any(x is True for x in (kwargs.get("non_blocking"), *args[2:])):
        waits.append(name)
    held = [x.held if isinstance(x, ClaimedTensor) else _CPU if isinstance(x, torch.device) else x for x in flat]
    positional, named = tree_unflatten(held, form)
    if name == "cudnn_batch_norm":
        made: Any = (*torch.ops.aten.native_batch_norm(*positional), torch.empty(0, dtype=torch.uint8))
    else:
        made = func(*positional, **named)
    if name.endswith("_"):  # in place
        return args[0] if func._schema.returns else None
    if not (devices[0].type == "cuda" if devices else claimed):
        return made
    return tree_map(lambda x: _claim(x, waits) if isinstance(x, Tensor) else x, made)


class _Made(TorchFunctionMode):
    """Sends values from Python, which torch would put on a device below all modes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """As torch's."""
        named = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return func(*args, **named).to(device)
        return func(*args, **named)


class ClaimedDevice(TorchDispatchMode):
    """Computes what is on `CUDA`, and on the CPU as ever."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has no types here
        self.waits: list[str] = []
        """Operations at which the host would wait for the device, in order."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: OpOverload, _types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        """As torch's."""
        return _run(func, args, kwargs or {}, self.waits)


def held(values: Tensor) -> Tensor:
    """What a tensor of the claimed device holds."""
    assert isinstance(values, ClaimedTensor), f"it is on {values.device}"
    return values.held


@contextlib.contextmanager
def claimed_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimedDevice]:
    """Let there be a CUDA device; skips the test where there is a real one, or a torch that cannot be told this."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device: see pytest -m cuda")
    if not hasattr(torch._C, "_ensureCUDADeviceGuardSet"):
        pytest.skip(f"torch {torch.__version__} does not let a tensor claim a device that is not there")
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    # what only a real device has
    monkeypatch.setattr("teacher.execution._current", lambda _: contextlib.nullcontext())
    monkeypatch.setattr("teacher.execution.Execution._new_replays", lambda _: None)
    # tensors of that mode cannot be claimed for
    monkeypatch.setattr(
        torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else contextlib.nullcontext()
    )
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    device = ClaimedDevice()
    try:
        with _Made(), device:
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
