"""Scores and labels like a teacher's, for the benchmarks.

A generated scene's true labels are taken as scores at stride 4, blurred, disturbed at two scales and enlarged
bilinearly: boundaries are as smooth as a network's, and `noise` sets how much becomes ignore.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pipeline.scenes import generate_scene
from teacher.decision import decide

CLASSES = 19

Values = npt.NDArray[np.uint8]


def stride_4_scores(index: int, size: tuple[int, int], noise: float) -> torch.Tensor:
    """Logits as a teacher's network gives them: (1, class, height / 4, width / 4) float32."""
    height, width = size
    low = (height // 4, width // 4)
    scene = torch.from_numpy(generate_scene(0, index, low).fine.astype(np.int64))
    scores = functional.one_hot(scene, CLASSES).permute(2, 0, 1)[None].float()
    scores = 7 * functional.avg_pool2d(scores, 7, stride=1, padding=3, count_include_pad=False)
    generator = torch.Generator().manual_seed(index)
    for cell in (3, 12):
        small = torch.randn(1, CLASSES, -(-low[0] // cell), -(-low[1] // cell), generator=generator)
        scores += noise * functional.interpolate(small, size=low, mode="bilinear")
    return scores


def teacher_scores(index: int, size: tuple[int, int], noise: float) -> torch.Tensor:
    """Logits as a teacher would give them: (1, class, height, width) float32."""
    return functional.interpolate(stride_4_scores(index, size, noise), size=size, mode="bilinear")


def teacher_like(index: int, size: tuple[int, int], noise: float, threshold: float = 0.5) -> Values:
    """A label map as a teacher would make it: (height, width) uint8."""
    labels: Values = decide(teacher_scores(index, size, noise), threshold)[0][0].numpy()
    return labels
