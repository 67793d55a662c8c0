"""What `fit-attention` does: with which teacher, on what, and how the head is trained."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.settings import Scales, Settings
from storage.layouts import Layout
from storage.schema import Ids
from teacher import Teacher
from teacher.foreign.scale_head import DEFAULT_CHANNELS, MAX_CHANNELS
from teacher.precision import Precision


class FitAttentionSettings(Settings):
    """The settings of a head's training."""

    teacher: str
    """What `label --teacher` takes."""
    weights: Path | None = None
    """Weights, where the teacher is a name."""
    images: Path
    labels: Path
    """Folder of their fine labels."""
    val_images: Path | None = None
    """Images to judge the head on; without them a fifth of `images` is held out."""
    val_labels: Path | None = None
    classes: str | None = None
    """A class schema's name or file; the teacher's own where it has one."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the labels' values are."""
    scales: Scales = (0.5, 1.0, 2.0)
    precision: Precision = "fp32"
    device: str = "auto"
    max_images: int | None = Field(None, ge=2)
    """Take so many of the images, drawn by the seed; None: all."""
    steps: int = Field(300, ge=1)
    batch: int = Field(4, ge=1, le=1024)
    """Crops a step."""
    crop: int = Field(512, ge=32, le=8192)
    """Longest side of a crop, in pixels of the image."""
    learning_rate: float = Field(1e-2, gt=0, allow_inf_nan=False)
    channels: int = Field(DEFAULT_CHANNELS, ge=1, le=MAX_CHANNELS)
    """Of the head, in between."""
    seed: int = Field(0, ge=0)
    keep_logits: bool = False
    """Leave the teacher's logits in OUT when the head is fitted."""
    allow_training_images: bool = False
    """Judge also on images that the teacher was trained on."""
    out: Path
    """Folder of the result."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if len(self.scales) < 2:
            raise ValueError(
                f"scales: only {self.scales[0]:g} was given, and an attention is between scales: give two or more, "
                f"such as 0.5,1,2"
            )
        if (self.val_images is None) != (self.val_labels is None):
            raise ValueError("val_images and val_labels go together: give both or neither")
        return self

    def predicted(self, teacher: Teacher) -> dict[str, Any]:
        """What decides the teacher's logits, as plain values: no paths, no device."""
        return {
            "teacher": teacher.digest,
            "network": teacher.name,
            "classes": list(teacher.schema.names),
            "classes_digest": teacher.schema.digest,
            "scales": list(self.scales),
            "precision": self.precision,
            "ids": self.ids,
        }

    def decisive(self) -> dict[str, Any]:
        """What an interrupted fit has to be gone on with."""
        return {"scales": self.scales, "precision": self.precision, "ids": self.ids} | self.fitted()

    def fitted(self) -> dict[str, Any]:
        """What decides the head beside the logits."""
        return self.model_dump(include={"steps", "batch", "crop", "learning_rate", "channels", "seed", "max_images"})
