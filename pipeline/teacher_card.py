"""The card of a teacher: what it is, what it was trained on, how good it proved to be, and under which terms it is.

It tells what is written in files, and what follows from them; nothing is measured, and nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.calibration_file import read_calibration
from pipeline.network_catalogue import DEFAULT_ENCODERS, choose, weights_of
from storage.errors import CheckpointError, SettingsError
from storage.object_io import file_digest
from storage.schema import ClassSchema, load_schema
from teacher import Teacher, load_teacher
from teacher.checkpoint import load_checkpoint
from teacher.foreign.predictor import ForeignPredictor
from teacher.loading import refuse_others
from teacher.network_predictor import NetworkPredictor
from teacher.networks.registry import TRUNK_WIDTHS, NetworkSpec, build_network, network_names
from teacher.references import Reference

UNKNOWN_TERMS = "unknown: ask whoever made it, and look at the terms of the images and weights that it was trained with"


@dataclass(frozen=True, slots=True)
class Described:
    """What a teacher is, whatever it was made of."""

    network: str
    encoder: str | None
    parameters: int | None
    """Numbers that are learned; None: its file does not say, or the facts do."""
    schema: str
    classes: tuple[str, ...]
    schema_digest: str | None
    mean: tuple[float, ...]
    """Subtracted from red, green, blue in [0, 1]; empty: the facts say how images are normalised."""
    std: tuple[float, ...]
    """What the difference is divided by."""
    fusion: str
    """How its predictions at several scales are fused."""
    fusion_scales: tuple[float, ...]
    """Those that the fusion is bound to; none: any."""
    digest: str | None
    """Of the teacher, by which labels know it; None: it has no weights yet."""
    labels: tuple[str, ...] = ()
    """Its own, in the order of its outputs, of one network that may have others than the classes; else empty."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What a network of another library, or each of several teachers, says of itself."""
    remarks: tuple[str, ...] = ()
    """What is to be told to whoever uses its labels."""


class TrainingRecord(BaseModel):
    """What an own checkpoint says of how it came about; a file need not say all of it, and is not to be trusted."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    step: int | None = Field(None, ge=0)
    """Of the training, after which the weights were written."""
    seed: int | None = None
    weights: str | None = None
    """raw: as they were at that step, or averaged."""
    settings: str | None = None
    """Digest of the settings that decided."""
    samples: dict[str, int] = Field(default_factory=dict)
    """Of each kind of label."""
    images: dict[str, str] = Field(default_factory=dict)
    """That it was trained on, and its start weights before it: sha256 of the file -> key."""
    miou: float | None = Field(None, ge=0, le=1)
    """On the images to validate on, where it was kept as the best of its training."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a calibration has found of the teacher, at the thresholds that it chose."""

    file: str
    images: int
    precision: float | None
    coverage: float | None
    ece: float | None
    temperature: float


@dataclass(frozen=True, slots=True)
class TeacherCard:
    """All that is known of a teacher."""

    teacher: Described
    file: str | None
    """That it was read from; None: only a name is known, or it is no single file."""
    file_sha256: str | None
    training: TrainingRecord | None
    """None: it does not say how it came about."""
    held_out: HeldOut | None
    licence: str
    """Terms of the teacher's own weights."""
    start_weights: str | None
    """What its encoder is usually started from, and the terms of that; None: nothing is known of it."""
    how_to: str
    """How it is used, or made."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values; images are counted, not listed."""
        training = None
        if self.training is not None:
            training = {**self.training.model_dump(exclude={"images"}), "images": len(self.training.images)}
        told = {**asdict(self.teacher), "facts": dict(self.teacher.facts)}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()}
        return {
            **plain,
            "file": self.file,
            "file_sha256": self.file_sha256,
            "training": training,
            "held_out": None if self.held_out is None else asdict(self.held_out),
            "licence": self.licence,
            "start_weights": self.start_weights,
            "how_to": self.how_to,
        }


def card_of(
    name_or_checkpoint: str,
    weights: Path | None = None,
    calibration: Path | None = None,
    schema: ClassSchema | None = None,
) -> TeacherCard:
    """Make the card of a teacher, or of what a network of this name would be.

    Args:
        name_or_checkpoint: as `load_teacher` takes it; no file is needed with a name.
        weights: file of the named network's weights.
        schema: what its classes are to be; None: what it says itself.
        calibration: of this very teacher, made by `calibrate`.

    Raises:
        MissingFileError: there is no such network or file.
        CheckpointError: the file is damaged, or would run code.
        SchemaError: its labels can be no classes.
        SettingsError: what is asked for contradicts itself, or the calibration is another teacher's.
    """
    if weights is None and name_or_checkpoint in network_names():
        if calibration is not None:
            raise SettingsError(f"{calibration} is of a teacher with weights, and {name_or_checkpoint} is only a name")
        if schema is not None:
            raise SettingsError(
                f"{name_or_checkpoint} is only a name, and has no classes yet: leave out --classes, or give --weights"
            )
        return _of_name(name_or_checkpoint)
    reference = Reference.parse(name_or_checkpoint)
    path = Path(name_or_checkpoint if reference is None else reference.where)
    is_own = weights is None and reference is None and path.suffix != ".toml"
    training = _record_of(path) if is_own else None
    teacher = load_teacher(name_or_checkpoint, weights, schema=schema)
    if training is None and teacher.trained_on:  # of the checkpoints and heads that a description names
        training = TrainingRecord(images=teacher.trained_on)
    file = weights or (path if path.is_file() else None)
    use = f"label, estimate and calibrate take it by --teacher {name_or_checkpoint}"
    use += f", evaluate by --checkpoint {name_or_checkpoint}" if weights is None else f" --weights {weights}"
    return replace(
        of_teacher(teacher, file, use),
        training=training,
        held_out=None if calibration is None else _held_out(calibration, teacher.digest),
    )


def of_teacher(teacher: Teacher, file: Path | None, how_to: str) -> TeacherCard:
    """The card of a teacher that was loaded, without what its file says of its training.

    Args:
        teacher: that was loaded.
        file: that it was loaded from, where it is a single one.
        how_to: how it is used.
    """
    predictor = teacher.predictor
    if isinstance(predictor, NetworkPredictor):
        described = _describe(predictor.spec, teacher.schema)
    else:
        labels = predictor.model.labels if isinstance(predictor, ForeignPredictor) else None
        described = Described(
            network=teacher.name,
            encoder=None,
            parameters=None,
            schema=teacher.schema.name,
            classes=teacher.schema.names,
            schema_digest=teacher.schema.digest,
            mean=(),
            std=(),
            fusion=predictor.fusion,
            fusion_scales=(),
            digest=None,
            labels=labels or (),
            facts=predictor.facts(),
            remarks=predictor.remarks,
        )
    return TeacherCard(
        replace(described, digest=teacher.digest),
        None if file is None else str(file),
        None if file is None else file_digest(file),
        training=None,
        held_out=None,
        licence=described.facts.get("licence", UNKNOWN_TERMS),
        start_weights=_usual_start(described.encoder),
        how_to=how_to,
    )


def _describe(spec: NetworkSpec, schema: ClassSchema) -> Described:
    with torch.device("meta"):  # a teacher that was loaded runs another form of its network, with fewer numbers
        parameters = sum(parameter.numel() for parameter in build_network(spec).parameters())
    trunk = next((name for name, width in TRUNK_WIDTHS.items() if width == spec.width), None)
    return Described(
        network=spec.network,
        encoder=trunk if spec.network == "hrnet-ocr" else spec.encoder,
        parameters=parameters,
        schema=schema.name,
        classes=schema.names,
        schema_digest=schema.digest,
        mean=spec.mean,
        std=spec.std,
        fusion=spec.attention,
        fusion_scales=spec.attention_scales,
        digest=None,
    )


def _of_name(name: str) -> TeacherCard:
    choice = next(choose(network, None, None) for network in DEFAULT_ENCODERS if network == name)
    described = _describe(choice.spec(), load_schema("cityscapes"))
    train = f"autocoarse train --network {choice.network} --encoder {choice.encoder} --encoder-weights FILE ..."
    public = f"; label --teacher {name} --weights FILE takes the public weights" if name == "hrnet-ocr" else ""
    return TeacherCard(
        described,
        file=None,
        file_sha256=None,
        training=None,
        held_out=None,
        licence="that of the weights that it gets",
        start_weights=_usual_start(choice.encoder),
        how_to=f"a name has no weights: make a teacher by `{train}`{public}",
    )


def _usual_start(encoder: str | None) -> str | None:
    if encoder is None:
        return None
    usual = weights_of(encoder)
    return f"{usual.name}: {usual.licence}"


def _record_of(path: Path) -> TrainingRecord:
    refuse_others(path)
    record: Mapping[str, Any] = load_checkpoint(path).record
    try:
        return TrainingRecord(**record)
    except (ValidationError, TypeError) as error:
        raise CheckpointError(f"{path}: its record of the training cannot be used: {error}; it is damaged") from error


def _held_out(path: Path, digest: str) -> HeldOut:
    calibration = read_calibration(path)
    if (other := calibration.measured.get("teacher")) != digest:
        raise SettingsError(
            f"{path} was made with the teacher {str(other)[:12]}, this one is {digest[:12]}; give its own calibration"
        )
    quality = calibration.quality()
    return HeldOut(
        str(path), calibration.images, quality.precision, quality.coverage, calibration.ece, calibration.temperature
    )
