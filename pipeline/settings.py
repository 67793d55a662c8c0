"""Settings: frozen, validated, written as TOML beside what they made, and digested where they decide pixels.

A settings object is passed as an argument; there are no globals. Parsing flags is the command line's work.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, cast

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails

from pipeline.gate_condition import GateTexts
from storage.errors import SettingsError, WorkspaceError
from storage.label_png import LabelFormat, Preset
from storage.layouts import Layout
from storage.object_io import read_file
from storage.paths import as_path, is_remote, lies_in, path_text
from storage.schema import ClassSchema, Ids
from storage.shard import Shard
from storage.soft_store import DEFAULT_STEPS, MAX_STEPS, Keep
from storage.workspace import write_atomically
from teacher.fusion import check_scales
from teacher.networks.prediction import Fusion
from teacher.precision import Precision


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def checked(cls, **values: Any) -> Self:  # noqa: ANN401 - validated here
        """Build and validate.

        Raises:
            SettingsError: a value is missing, unknown or out of range; the message names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_problem, error.errors()))) from error

    def write(self, path: Path, table: str) -> None:
        """Write the settings as one TOML table, in the form that `--settings` reads.

        Raises:
            WorkspaceError: the file cannot be written.
        """
        write_atomically(path, self.to_toml(table))

    def to_toml(self, table: str) -> bytes:
        """The settings as one TOML table, in the form that `--settings` reads."""
        return tomli_w.dumps({table: self.model_dump(mode="json", exclude_none=True)}).encode()


def _problem(found: ErrorDetails) -> str:
    """What is wrong with a value, and which it is; of our own checks of several values together, what they say."""
    said = found["msg"].removeprefix("Value error, ")
    if said.startswith("Input should") and isinstance(found["input"], str | int | float):
        said += f", got {found['input']}"
    return f"{'.'.join(map(str, found['loc']))}: {said}" if found["loc"] else said


def settings_digest(decisive: Mapping[str, object]) -> str:
    """Hash of the settings that decide a result: sha256, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def settings_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """The settings that differ, one a line, readable; empty when none does."""
    names = sorted({*before, *now})
    return "\n".join(
        f"  {name}: {before.get(name, '(none)')} -> {now.get(name, '(none)')}"
        for name in names
        if before.get(name) != now.get(name)
    )


def _ascending(scales: tuple[float, ...]) -> tuple[float, ...]:
    return check_scales(scales)[::-1]


Threshold = Annotated[float, Field(ge=0, lt=1)]
"""Of confidence, a probability."""

Scales = Annotated[tuple[float, ...], AfterValidator(_ascending)]
"""Ratios to the input image, ascending; 1.0 is among them."""


def _as_shard(value: object) -> object:
    return Shard.parse(value) if isinstance(value, str) else value


ShardText = Annotated[Shard, BeforeValidator(_as_shard), PlainSerializer(str)]
"""A shard, which stands in settings files as I/N."""


def _as_place(value: object, check: ValidatorFunctionWrapHandler) -> Path:
    path = as_path(value) if isinstance(value, str) else value
    if isinstance(path, str | Path) or not hasattr(path, "fs"):
        return cast(Path, check(path))
    return cast(Path, path)


Place = Annotated[Path, WrapValidator(_as_place), PlainSerializer(path_text, return_type=str, when_used="json")]
"""A folder, or a URL of a place in a store, which stands in settings files as it was given."""


class LabellingRecipe(Settings):
    """How images are labelled; not which, and not by what teacher.

    Scales, fusion, thresholds, flip, temperature, precision and min_component decide the values of the labels; the rest
    says how they are computed and kept.
    """

    scales: Scales = (0.5, 1.0, 2.0)
    fusion: Fusion | None = None
    """How the predictions at the scales are fused; None: as the teacher was trained for."""
    threshold: Threshold = 0.5
    """Keep a pixel where confidence > threshold."""
    class_thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """Thresholds of classes that have one of their own, by class name."""
    flip: bool = False
    """Average the logits of the image and of its mirror image."""
    temperature: float = Field(1.0, gt=0, le=100)
    """That the logits are divided by before they become probabilities, as `calibrate` may have fitted it."""
    min_component: int = Field(0, ge=0)
    """Connected pixels of one class that are fewer than this become ignore; 0: none do."""
    keep: Keep = "none"
    """What is kept beside the labels, so that other thresholds can be applied later."""
    keep_steps: int = Field(DEFAULT_STEPS, ge=1, le=MAX_STEPS)
    """Confidence is kept by the thresholds k / keep_steps; those can be applied exactly."""
    png: Preset = "fast"
    """How hard the label PNGs are compressed."""
    palette: bool = False
    """Give the label PNGs a palette of the class colours; the values stay."""
    budget: int | None = Field(None, ge=1)
    """Bytes that all files of the run may take together."""
    batch: int = Field(1, ge=1)
    """Images of equal size labelled together."""
    precision: Precision = "fp32"
    compiled: bool = False
    """Have torch compile the network."""

    def decisive(self) -> dict[str, Any]:
        """What decides the values of the labels, as plain values."""
        decisive = self.model_dump(mode="json", include=set(_DECISIVE))
        # what came later and is left at its default is left out, so that older work is gone on with
        fusion = {} if self.fusion is None else {"fusion": self.fusion}
        temperature = {} if self.temperature == 1 else {"temperature": self.temperature}
        return decisive | fusion | temperature


_DECISIVE = ("scales", "threshold", "class_thresholds", "flip", "min_component", "precision")


class LabelSettings(LabellingRecipe):
    """What `label` does."""

    images: Place
    """Folder of images, listed recursively; or a URL such as s3://bucket/images."""
    teacher: str
    """A network's name, or the path of a checkpoint."""
    weights: Path | None = None
    """Weights, where the teacher is a name."""
    classes: str | None = None
    """A class schema's name or file; the teacher's own where it has one."""
    layout: Layout = "folder"
    thresholds: Path | None = None
    """A calibration, which has a threshold for each class: `threshold` is then of none."""
    ids: Ids = "class"
    """Values of the label PNGs, which they decide too: class indices, or the schema's source ids."""
    device: str = "auto"
    workers: int | None = Field(None, ge=0)
    """Processes of this machine that label; 0: one a GPU; None: this process itself."""
    scheduler: str | None = None
    """Address of the dask scheduler whose workers label."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    """Files of the certificates for a `tls://` scheduler."""
    dashboard: bool = False
    """Show dask's dashboard of the processes of this machine, on loopback."""
    save_attention: bool = False
    """Save maps of how much each scale counted beside the labels."""
    shard: ShardText | None = None
    """Label the images of this shard only; None: all of them. It decides no pixel."""
    gate: GateTexts = ()
    """Conditions on the labels' quality (see `pipeline.gate`)."""
    coarse: Path | None = None
    """Folder of human labels of the images, that the labels are audited against when all are made."""
    coarse_ids: Ids | None = None
    """What their values are; None: class indices, or what a Cityscapes file's name says."""
    out: Place
    """The run's folder, or a URL."""

    @model_validator(mode="after")
    def _nothing_kept_far_away(self) -> Self:
        if is_remote(self.out) and self.keep != "none":
            raise SettingsError(f"keep {self.keep} needs an out on this machine's disks, {path_text(self.out)} is none")
        if is_remote(self.out) and self.save_attention:
            raise SettingsError(f"save_attention needs an out on this machine's disks, {path_text(self.out)} is none")
        return self

    @model_validator(mode="after")
    def _thresholds_from_one_place(self) -> Self:
        if self.thresholds is not None and self.class_thresholds:
            raise SettingsError(
                f"got both thresholds, the calibration {self.thresholds}, and class_thresholds: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _labels_apart(self) -> Self:
        if lies_in(self.out, self.images) and lies_in(self.images, self.out):
            raise SettingsError(f"out {self.out} is the folder of the images; choose one of its own for the labels")
        # a run leaves its own folder out when it lists images; it knows nothing of those of the other shards
        if self.shard is not None and lies_in(self.out, self.images):
            raise SettingsError(
                f"out {self.out} lies in the images {self.images}, where other shards would take its labels for "
                f"images; choose a folder elsewhere"
            )
        return self

    @model_validator(mode="after")
    def _coarse_can_be_audited(self) -> Self:
        if self.coarse_ids is not None and self.coarse is None:
            raise SettingsError("coarse_ids says what the values of --coarse are, and that is not given")
        if self.coarse is not None and is_remote(self.out):
            raise SettingsError(f"coarse needs an out on this machine's disks, {path_text(self.out)} is none")
        return self

    @model_validator(mode="after")
    def _one_way_to_label(self) -> Self:
        if self.workers is not None and self.scheduler is not None:
            raise SettingsError("got both workers and scheduler: the scheduler's workers are those that label")
        if self.scheduler is None and (self.tls_ca or self.tls_cert or self.tls_key):
            raise SettingsError("tls_ca, tls_cert and tls_key are for a scheduler, and none is given")
        if self.dashboard and self.workers is None:
            raise SettingsError("dashboard is that of workers; a scheduler that is there already has its own")
        return self

    @property
    def is_distributed(self) -> bool:
        """Whether other processes label than the one that plans and records."""
        return self.workers is not None or self.scheduler is not None

    @property
    def form(self) -> LabelFormat:
        """How the label PNGs are written."""
        return LabelFormat(self.png, self.palette, self.ids)


def read_label_settings(path: Path) -> LabelSettings:
    """Read the settings that a run of `label` has written.

    Raises:
        WorkspaceError: there are none, or none that this version reads.
    """
    try:
        return LabelSettings.checked(**tomllib.loads(read_file(path).decode())["label"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, SettingsError) as error:
        raise WorkspaceError(f"{path}: no settings of `label` that this autocoarse reads: {error}") from error


def thresholds_by_class(
    threshold: float, class_thresholds: Mapping[str, float], schema: ClassSchema
) -> tuple[float, ...]:
    """The threshold of each class, in the order of the class indices; one for all where none has its own.

    Raises:
        SettingsError: a name is no class of the schema.
    """
    if unknown := sorted(class_thresholds.keys() - set(schema.names)):
        raise SettingsError(
            f"class thresholds: {', '.join(unknown)} is no class of {schema.name!r}; known are "
            f"{', '.join(schema.names)}"
        )
    if not class_thresholds:
        return (threshold,)
    return tuple(class_thresholds.get(name, threshold) for name in schema.names)
