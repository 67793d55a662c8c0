"""Small tensors that a computation needs beside its large ones: thresholds, grids, weights of an interpolation.

From a list or an array they are on the host first, and `Tensor.to` has the host wait until the device has done all
that it was given before. Here nothing waits.
"""

from functools import lru_cache
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor


def table(values: npt.NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Values on a device, for work on its current stream.

    CUDA takes values from memory that is not pinned into a buffer of its own before the call returns, so that they may
    change or go at once; but it does not wait for its turn on the stream.

    Args:
        values: of any shape; on the CPU, and in their own dtype, they are shared.
        device: where they are needed.
        dtype: of the tensor; None: as the values'.
    """
    tensor = torch.from_numpy(values)
    return tensor.to(device, tensor.dtype if dtype is None else dtype, non_blocking=True)


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values on a device, made once; not to be changed.

    Not for what is run on tensors without content, nor for what a CUDA graph records: either would be kept for others.

    Args:
        values: given as a tuple, by which they are known again.
        device: where they are needed.
        dtype: of the tensor.

    Returns:
        (value,).
    """
    # whoever asks first may be in inference mode, and the next one may train: a tensor of that mode is of no use there
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=dtype).to(device)
