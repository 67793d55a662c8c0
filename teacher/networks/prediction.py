"""What a network says about one image at one scale, and what counts as a network.

Nothing here computes.
"""

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Fusion = Literal["hierarchical", "explicit", "average", "single"]
"""How a network's predictions at several scales become one, for which it is trained: by an attention between a scale
and the larger ones, whichever they are; by one over the very scales that it was trained at, which then is part of the
network; as their mean; or not at all, the image being predicted at its own scale alone."""


class ScalePrediction(NamedTuple):
    """A network's output for a batch of images at one scale.

    Networks return it at their own stride; `teacher.fusion.predict_at_scale` brings it to the size of the scaled image.
    """

    logits: Tensor
    """Scores, (batch, class, height, width), float."""
    attention: Tensor | None
    """How far this scale is to be trusted against the next finer one, (batch, 1, height, width) in [0, 1]; of a network
    that fuses its scales by itself, how much each of them counts, (batch, scale, height, width), smallest first, in sum
    1. None where nobody asked, or the network has no attention."""
    auxiliary: Tensor | None
    """Scores of the auxiliary classifier, as `logits`; None where the network has none, or where nobody asked."""


class Network(Protocol):
    """Anything that predicts from a batch of normalised images: a module, or a function around one."""

    def __call__(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        """Predict.

        Args:
            images: normalised RGB, (batch, 3, height, width), float.
            attend: whether the attention is wanted; the largest scale's never is.

        Returns:
            The prediction, its tensors (batch, ..., h, w) at the network's stride.
        """
        ...
