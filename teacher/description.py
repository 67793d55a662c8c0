"""Teachers described in a TOML file: what is to be known of a network of another library, or which teachers decide.

Only the file itself is read here.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storage.errors import MissingFileError, SettingsError
from teacher.references import Reference, resolved

Combine = Literal["average", "agreement"]
"""How several teachers are one: by the mean of their probabilities; or so that where they do not agree on the most
likely class there is none."""

MAX_BYTES = 1 << 20
MAX_MEMBERS = 16

_Share = Annotated[float, Field(allow_inf_nan=False)]
_Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelTable(_Table):
    """One network, under `[teacher]`."""

    model: str
    """A reference such as onnx:FILE, the path of a checkpoint, or the name of a network; paths are beside the file."""
    weights: str | None = None
    """Of a named network."""
    schema_name: str | None = Field(None, alias="schema")
    """Its classes: the name of a schema or the path of its file; left out, they are the network's own labels."""
    labels: tuple[str, ...] | None = None
    """Names of the network's outputs, where its file does not say."""
    mean: tuple[_Share, _Share, _Share] | None = None
    std: tuple[_Spread, _Spread, _Spread] | None = None
    native: bool = False
    """Leave images at their own size where its processor would bring them to another."""
    attention: str | None = None
    """File of a scale attention that was fitted to it."""


class EnsembleTable(_Table):
    """Several teachers, under `[ensemble]`."""

    members: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_MEMBERS)]
    """References, checkpoints or further descriptions; paths are beside the file."""
    combine: Combine = "average"


class Description(_Table):
    """A description of a teacher."""

    teacher: ModelTable | None = None
    ensemble: EnsembleTable | None = None
    classes: dict[str, str] | None = None
    """The class of each of the network's labels, by name; an empty text where it is none."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.teacher is None) == (self.ensemble is None):
            raise ValueError("expected either a table [teacher] or a table [ensemble]")
        if self.classes is not None and self.teacher is None:
            raise ValueError("[classes] belongs to a [teacher]; describe each member that needs one in its own file")
        return self


def read_description(path: Path) -> Description:
    """Read a description; its paths become absolute.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: it is no description; the message says what is wrong, and where.
    """
    if not path.is_file():
        raise MissingFileError(f"no description of a teacher at {path}; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise SettingsError(f"{path}: is larger than 1 MiB, and so no description of a teacher")
    try:
        found = Description.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: cannot be parsed as TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise SettingsError(f"{path}: is no description of a teacher: {problems}") from error
    return _with_paths(found, path.absolute().parent)


def refuse_circles(path: Path, above: tuple[Path, ...] = ()) -> None:
    """See that a description, and those that it refers to, do not come back to themselves.

    Args:
        path: of the description.
        above: descriptions that lead to it, by what their links resolve to.

    Raises:
        SettingsError: one does; the message names all of the way round.
        MissingFileError, SettingsError: as `read_description`, for any of them.
    """
    own = path.resolve()
    if own in above:
        way = " -> ".join(str(each) for each in (*above[above.index(own) :], own))
        raise SettingsError(f"{path}: the description refers to itself, and so to no teacher: {way}; take it out there")
    found = read_description(path)
    table = found.teacher
    for each in found.ensemble.members if found.ensemble is not None else () if table is None else (table.model,):
        if Path(each).suffix == ".toml" and Reference.parse(each) is None:
            refuse_circles(Path(each), (*above, own))


def _with_paths(found: Description, folder: Path) -> Description:
    if found.ensemble is not None:
        members = tuple(resolved(member, folder) for member in found.ensemble.members)
        return found.model_copy(update={"ensemble": found.ensemble.model_copy(update={"members": members})})
    table = found.teacher
    assert table is not None, "one of both is there"
    changes = {"model": resolved(table.model, folder)}
    for name, value in (("weights", table.weights), ("attention", table.attention)):
        if value is not None:
            changes[name] = str(folder / value)
    if table.schema_name is not None:
        changes["schema_name"] = resolved(table.schema_name, folder)
    return found.model_copy(update={"teacher": table.model_copy(update=changes)})
