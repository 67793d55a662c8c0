"""Describing a teacher, as `--teacher FILE.toml` reads it: with what its labels are, or with a fitted attention."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from storage.class_table import table_text
from storage.errors import SettingsError
from storage.schema import ClassSchema
from teacher.description import Description, ModelTable, read_description
from teacher.references import Reference, resolved


def describe_with_attention(teacher: str, weights: Path | None, classes: str | None, attention: Path) -> bytes:
    """Describe a teacher with an attention.

    Args:
        teacher: what it is called by, or the path of its description.
        weights: of a named network.
        classes: the schema that was asked for; None: what the teacher says itself.
        attention: file of the attention; the description is to lie beside it.

    Returns:
        TOML. Paths in the attention's folder are relative to it, all others absolute.

    Raises:
        SettingsError: the teacher is several together, of which each would need its own.
        MissingFileError: there is no such description.
    """
    here = Path.cwd()
    if Path(teacher).suffix == ".toml":
        found = read_description(Path(teacher))
        if found.teacher is None:
            raise SettingsError(
                f"{teacher} is several teachers together: fit an attention to each, and name their descriptions as the "
                f"members of this one"
            )
    else:
        table = ModelTable(model=resolved(teacher, here), weights=None if weights is None else str(weights.absolute()))
        found = Description(teacher=table)
    assert found.teacher is not None, "just seen"
    folder = attention.absolute().parent
    described: dict[str, Any] = found.teacher.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
    if classes is not None:
        described.setdefault("schema", resolved(classes, here))
    for name in ("model", "weights", "schema"):
        if name in described:
            described[name] = _beside(described[name], folder)
    content: dict[str, Any] = {"teacher": described | {"attention": attention.name}}
    if found.classes is not None:
        content["classes"] = found.classes
    return tomli_w.dumps(content).encode()


def describe_with_classes(
    teacher: str, weights: Path | None, labels: Sequence[str], classes: str, schema: ClassSchema, file: Path
) -> bytes:
    """Describe a teacher with a class for each of its labels: those of their names, and guesses, which are marked.

    Args:
        teacher: what it is called by; no description.
        weights: of a named network.
        labels: its own, in the order of its outputs.
        classes: what the schema was called by.
        schema: whose classes are wanted.
        file: where the description is to lie.

    Returns:
        TOML. Paths in the file's folder are relative to it, all others absolute.
    """
    here, folder = Path.cwd(), file.absolute().parent
    described = {"model": resolved(teacher, here), "schema": resolved(classes, here)}
    if weights is not None:
        described["weights"] = str(weights.absolute())
    table = {name: _beside(value, folder) for name, value in described.items()}
    return (tomli_w.dumps({"teacher": table}) + "\n" + table_text(labels, schema)).encode()


def _beside(value: str, folder: Path) -> str:
    """A path, or a reference with one, as it is to be said in a folder."""
    reference = Reference.parse(value)
    where = Path(value if reference is None else reference.where)
    if not (where.is_absolute() and where.is_relative_to(folder)):
        return value
    said = str(where.relative_to(folder))
    return said if reference is None else f"{reference.kind}:{said}"
