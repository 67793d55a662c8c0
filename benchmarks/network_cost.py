"""What a network's forward pass costs, counted on tensors without data: operations, and bytes that kernels move.

Nothing is computed or timed, so any network at any size is counted in seconds on any machine.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from teacher.fusion import check_scales, size_at_scale
from teacher.networks.registry import NetworkSpec, build_network

_ATEN = torch.ops.aten
_KINDS = {
    _ATEN.native_batch_norm: "batch norm",
    _ATEN.cudnn_batch_norm: "batch norm",
    _ATEN._native_batch_norm_legit_no_training: "batch norm",  # noqa: SLF001 - torch has no public name for it
    _ATEN.hardtanh: "ReLU",
    _ATEN.hardtanh_: "ReLU",
    _ATEN.relu: "ReLU",
    _ATEN.relu_: "ReLU",
    _ATEN.add: "sum",
    _ATEN.add_: "sum",
    _ATEN.upsample_bilinear2d: "resize",
    _ATEN.cat: "concatenation",
}


class OpCost(NamedTuple):
    """What one operation of a forward pass costs."""

    kind: str
    flops: int
    """A multiplication with its addition counts as two."""
    read: int
    written: int
    """Numbers, not bytes: of all inputs, weights included, and of all outputs."""
    operands: int
    """How many of the inputs are tensors."""


class CostMode(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Counts the operations that are run under it; those that only look at a tensor differently cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[OpCost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        written = sum(tensor.numel() for tensor in _tensors(out))
        if written and not func.is_view:
            packet = func.overloadpacket
            count = flop_registry.get(packet)
            inputs = list(_tensors([*args, *kwargs.values()]))
            self.ops.append(
                OpCost(
                    _kind(packet, args),
                    0 if count is None else int(count(*args, **kwargs, out_val=out)),
                    sum(tensor.numel() for tensor in inputs),
                    written,
                    len(inputs),
                )
            )
        return out


def _tensors(values: Any) -> Iterator[Tensor]:  # noqa: ANN401 - whatever an operation takes or gives
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _kind(packet: Any, args: Any) -> str:  # noqa: ANN401 - as torch calls it
    if packet is not _ATEN.convolution:
        return _KINDS.get(packet, "other")
    kernel = args[1].shape[-1]
    return f"convolution {kernel}x{kernel}"


def without_data(spec: NetworkSpec) -> tuple[nn.Module, FakeTensorMode]:
    """The network, its weights without values, in evaluation mode; and the mode under which its inputs are made."""
    # not the meta device: OCR asks autocast for the device of its features, and autocast knows none of that name
    mode = FakeTensorMode()
    with mode:
        return build_network(spec).eval(), mode


def forward_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[float, tuple[int, int], bool]]:
    """The forward passes that fusion needs: scale, (height, width), and whether attention is wanted there."""
    ordered = check_scales(scales)
    return [(scale, size_at_scale(size, scale), scale != ordered[0]) for scale in ordered]


def forward_flops(spec: NetworkSpec, size: tuple[int, int], scales: Sequence[float]) -> int:
    """Operations of all forward passes of one image, as torch's own counter counts them."""
    network, mode = without_data(spec)
    with torch.no_grad(), mode, FlopCounterMode(display=False) as counter:
        for _, scaled, attend in forward_sizes(size, scales):
            network(torch.empty(1, 3, *scaled), attend=attend)
    return int(counter.get_total_flops())


def forward_ops(spec: NetworkSpec, size: tuple[int, int], *, attend: bool) -> list[OpCost]:
    """The operations of one forward pass of one image, one by one."""
    network, mode = without_data(spec)
    # not in inference mode, where some operations would come as one that are several
    counted = CostMode()
    with torch.no_grad(), mode, counted:
        network(torch.empty(1, 3, *size), attend=attend)
    return counted.ops
