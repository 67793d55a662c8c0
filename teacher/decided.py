"""What a teacher makes of an image, which may still be on its way from the device."""

from dataclasses import dataclass

from teacher.transfer import Download, Image


@dataclass(frozen=True, slots=True)
class Decision:
    """What is made of one image of a batch; on CUDA it may still have to be computed, and who reads it waits.

    Any thread may read it, and gets RuntimeError where the device has failed in the meantime.
    """

    labels: Download
    """Of the whole batch."""
    kept: Download | None
    """As `labels`, what is kept beside them."""
    weights: Download | None
    """As `labels`, how much each scale counted."""
    index: int
    """Of the image in the batch."""
    finite: bool
    """Whether all that was predicted of it are numbers; a pixel is ignored where they are not."""

    @property
    def label(self) -> Image:
        """(height, width) uint8: a class index, or 255 where the confidence is too low."""
        label: Image = self.labels.wait()[self.index]
        return label

    @property
    def soft(self) -> Image | None:
        """(plane, height, width) uint8: class, confidence code and, with top2, runner-up; None: nothing is kept."""
        return None if self.kept is None else self.kept.wait()[self.index]

    @property
    def attention(self) -> Image | None:
        """Each scale's weight, (scale, height, width) uint8, smallest scale first, 255 in all; None: nobody asked."""
        return None if self.weights is None else self.weights.wait()[self.index]
