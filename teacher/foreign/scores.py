"""Which of what a network gives are the scores: networks of other libraries give one tensor, or several by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from storage.errors import CheckpointError

NAMES = ("logits", "out")
"""Of the scores among several outputs, as transformers and torchvision call them."""


def scores_of(made: Any, where: str) -> Tensor:  # noqa: ANN401 - whatever a network gives
    """Find the scores.

    Args:
        made: what a network gave: a tensor; a table of them, with "logits" or "out" or else the first of four axes; an
            object with `logits`; or several, of which it is the first of four axes.
        where: the network, for messages.

    Raises:
        CheckpointError: there is no tensor in it.
    """
    if isinstance(made, Tensor):
        return made
    candidates: list[Any] = [getattr(made, "logits", None)]
    if isinstance(made, Mapping):
        candidates = [*(made[name] for name in NAMES if name in made), *made.values()]
    elif isinstance(made, Sequence):
        candidates = list(made)
    tensors = [each for each in candidates if isinstance(each, Tensor)]
    if not tensors:
        raise CheckpointError(
            f"{where} gives {type(made).__name__}, expected a tensor of scores, (batch, labels, height, width), or a "
            f"table with one under {' or '.join(map(repr, NAMES))}"
        )
    return next((each for each in tensors if each.ndim == 4), tensors[0])
