"""The settings of a run of all stages, one table a stage, and what each stage's own settings are made of them.

What the stages do is in `stages`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.merge import NO_BORDER, Policy
from pipeline.merging import MergeSettings, Width
from pipeline.settings import LabellingRecipe, LabelSettings, Scales, Settings
from pipeline.training_settings import TrainingRecipe, TrainSettings
from storage.errors import SettingsError
from storage.layouts import Layout
from storage.schema import Ids, load_schema
from storage.workspace import write_atomically

FOLDERS = {"teacher": "teacher", "label": "auto", "merge": "merged", "student": "student"}
"""By stage, in their order: the folder of what it makes, in the run's."""

_OF_A_GIVEN_TEACHER = ("checkpoint", "scales")


class TrainingStage(TrainingRecipe):
    """A network that is trained: its recipe."""

    scales: Scales | None = None
    """Scales at which it is evaluated; None: those of [evaluate]."""


class TeacherStage(TrainingStage):
    """The teacher: trained by a recipe, or given."""

    checkpoint: Path | None = None
    """Of a teacher that is there; None: one is trained on the fine labels."""

    @model_validator(mode="before")
    @classmethod
    def _trained_or_given(cls, values: Any) -> Any:  # noqa: ANN401 - not validated yet
        if isinstance(values, Mapping) and values.get("checkpoint") is not None:
            unused = sorted(values.keys() - set(_OF_A_GIVEN_TEACHER))
            if unused:
                raise ValueError(
                    f"a checkpoint is given, so no teacher is trained; leave out {', '.join(unused)}, or the checkpoint"
                )
        return values

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return values if self.checkpoint is None else {k: values[k] for k in _OF_A_GIVEN_TEACHER if k in values}


class LabelStage(LabellingRecipe):
    """How the extra images are labelled."""

    thresholds: Path | None = None
    """A calibration of the teacher that is given."""


class MergeStage(Settings):
    """How automatic labels are merged with the human ones; as in MergeSettings."""

    policy: Policy = "fill"
    union_classes: tuple[str, ...] = ()
    border_ignore: tuple[Width, Width, Width, Width] = NO_BORDER


class EvaluateStage(Settings):
    """How teacher and student are evaluated."""

    scales: Scales = (0.5, 1.0, 2.0)
    allow_training_images: bool = False
    """Evaluate also on images that were trained on."""


class RunSettings(Settings):
    """What `run` does: its data, the table [run], and a table for each stage."""

    out: Path
    """Folder of all stages."""
    fine_images: Path
    """Folder of images with fine labels."""
    fine_labels: Path
    """Their labels; every image must have one."""
    extra_images: Path
    """Images that the teacher labels and the student learns from."""
    coarse_labels: Path | None = None
    """Human labels of the extra images; for [merge]."""
    val_images: Path
    val_labels: Path
    """What teacher and student are evaluated on."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of the label folders are; None: class indices, or what a Cityscapes file's name says."""
    device: str = "auto"
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that read and augment; None: as `train` decides."""
    teacher: TeacherStage = TeacherStage()
    label: LabelStage = LabelStage()
    merge: MergeStage | None = None
    """None: the student learns from the teacher's labels as they are."""
    student: TrainingStage = TrainingStage()
    evaluate: EvaluateStage = EvaluateStage()

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> Self:
        """The settings of a file's tables: [run], and one for each stage.

        Raises:
            SettingsError: a value is missing, unknown or out of range.
        """
        stages = {name: table for name, table in tables.items() if name != "run"}
        return cls.checked(**tables.get("run", {}), **stages)

    def write(self, path: Path, table: str) -> None:
        """Write the settings as a file of tables: [`table`] with the data, and one for each stage.

        Raises:
            WorkspaceError: the file cannot be written.
        """
        values = self.model_dump(mode="json", exclude_none=True)
        stages = {name: value for name, value in values.items() if isinstance(value, dict)}
        data = {name: value for name, value in values.items() if name not in stages}
        write_atomically(path, tomli_w.dumps({table: data} | stages).encode())

    def folder(self, stage: str) -> Path:
        """Where a stage's outputs are."""
        return self.out / FOLDERS[stage]

    def check(self) -> None:
        """Refuse at once what a stage would refuse only when its turn comes, perhaps after days.

        Raises:
            SettingsError: a class is named that is none, or human labels and [merge] do not come together.
            SchemaError, MissingFileError: there is no such class schema, or it is malformed.
        """
        if (self.merge is None) != (self.coarse_labels is None):
            raise SettingsError(
                "coarse_labels of [run] is given, but no [merge] to merge them; add the table, or leave them out"
                if self.merge is None
                else "[merge] is there, but no coarse_labels of [run] to merge; give them, or leave out the table"
            )
        if self.label.thresholds is not None and self.teacher.checkpoint is None:
            raise SettingsError(
                f"thresholds of [label] is the calibration {self.label.thresholds}, of a teacher that is not trained "
                f"yet; leave it out, or give that teacher's checkpoint in [teacher]"
            )
        schema = load_schema(self.classes)
        for table, names in (
            ("teacher", self.teacher.boost_classes),
            ("label", self.label.class_thresholds),
            ("merge", self.merge and self.merge.union_classes),
            ("student", self.student.boost_classes),
        ):
            if unknown := [name for name in names or () if name not in schema.names]:
                raise SettingsError(
                    f"[{table}] names {', '.join(unknown)}, no class of {schema.name!r}; known are "
                    f"{', '.join(schema.names)}"
                )

    def decisive(self) -> dict[str, dict[str, Any]]:
        """By stage, the settings that decide what it gives; what lies behind the paths is the stages' to compare."""
        given = self.teacher.checkpoint is not None
        return {
            "teacher": {"checkpoint": "given"} if given else self.training("teacher").decisive(),
            "label": self.label.decisive() | ({} if self.label.thresholds is None else {"thresholds": "calibrated"}),
            "merge": {} if self.merge is None else self.merge.model_dump(mode="json"),
            "student": self.training("student").decisive(),
        }

    def training(self, stage: str, auto_labels: Path | None = None) -> TrainSettings:
        """The settings of the teacher's training, or of the student's.

        Args:
            stage: "teacher" or "student".
            auto_labels: labels of the extra images to learn from, beside the fine ones.
        """
        recipe = self.teacher if stage == "teacher" else self.student
        return TrainSettings.checked(
            **{name: getattr(recipe, name) for name in TrainingRecipe.model_fields},
            **self._shared("fine_images", "fine_labels", "val_images", "val_labels", "ids", "workers"),
            auto_images=None if auto_labels is None else self.extra_images,
            auto_labels=auto_labels,
            allow_training_images=self.evaluate.allow_training_images,
            scales=self.scales_of(recipe),
            out=self.folder(stage),
        )

    def scales_of(self, network: TrainingStage) -> tuple[float, ...]:
        """Scales at which a network is evaluated."""
        return network.scales or self.evaluate.scales

    def labelling(self, teacher: Path) -> LabelSettings:
        """The settings of the teacher's labels."""
        return LabelSettings.checked(
            **self._shared(),
            **dict(self.label),
            images=self.extra_images,
            teacher=str(teacher),
            out=self.folder("label"),
        )

    def merging(self) -> MergeSettings | None:
        """The settings by which they are merged with the human ones; None where they are not."""
        if self.merge is None:
            return None
        shared = self._shared("ids")
        del shared["device"]
        return MergeSettings.checked(
            **shared, **dict(self.merge), coarse=self.coarse_labels, auto=self.folder("label"), out=self.folder("merge")
        )

    def _shared(self, *more: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("classes", "layout", "device", *more)}
