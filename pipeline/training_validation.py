"""Validation during and after training: the processes share out the images and add up what they count.

What is counted, and what the scores mean, is in `evaluation`.
"""

from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor

from pipeline.evaluation import evaluate_network
from pipeline.scores import Scores, compute_scores
from pipeline.training_settings import TrainSettings
from teacher import Teacher


def validate_together(
    teacher: Teacher, settings: TrainSettings, fabric: Fabric
) -> Iterator[tuple[int, int, Scores | None]]:
    """Judge a network on the validation images; every process must take part, each judges its share.

    Args:
        teacher: the network, on this process's device.
        settings: where the images are, and the scales.
        fabric: the other processes.

    Yields:
        Images done by this process, and of how many; the last time with the scores over all images.

    Raises:
        LayoutError, ImageError, LabelError: an image or a label to validate on cannot be used.
    """
    assert settings.val_images is not None, "asked before"
    assert settings.val_labels is not None, "images and labels come together"
    classes = len(teacher.schema)
    counts, done, total = torch.zeros(classes, classes + 1, dtype=torch.int64), 0, 0
    for progress in evaluate_network(
        teacher,
        settings.val_images,
        settings.val_labels,
        settings.scales,
        settings.layout,
        settings.ids,
        part=(fabric.global_rank, fabric.world_size),
    ):
        counts, done, total = torch.from_numpy(progress.counts), progress.done, progress.total
        yield done, total, None
    own = torch.cat([counts.flatten(), torch.tensor([done])])
    summed = fabric.all_reduce(own.to(fabric.device), reduce_op="sum")
    assert isinstance(summed, Tensor), "a tensor was given"
    values = summed.cpu().numpy()
    yield done, total, compute_scores(values[:-1].reshape(counts.shape), teacher.schema, int(values[-1]))
