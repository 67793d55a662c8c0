"""What predicts for a teacher: a network of ours, one of another library, or several together.

Nothing here computes.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from teacher.late_fusion import View
from teacher.networks.prediction import Fusion, Network


class Predictor(Protocol):
    """From a batch of images to predictions at several scales, on one device.

    Not for several threads at a time.
    """

    @property
    def name(self) -> str:
        """What predicts, for people."""

    @property
    def device(self) -> torch.device:
        """Where it does."""

    @property
    def fusion(self) -> Fusion:
        """How its predictions at several scales are fused where nobody asks for anything else."""

    @property
    def attention_scales(self) -> tuple[float, ...]:
        """Ratios to the image that an explicit attention is over; none for the others."""

    @property
    def tells_scales(self) -> bool:
        """Whether it gives the prediction of each scale, and not one that is fused already."""

    @property
    def has_others(self) -> bool:
        """Whether its last logit is of all that is no class of the schema."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up; labels are the same."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the device."""

    @property
    def planned(self) -> Network | None:
        """What predicts, operation by operation, to be run on tensors without content; None: it cannot be."""

    @property
    def can_tile(self) -> bool:
        """Whether it predicts in tiles."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be told to whoever uses its labels, such as classes that it never predicts."""

    def facts(self) -> dict[str, str]:
        """What a reader wants to know of it, by short names."""

    def predict(
        self, images: Tensor, scales: Sequence[float], fusion: Fusion, *, flip: bool = False, tile: int | None = None
    ) -> list[View]:
        """Predict.

        Args:
            images: RGB, (batch, height, width, 3), uint8, on the device.
            scales: ratios to the images, 1.0 among them.
            fusion: what is to become of the predictions.
            flip: predict the mirrored images too.
            tile: side of the tiles in which larger images are predicted, in pixels; None: images are predicted whole.

        Returns:
            The predictions at the scales, from the largest to the smallest; with flip also those of the mirrored
            images, mirrored back.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0; or it has no attention for them; or it
                does not predict in tiles of this side.
            ImageError: too small for the lowest scale, or of no size that it takes.
        """

    def release(self) -> None:
        """Let go of what is kept on the device from image to image."""
