"""Teachers of other libraries from what they are called by, and teachers from descriptions.

Each library is imported when a teacher of its kind is asked for.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from storage.class_table import ClassTable, match_classes
from storage.errors import CheckpointError, SettingsError
from storage.schema import ClassSchema, load_schema, schema_of_labels
from teacher.description import Description, EnsembleTable, ModelTable, read_description, refuse_circles
from teacher.device import find_device
from teacher.ensemble import EnsemblePredictor
from teacher.foreign.contract import ForeignModel, ModelSettings
from teacher.foreign.own_model import OwnModel
from teacher.foreign.predictor import ForeignPredictor, Grouping
from teacher.inference import Teacher
from teacher.network_predictor import NetworkPredictor
from teacher.precision import Precision
from teacher.references import Reference

if TYPE_CHECKING:
    from teacher.foreign.scale_head import ScaleHead


SHOWN = 12
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How a teacher is wanted."""

    load: Callable[..., Teacher]
    """`teacher.loading.load_teacher`, for what a description refers to."""
    schema: ClassSchema | None
    """What its classes are to be; None: what it says itself."""
    device: str
    precision: Precision
    compiled: bool


def load_foreign(reference: Reference, wish: Wish) -> Teacher:
    """Load a teacher of another library, of which nothing is said but what it is called by.

    Raises:
        SettingsError: its library is not installed, it cannot be what is asked for, or its labels are no classes of the
            schema.
        MissingFileError, CheckpointError: there is no such file, or it cannot be used.
    """
    return _of_model(ModelTable(model=str(reference)), None, wish, str(reference))


def load_described(path: Path, wish: Wish) -> Teacher:
    """Load what a description says.

    Raises:
        MissingFileError, SettingsError: as `read_description`.
        AutocoarseError: as for what it describes.
    """
    refuse_circles(path)
    found = read_description(path)
    if found.ensemble is not None:
        return _ensemble(found.ensemble, wish, str(path))
    table = found.teacher
    assert table is not None, "one of both is there"
    if Reference.parse(table.model) is None:
        return _of_own(table, found, wish, str(path))
    if table.weights is not None:
        raise SettingsError(
            f"{path}: weights belong to a network's name, and {table.model} has its own: leave them out"
        )
    return _of_model(table, found.classes, wish, str(path))


def _of_model(table: ModelTable, classes: Mapping[str, str] | None, wish: Wish, where: str) -> Teacher:
    if wish.compiled:
        raise SettingsError(f"{where}: a teacher of another library is not compiled: leave out --compiled")
    reference = Reference.parse(table.model)
    assert reference is not None, "asked before"
    device = find_device(wish.device)
    how = ModelSettings(device, wish.precision, table.labels, table.mean, table.std, table.native)
    return _in_classes(open_model(reference, how), table, classes, wish, where, device)


def open_model(reference: Reference, how: ModelSettings) -> ForeignModel:
    """Open a network of another library.

    Raises:
        SettingsError, MissingFileError, CheckpointError: as for `load_foreign`.
    """
    if reference.kind == "hf":
        from teacher.foreign.hugging_face import open_hugging_face

        return open_hugging_face(reference.where, how)
    if reference.kind == "onnx":
        from teacher.foreign.onnx_model import open_onnx

        return open_onnx(Path(reference.where), how)
    if reference.kind == "exported":
        from teacher.foreign.exported import open_exported

        return open_exported(Path(reference.where), how)
    from teacher.foreign.factory import open_factory

    return open_factory(reference.where, how)


def _of_own(table: ModelTable, found: Description, wish: Wish, where: str) -> Teacher:
    """A network of ours, with what the description adds to it."""
    if table.labels is not None or table.mean is not None or table.std is not None or table.native:
        raise SettingsError(
            f"{where}: {table.model} says itself what its labels are and how its images are normalised: leave out "
            f"labels, mean, std and native"
        )
    adds = found.classes is not None or table.attention is not None
    wanted = wish.schema if table.schema_name is None else load_schema(table.schema_name)
    own = wish.load(
        table.model,
        table.weights,
        schema=None if found.classes is not None else wanted,
        device=wish.device,
        precision=wish.precision,
        compiled=wish.compiled,
    )
    if not adds:
        return own
    if not isinstance(own.predictor, NetworkPredictor) or own.predictor.fusion == "explicit":
        raise SettingsError(
            f"{where}: {table.model} can be given neither classes nor an attention: it is {own.name}, fused by "
            f"{own.predictor.fusion}"
        )
    model = OwnModel(own.predictor, own.schema.names, own.digest)
    return _in_classes(model, table, found.classes, wish, where, own.device, own)


def _in_classes(
    model: ForeignModel,
    table: ModelTable,
    classes: Mapping[str, str] | None,
    wish: Wish,
    where: str,
    device: torch.device,
    own: Teacher | None = None,
) -> Teacher:
    """A model's labels as the classes of a schema, and its scales by the attention that was fitted to it."""
    named = None if table.schema_name is None else load_schema(table.schema_name)
    if named is not None and wish.schema is not None and named.digest != wish.schema.digest:
        raise SettingsError(
            f"{where} is of the schema {named.name!r}, asked for was {wish.schema.name!r}: leave one of them out"
        )
    schema = named or wish.schema or (own.schema if own is not None and classes is None else None)
    labels = model.labels
    if schema is None:
        if labels is None:
            raise SettingsError(
                f"{where} does not say what its outputs are: name its schema by --classes if they are the schema's "
                f"classes in their order, or describe it with labels = [...]"
            )
        schema = schema_of_labels(labels, Path(table.model.rpartition(":")[2]).stem)
    # where nobody says otherwise, outputs without names are the schema's classes, as many and in their order
    table_of_classes = _matched(labels or schema.names, schema, classes, where)
    if classes is None and table_of_classes.absent:
        raise SettingsError(
            f"{where} has no label of the name {_some(table_of_classes.absent)}, and {schema.name!r} has: write a "
            f"description by `autocoarse teacher {table.model} --classes {schema.name} --write teacher.toml`, say in "
            f"it what each label is, and give that as the teacher"
        )
    targets = table_of_classes.targets
    digest, remarks = _digest(model.digest, list(targets)), _remarks(table_of_classes)
    if own is not None:
        if targets == tuple(range(len(schema))) and schema.digest == own.schema.digest:
            if table.attention is None:
                return own  # nothing is added to it; it keeps an attention of its own
            digest = own.digest
        if own.fusion() == "hierarchical":
            remarks += ("its own scale attention is left out",)
    trained_on = {} if own is None else own.trained_on
    head = None if table.attention is None else _head(Path(table.attention), digest, where)
    predictor = ForeignPredictor(model, Grouping(targets, len(schema)), device, head, remarks)
    if head is not None:
        digest, trained_on = _digest(digest, head.digest), {**trained_on, **head.trained_on}
    return Teacher(predictor, schema, digest, wish.precision, trained_on)


def _matched(labels: Sequence[str], schema: ClassSchema, classes: Mapping[str, str] | None, where: str) -> ClassTable:
    try:
        return match_classes(labels, schema, classes)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error


def _remarks(table: ClassTable) -> tuple[str, ...]:
    """What of a teacher's labels is no class, and which classes no label is."""
    remarks = []
    if unmapped := table.unmapped:
        remarks.append(f"its pixels of {_some(unmapped)} are of no class, and ignored")
    if absent := table.absent:
        remarks.append(f"it never predicts {_some(absent)}")
    return tuple(remarks)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


def _head(path: Path, digest: str, where: str) -> "ScaleHead":
    from teacher.foreign.scale_head import load_head

    head = load_head(path)
    if head.teacher_digest != digest:
        raise CheckpointError(
            f"{where}: the attention {path} was fitted to another teacher, or to other classes of it: fit one to this "
            f"by `autocoarse fit-attention`, or leave it out"
        )
    return head


def _ensemble(table: EnsembleTable, wish: Wish, where: str) -> Teacher:
    members: list[Teacher] = []
    schema = wish.schema
    for member in table.members:
        found = wish.load(member, schema=schema, device=wish.device, precision=wish.precision, compiled=wish.compiled)
        schema = schema or found.schema
        if found.schema.digest != schema.digest:
            raise SettingsError(
                f"{where}: {member} has the classes of {found.schema.name!r}, the first member those of "
                f"{schema.name!r}: describe it in a file of its own, with a schema and [classes]"
            )
        members.append(found)
    assert schema is not None, "there are members"
    predictor = EnsemblePredictor([member.predictor for member in members], len(schema), table.combine)
    digest = _digest(table.combine, [member.digest for member in members])
    trained_on = {image: key for member in members for image, key in member.trained_on.items()}
    return Teacher(predictor, schema, digest, wish.precision, trained_on)


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
