"""In which arithmetic a network is run that is not ours: the precision, and the same results each time."""

import contextlib
from collections.abc import Iterator

import torch

from teacher.execution import exact
from teacher.precision import HALVES, Precision


@contextlib.contextmanager
def in_precision(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run what is within for inference: convolutions and products in the precision, by autocast; else in float32.

    Args:
        device: on which it is run.
        precision: fp32, bf16 or fp16.
    """
    half = HALVES.get(precision)
    autocast = torch.autocast(device.type, half, enabled=half is not None, cache_enabled=False)
    with torch.inference_mode(), exact(device), autocast:
        yield
