"""The precisions that a network is run in."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
"""Of the network alone; what comes before and after it is always float32."""

HALVES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, **HALVES}
