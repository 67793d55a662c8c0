"""What counts as a network of another library, and what is said about it that its file does not say.

Nothing here computes or reads.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from teacher.precision import Precision

Colours = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a foreign model is opened; what is None is as its own file says, or as is usual."""

    device: torch.device
    precision: Precision = "fp32"
    """Of the network alone."""
    labels: tuple[str, ...] | None = None
    """Names of its outputs, in their order."""
    mean: Colours | None = None
    """Subtracted from red, green, blue in [0, 1]; where nobody says, that of ImageNet."""
    std: Colours | None = None
    """What the difference is divided by; where nobody says, that of ImageNet."""
    native: bool = False
    """Leave the images at their own size where the model's processor would bring them to one of its own."""


class ForeignModel(Protocol):
    """A network of another library, ready to predict.

    Not for several threads at a time.
    """

    @property
    def name(self) -> str:
        """What it is, for people: the architecture, or the kind of the file."""

    @property
    def digest(self) -> str:
        """Hash of all that decides what it predicts, weights and processing included; hexadecimal sha256."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of its outputs, in their order; None: neither the file nor the settings say."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights on the device, as far as is known."""

    def facts(self) -> dict[str, str]:
        """What a reader wants to know of it, by short names: normalisation, input sizes, licence, source, revision."""

    def __call__(self, images: Tensor, scale: float, /) -> Tensor:
        """Predict.

        Args:
            images: RGB in [0, 1], (batch, 3, height, width), float32, on the device; already at the scale.
            scale: ratio of their size to that of the images they come from. Only of use to a model whose processor
                brings images to a size of its own, which it has to multiply by.

        Returns:
            Logits (batch, label, h, w), float32, on the device; h and w are the model's own, and cover the whole image.
            Their softmax over the labels are the model's probabilities.

        Raises:
            ImageError: an image is too small, or the model takes images of other sizes only; the message says which.
            CheckpointError: the model does not give what its file promises.
            SettingsError: it takes images of one size, and another scale is asked for.
            RuntimeError, MemoryError: the device, or the machine, has no memory for it.
        """
