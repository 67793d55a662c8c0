"""Pixels that are most likely of no class of the schema, as a teacher with more classes of its own may find.

Such a teacher has one logit more, of all that is no class. What it takes of the probability is thereby not given to the
classes, so that their confidence is what the teacher says.
"""

import torch
from torch import Tensor

from storage.schema import IGNORE
from storage.soft_store import NO_CONFIDENCE
from teacher.decision import TopClasses
from teacher.joint_decision import JointDecision


def without_others(made: JointDecision, classes: int) -> JointDecision:
    """Let pixels that are of no class be ignored, and be without confidence where it is kept.

    Args:
        made: decided over the classes of the schema and, as the last, all that is none; changed in place.
        classes: of the schema.
    """
    made.labels.masked_fill_(made.labels == classes, IGNORE)
    if made.soft is not None:
        kept, code = made.soft[:, 0], made.soft[:, 1]
        none = kept == classes
        code.masked_fill_(none, NO_CONFIDENCE)
        kept.masked_fill_(none, 0)
        if made.soft.shape[1] > 2:
            second = made.soft[:, 2]
            second.copy_(_else_first(second, kept, classes))
    return made


def top_without_others(top: TopClasses, classes: int) -> TopClasses:
    """As `without_others`, for what `teacher.decision.find_top` found: such pixels are of class 0, without confidence.

    Args:
        top: the most likely of the classes of the schema and, as the last, all that is none.
        classes: of the schema.
    """
    none = top.classes == classes
    kept = top.classes.masked_fill(none, 0)
    second = None if top.runner_up is None else _else_first(top.runner_up, kept, classes)
    return TopClasses(kept, top.confidence.masked_fill(none, 0.0), second)


def _else_first(second: Tensor, first: Tensor, classes: int) -> Tensor:
    """The runner-up where it is a class, else the first, as where there is but one class."""
    return torch.where(second == classes, first, second)
