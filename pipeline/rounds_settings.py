"""The settings of rounds of self-training, and of the stages that each round goes through.

What the rounds are is in `rounds`.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.merging import MergeSettings
from pipeline.settings import LabelSettings, Scales
from pipeline.training_settings import TrainingRecipe, TrainSettings
from storage.layouts import Layout
from storage.schema import Ids


class RoundsSettings(TrainingRecipe):
    """What `rounds` does: the recipe of the teacher and of every student, and what they learn from."""

    fine_images: Path
    """Folder of images with fine labels."""
    fine_labels: Path
    """Their labels; every image must have one."""
    extra_images: Path
    """Images that are labelled again in every round."""
    coarse_labels: Path | None = None
    """Human labels of the extra images; they stay, and a round's labels fill what they leave blank."""
    val_images: Path
    val_labels: Path
    """What decides when to stop and which round is best."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of the label folders are; None: class indices, or what a Cityscapes file's name says."""
    teacher: Path | None = None
    """Checkpoint of the first teacher; None: it is trained on the fine labels."""
    rounds: int = Field(2, ge=1, le=100)
    """At most."""
    threshold: float = Field(0.5, ge=0, lt=1)
    """A label is kept where confidence > threshold."""
    scales: Scales = (0.5, 1.0, 2.0)
    """Scales at which images are labelled and networks are evaluated."""
    device: str = "auto"
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that read and augment; None: as `train` decides."""
    out: Path
    """Folder of all rounds."""

    def training(self, out: Path, auto_labels: Path | None) -> TrainSettings:
        """The settings of the first teacher, or of a round's student."""
        # human labels have gone into the auto labels that are trained on
        shared = {name: getattr(self, name) for name in type(self).model_fields.keys() & TrainSettings.model_fields}
        del shared["coarse_labels"]
        auto = {} if auto_labels is None else {"auto_images": self.extra_images, "auto_labels": auto_labels}
        return TrainSettings.checked(**{**shared, **auto, "out": out})

    def labelling(self, out: Path, teacher: Path) -> LabelSettings:
        """The settings of a round's labels."""
        return LabelSettings.checked(
            images=self.extra_images,
            teacher=str(teacher),
            classes=self.classes,
            layout=self.layout,
            scales=self.scales,
            threshold=self.threshold,
            device=self.device,
            precision=self.precision,
            out=out,
        )

    def merging(self, out: Path, auto_labels: Path) -> MergeSettings | None:
        """The settings by which a round's labels fill the human ones; None where there are none."""
        if self.coarse_labels is None:
            return None
        return MergeSettings.checked(
            coarse=self.coarse_labels,
            auto=auto_labels,
            policy="fill",
            classes=self.classes,
            layout=self.layout,
            ids=self.ids,
            out=out,
        )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what a round gives; what lies behind the paths is the stages' to compare."""
        return self.training(self.out, None).decisive() | {
            "threshold": self.threshold,
            "scales": list(self.scales),
            "coarse_labels": self.coarse_labels is not None,
            "teacher": self.teacher is not None,
        }
