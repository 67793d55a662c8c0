"""Inspection: what one label file was made with, and what it holds.

It judges nothing and writes nothing; whether a label is right is told by `evaluation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.attention_maps import FULL, read_attention
from storage.errors import LabelError, MissingFileError, WorkspaceError
from storage.label_map import count_values
from storage.label_png import read_label_values, read_provenance
from storage.ledger import Ledger
from storage.run_form import RunForm
from storage.schema import IGNORE, ClassSchema, Ids
from storage.soft_store import NO_CONFIDENCE, SoftStore
from storage.workspace import Workspace

Mode = Literal["gray", "palette"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one label file says of itself, and what it holds."""

    path: Path
    height: int
    width: int
    bytes: int
    """Size of the file."""
    mode: Mode
    """Kind of PNG; the values of one with a palette are the palette's indices."""
    provenance: dict[str, str | float]
    """What it was made with; empty where the file does not say."""
    ids: Ids
    """What its values are."""
    names: tuple[str, ...] | None
    """Class names, in the order of the class indices; None where nobody says what they are."""
    pixels: dict[str, int]
    """Pixels by class name. Where names are not known: by the values that occur, without ignore where it is known."""
    ignored: int | None
    """Pixels that are given no class; None for source ids without a schema, as any of them may mean that."""
    unknown: int
    """Pixels, among those ignored, whose source id the schema does not know."""
    foreign_classes: bool
    """Whether the file says that it was made with other classes than those that it was read as."""
    run: Path | None
    """The run whose label it is, if it lies in one."""
    key: str | None
    """Its key in that run."""
    confidence: Mapping[str, float] | None
    """What the run has kept of the teacher's confidence in this label, in short; None where it has kept nothing."""
    attention: Mapping[str, float] | None
    """The share that each scale had in the prediction, mean over the pixels; None where no attention was saved."""

    @property
    def ignore_fraction(self) -> float | None:
        """Share of the pixels that is given no class; None where that is not known."""
        return None if self.ignored is None else self.ignored / (self.height * self.width)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, as in JSON."""
        return {
            "file": str(self.path),
            "height": self.height,
            "width": self.width,
            "bytes": self.bytes,
            "mode": self.mode,
            "provenance": self.provenance,
            "ids": self.ids,
            "classes": None if self.names is None else list(self.names),
            "pixels": self.pixels,
            "ignored": self.ignored,
            "ignore_fraction": self.ignore_fraction,
            "unknown": self.unknown,
            "foreign_classes": self.foreign_classes,
            "run": None if self.run is None else str(self.run),
            "key": self.key,
            "confidence": None if self.confidence is None else dict(self.confidence),
            "attention": None if self.attention is None else dict(self.attention),
        }


def inspect_label(path: Path, schema: ClassSchema | None = None, ids: Ids | None = None) -> Inspection:
    """Read what a label file was made with, and count what it holds.

    Args:
        path: an 8-bit gray or palette PNG, this project's or another's.
        schema: the classes that it is read as; None takes those of the run that the file lies in, if it lies in one.
        ids: what its values are; a file that says that it holds source ids is believed, as is the run that it lies in
            where no schema is given. None means class indices.

    Raises:
        MissingFileError: there is no such file.
        LabelError: it is no whole PNG of 8-bit values, holds colours, or a value that is no class index, or what is
            saved with it is damaged; the message names the file.
        WorkspaceError: the ledger of its run cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"no label file {path}; give the path of a PNG")
    values = read_label_values(path)
    provenance = read_provenance(path)
    workspace, key = _find_run(path)
    form = _run_form(workspace) if workspace is not None and schema is None else None
    if provenance.get("ids") == "source":
        ids = "source"
    elif form is not None:
        ids = form.ids
    indices = _to_indices(path, values, ids or "class", schema, form)
    names = None if indices is None else _names(schema, form)
    pixels, ignored = _histogram(values if indices is None else indices, names, known=indices is not None)
    unknown = 0
    if schema is not None and ids == "source":
        unknown = int(np.count_nonzero(schema.unknown_source_ids[values]))
    made_with = provenance.get("classes")
    return Inspection(
        path=path,
        height=values.shape[0],
        width=values.shape[1],
        bytes=path.stat().st_size,
        mode=_read_mode(path),
        provenance=provenance,
        ids=ids or "class",
        names=names,
        pixels=pixels,
        ignored=ignored,
        unknown=unknown,
        foreign_classes=schema is not None and made_with not in (None, schema.digest),
        run=None if workspace is None else workspace.root,
        key=key,
        confidence=None if workspace is None or key is None else _confidence_summary(workspace, key),
        attention=None if workspace is None or key is None else _attention_summary(workspace, key, values.shape),
    )


def _find_run(path: Path) -> tuple[Workspace, str] | tuple[None, None]:
    """The run in whose labels a file lies, and its key there."""
    whole = path.resolve()
    for folder in whole.parents:
        workspace = Workspace(folder.parent)
        if folder == workspace.labels and workspace.is_run():
            return workspace, whole.relative_to(folder).with_suffix("").as_posix()
    return None, None


def _run_form(workspace: Workspace) -> RunForm | None:
    """What a run's values mean; None where its ledger does not say."""
    with Ledger(workspace.ledger, read_only=True) as ledger:
        settings = ledger.settings
    try:
        return RunForm.of(settings)
    except WorkspaceError:
        return None


def _names(schema: ClassSchema | None, form: RunForm | None) -> tuple[str, ...] | None:
    if schema is not None:
        return schema.names
    return None if form is None else form.names


def _to_indices(
    path: Path, values: npt.NDArray[np.uint8], ids: Ids, schema: ClassSchema | None, form: RunForm | None
) -> npt.NDArray[np.uint8] | None:
    """Class indices or ignore, same shape; None for source ids where nobody says which classes they stand for."""
    try:
        if schema is not None:
            return schema.to_indices(values, ids)
        if form is not None and form.ids == ids:
            return form.to_indices(values)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error
    return values if ids == "class" else None


def _histogram(
    values: npt.NDArray[np.uint8], names: tuple[str, ...] | None, *, known: bool
) -> tuple[dict[str, int], int | None]:
    """Pixels by class name or by value, and those ignored; `known`: the values are class indices or ignore."""
    counts = count_values(values).tolist()
    if not known:
        return {str(value): count for value, count in enumerate(counts) if count}, None
    ignored = counts[IGNORE]
    if names is not None:
        return dict(zip(names, counts, strict=False)), ignored
    return {str(value): count for value, count in enumerate(counts[:IGNORE]) if count}, ignored


def _read_mode(path: Path) -> Mode:
    with Image.open(path, formats=["PNG"]) as image:
        return "palette" if image.mode == "P" else "gray"


def _confidence_summary(workspace: Workspace, key: str) -> Mapping[str, float] | None:
    """What a run has kept of the teacher's confidence in a label, in short; None where it has kept nothing.

    Raises:
        LabelError: what is kept is damaged.
    """
    store = SoftStore.find(workspace.soft)
    with Ledger(workspace.ledger, read_only=True) as ledger:
        entry, slot = ledger.get(key), ledger.slot(key)
    if store is None or slot is None or entry is None or entry.status != "done":
        return None
    codes = store.read(slot, (entry.height, entry.width))[1]
    known = codes[codes != NO_CONFIDENCE]
    steps = store.form.steps
    middle = (known + 0.5) / steps  # a code stands for all confidences up to the next threshold
    summary = {} if not known.size else {"mean": float(middle.mean()), "median": float(np.median(middle))}
    above = {f"share > {t:g}": float(np.count_nonzero(known >= t * steps) / codes.size) for t in (0.5, 0.9, 0.95)}
    return {**summary, **above}


def _attention_summary(workspace: Workspace, key: str, size: tuple[int, ...]) -> Mapping[str, float] | None:
    """The share of each scale, mean over the pixels; None where nothing is saved."""
    maps = read_attention(workspace, key, (size[0], size[1]))
    return {f"{scale:g}": float(values.mean()) / FULL for scale, values in maps.items()} or None
