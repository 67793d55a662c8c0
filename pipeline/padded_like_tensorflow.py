"""Convolutions that are padded as TensorFlow pads, for export: their padding depends on the size that comes.

With a stride of 2 it is more at the end than at the start where the size is even. ONNX has a word for that, SAME_UPPER,
which saves an exporter the arithmetic; with sizes left open that arithmetic is more than it gets through.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from storage.errors import SettingsError


@contextlib.contextmanager
def evenly_padded(network: nn.Module) -> Iterator[list[str]]:
    """Have the convolutions of a network padded evenly for a while.

    Sizes of their outputs are the same so, whatever comes; values at the border are not where the stride is not 1.

    Args:
        network: is put back afterwards.

    Yields:
        Names of the weights of those whose values differ: in the file they are to be padded as SAME_UPPER.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    names: list[str] = []
    for name, module in list(network.named_modules()):
        if type(module).__name__ != "Conv2dSame" or not isinstance(module, nn.Conv2d) or not _is_like_even(module):
            continue
        parent_name, _, own_name = name.rpartition(".")
        parent = network.get_submodule(parent_name)
        swapped.append((parent, own_name, module))
        if max(module.stride) > 1:
            names.append(f"{name}.weight")
    try:
        for parent, own_name, module in swapped:
            assert isinstance(module, nn.Conv2d), "as was asked"
            setattr(parent, own_name, _even(module))
        yield names
    finally:
        for parent, own_name, module in swapped:
            setattr(parent, own_name, module)


def _is_like_even(module: nn.Conv2d) -> bool:
    """Whether even padding gives outputs of the same size: kernels are odd, and nothing is both strided and dilated."""
    odd = all(side % 2 for side in module.kernel_size)
    return odd and (max(module.stride) == 1 or max(module.dilation) == 1)


def _even(module: nn.Conv2d) -> nn.Conv2d:
    rows, columns = ((side - 1) * step // 2 for side, step in zip(module.kernel_size, module.dilation, strict=True))
    made = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        (module.kernel_size[0], module.kernel_size[1]),
        (module.stride[0], module.stride[1]),
        (rows, columns),
        (module.dilation[0], module.dilation[1]),
        module.groups,
        bias=module.bias is not None,
        device="meta",
    )
    made.weight, made.bias = module.weight, module.bias
    return made.train(module.training)


def pad_same_upper(model: Any, weights: list[str]) -> None:  # noqa: ANN401 - the library is optional
    """Say of convolutions in an ONNX model that they are padded as TensorFlow pads.

    Args:
        model: that is changed.
        weights: by whose names they are known.

    Raises:
        SettingsError: the exporter has called them otherwise.
    """
    wanted = set(weights)
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] not in wanted:
            continue
        wanted.remove(node.input[1])
        kept = [attribute for attribute in node.attribute if attribute.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend(kept)
        entry = node.attribute.add()
        entry.name, entry.type, entry.s = "auto_pad", entry.STRING, b"SAME_UPPER"
    if wanted:
        raise SettingsError(f"the exporter has renamed {len(wanted)} weights, as {min(wanted)}: name a --size")
