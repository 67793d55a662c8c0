"""What `calibrate` does: on what, with which teacher, and what the thresholds are chosen for."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from pipeline.decision_way import DecisionWay
from pipeline.provenance import DECISION_RULE, decisive_scales
from pipeline.settings import Scales
from pipeline.threshold_choice import ChoiceRule
from storage.layouts import Layout
from storage.schema import Ids
from storage.soft_store import DEFAULT_STEPS, MAX_STEPS, level_of
from teacher import Teacher
from teacher.fusion import scales_of
from teacher.networks.prediction import Fusion
from teacher.precision import Precision


class CalibrateSettings(ChoiceRule):
    """The settings of a calibration: those of the choice, and those that decide what is counted."""

    teacher: str
    """A network's name, or the path of a checkpoint."""
    weights: Path | None = None
    """Weights, where the teacher is a name."""
    images: Path
    """Held-out images, which the teacher was not trained on."""
    truth: Path
    """Folder of their fine labels."""
    classes: str | None = None
    """A class schema's name or file; the teacher's own where it has one."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the truth's values are."""
    scales: Scales = (0.5, 1.0, 2.0)
    fusion: Fusion | None = None
    """How the scales are fused; None: as the network was trained for."""
    flip: bool = False
    precision: Precision = "fp32"
    device: str = "auto"
    compiled: bool = False
    """Have torch compile the network."""
    keep_steps: int = Field(DEFAULT_STEPS, ge=1, le=MAX_STEPS)
    """Thresholds are multiples of 1 / keep_steps, as in `label --keep`."""
    block: int | None = Field(None, ge=1)
    """Neighbouring images, in the order of their keys, that count as one independent unit; None: the square root of
    their number, rounded down, as in Flegal and Jones, Annals of Statistics 38, 2010, p. 1034 (batch means)."""
    fit_temperature: bool = False
    """Fit a temperature first, by which the logits are divided then: twice the time."""
    allow_training_images: bool = False
    """Count also images that the teacher was trained on."""
    out: Path
    """The calibration's file."""

    @model_validator(mode="after")
    def _default_on_grid(self) -> Self:
        level_of(self.default_threshold, self.keep_steps)
        return self

    @property
    def rule(self) -> ChoiceRule:
        """How the thresholds are chosen from the counts."""
        return ChoiceRule(**self.model_dump(include=set(ChoiceRule.model_fields)))

    def way(self, teacher: Teacher, temperature: float) -> DecisionWay:
        """How the teacher decides: the confidence of every pixel's class is kept, however low it is."""
        fusion = teacher.fusion(self.fusion)
        scales = scales_of(fusion, self.scales)[::-1]
        return DecisionWay(scales, fusion, self.flip, (0.0,), "confidence", self.keep_steps, temperature)

    def decisive(self, teacher: Teacher) -> dict[str, Any]:
        """What decides the class and the confidence of each pixel, as plain values: no paths, no device."""
        return {
            "teacher": teacher.digest,
            "network": teacher.name,
            "classes": list(teacher.schema.names),
            **decisive_scales(teacher, self.scales, self.fusion),
            "flip": self.flip,
            "precision": self.precision,
            "temperature": 1.0,  # until one is fitted
            "decision_rule": DECISION_RULE,
        }
