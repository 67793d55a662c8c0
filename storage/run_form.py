"""What the values of a run's label files mean, as the settings in its ledger say.

It knows neither the files nor the schema that the classes came from: a run can be read without either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError, SchemaError, WorkspaceError
from storage.schema import IGNORE, ClassSchema, Ids


def source_id_settings(schema: ClassSchema) -> dict[str, object]:
    """What a run that writes source ids adds to the settings in its ledger, for `RunForm` to read."""
    table = schema.index_to_source
    return {"written_ids": table[: len(schema)].tolist(), "written_for_ignore": int(table[IGNORE])}


def ids_of_run(settings: Mapping[str, Any] | None) -> Ids:
    """What the values of a run's label files are, as its ledger's settings say."""
    return "source" if settings and "written_ids" in settings else "class"


def refuse_other_classes(run: Path, settings: Mapping[str, Any] | None, schema: ClassSchema) -> None:
    """Never read a run's labels as other classes than its own.

    Args:
        run: its folder, for the message.
        settings: of its ledger; a run that does not say its classes is believed.
        schema: the classes that it is to be read as.

    Raises:
        SchemaError: the run's are others, or in another order.
    """
    names = (settings or {}).get("classes")
    if isinstance(names, list) and tuple(names) != schema.names:
        raise SchemaError(
            f"{run} has labels of the classes {_short(names)}, asked for were those of {schema.name!r}, "
            f"{_short(schema.names)}; a RUN keeps its own in {run / 'classes.json'}: give that, or its name, as "
            f"--classes"
        )


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")


@dataclass(frozen=True)
class RunForm:
    """The values of a run's label files."""

    names: tuple[str, ...]
    """Class names, in the order of the class indices."""
    source_ids: tuple[int, ...] | None = None
    """By class index what is written instead of it; None: class indices are written."""
    ignored_id: int = IGNORE
    """What is written for ignore."""

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> Self:
        """Read a ledger's settings.

        Raises:
            WorkspaceError: they do not say what the classes are.
        """
        try:
            names = tuple(str(name) for name in (settings or {})["classes"])
            ids = (settings or {}).get("written_ids")
            return cls(names) if ids is None else cls(names, tuple(ids), int((settings or {})["written_for_ignore"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WorkspaceError(f"the ledger does not say what the label values mean: {error!r}") from error

    @property
    def ids(self) -> Ids:
        """What the values are."""
        return "class" if self.source_ids is None else "source"

    @cached_property
    def _legal(self) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(256), [*(self.source_ids or range(len(self.names))), self.ignored_id])

    def to_indices(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn the values of one of the run's label files into class indices or ignore, same shape, uint8.

        Raises:
            LabelError: a value is none that the run writes.
        """
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        if illegal := [int(v) for v in present if not self._legal[v]]:
            raise LabelError(
                f"holds value {', '.join(map(str, illegal[:8]))}, which is neither one of the run's "
                f"{len(self.names)} classes nor {self.ignored_id} (ignore)"
            )
        if self.source_ids is None:
            return values
        table = np.full(256, IGNORE, np.uint8)
        table[list(self.source_ids)] = np.arange(len(self.source_ids), dtype=np.uint8)
        return table[values]
