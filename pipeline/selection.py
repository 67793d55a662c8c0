"""Which images of a RUN are meant: the worst of its audit, those that hold a class, those of a folder, and so on.

It reads what the run has recorded, and of kept confidence what is asked for; no label and no image is opened.
"""

import difflib
import heapq
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from pipeline.audit_file import read_audit
from storage.errors import LayoutError, MissingFileError, SettingsError
from storage.label_map import count_values
from storage.layouts import pairing_key
from storage.ledger import Entry, Ledger
from storage.run_form import RunForm
from storage.soft_store import NO_CONFIDENCE, SoftStore
from storage.workspace import Workspace

FORMS = "all, worst:N, ignore:N, confidence:N, class:NAME, class:NAME:N, folder:NAME or keys:FILE"
"""How a selection is written."""

_READERS = 4
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """One way to choose images, as it was asked for."""

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "worst:100".

        Raises:
            SettingsError: it is no selection; the message says which there are.
        """
        kind, colon, value = text.partition(":")
        if kind not in ("all", *_CHOOSERS) or (kind == "all") == bool(colon) or (colon and not value):
            raise SettingsError(f"{text!r} selects nothing: expected {FORMS}")
        if kind in _COUNTED and not (value.isdecimal() and int(value)):
            raise SettingsError(f"{text!r}: {value!r} is no number of images; expected something like {kind}:100")
        return cls(kind, value)


def select(run: Workspace, selections: Sequence[str]) -> tuple[str, ...]:
    """The keys of a run's labels that one or more selections ask for: all that any of them asks for.

    Args:
        run: a RUN.
        selections: such as ("worst:100", "class:pole").

    Returns:
        Keys of done items, as in the run's ledger, each once: those of the first selection first, in its own order
        (the worst first; the most ignored; the least confident; the most pixels of the class), then those that the
        next adds.

    Raises:
        SettingsError: a selection is none, or names no class of the run; or the audit is damaged.
        MissingFileError: the audit, the kept confidence or the file of keys is not there.
        LayoutError: a selection finds no image, or names one that the run has no label of.
        LabelError: kept confidence is damaged.
        WorkspaceError: the run's ledger cannot be read.
    """
    parsed = [Selection.parse(text) for text in selections]
    if not parsed:
        raise SettingsError(f"nothing is selected: expected {FORMS}")
    with Ledger(run.ledger, read_only=True) as ledger:
        entries = {entry.key: entry for entry in ledger if entry.status == "done"}
        names = RunForm.of(ledger.settings).names
    if not entries:
        raise LayoutError(f"{run.root} has no label yet; label its images first")
    found: dict[str, None] = {}
    for text, selection in zip(selections, parsed, strict=True):
        keys = (
            list(entries)
            if selection.kind == "all"
            else _CHOOSERS[selection.kind](_Run(run, entries, names), selection.value)
        )
        if not keys:
            raise LayoutError(f"{text!r} selects none of the {len(entries)} labels of {run.root}")
        found.update(dict.fromkeys(keys))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Run:
    """What selections choose from."""

    workspace: Workspace
    entries: dict[str, Entry]
    """Of all done items, by key."""
    names: tuple[str, ...]

    def most(self, value: Callable[[Entry], float], count: int) -> list[str]:
        """Keys of the items with the largest values."""
        return [entry.key for entry in heapq.nlargest(count, self.entries.values(), key=value)]


def _worst(run: _Run, value: str) -> list[str]:
    if not run.workspace.audit.is_file():
        raise MissingFileError(
            f"worst:{value} needs the run's audit, and {run.workspace.audit} is not there; make it with "
            f"`autocoarse audit {run.workspace.root} --coarse DIR`, or select ignore:{value}, which needs none"
        )
    by_pair = {pairing_key(key): key for key in run.entries}
    ranked = (by_pair.get(pairing_key(image.key)) for image in read_audit(run.workspace.audit).images)
    return [key for key in ranked if key is not None][: int(value)]


def _ignored(run: _Run, value: str) -> list[str]:
    return run.most(lambda entry: entry.ignored / (entry.height * entry.width), int(value))


def _least_confident(run: _Run, value: str) -> list[str]:
    store = SoftStore.find(run.workspace.soft)
    if store is None:
        raise MissingFileError(
            f"confidence:{value} needs kept confidence, and {run.workspace.root} has none; label with --keep "
            f"confidence, or select ignore:{value}"
        )
    with Ledger(run.workspace.ledger, read_only=True) as ledger:
        slots = ledger.slots()

    def mean(key: str) -> float:
        entry = run.entries[key]
        codes = store.read(slots[key], (entry.height, entry.width))[1]
        known = count_values(codes)[:NO_CONFIDENCE]
        return float(known @ np.arange(NO_CONFIDENCE) / max(known.sum(), 1))

    kept = [key for key in run.entries if key in slots]
    with ThreadPoolExecutor(_READERS, "confidence") as pool:
        means = dict(zip(kept, pool.map(mean, kept), strict=True))
    return heapq.nsmallest(int(value), kept, key=means.__getitem__)


def _of_class(run: _Run, value: str) -> list[str]:
    name, count = value, len(run.entries)
    if name not in run.names and (parts := value.rpartition(":"))[2].isdecimal() and parts[0]:
        name, count = parts[0], int(parts[2])
    if name not in run.names:
        near = difflib.get_close_matches(name, run.names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"its classes are {', '.join(run.names)}"
        raise SettingsError(f"class:{value}: {name!r} is no class of {run.workspace.root}; {hint}")
    index = run.names.index(name)
    keys = run.most(lambda entry: entry.counts[index], count)
    return [key for key in keys if run.entries[key].counts[index]]


def _of_folder(run: _Run, value: str) -> list[str]:
    folder = PurePosixPath(value)
    keys = [key for key in run.entries if PurePosixPath(key).is_relative_to(folder)]
    if not keys:
        folders = sorted({PurePosixPath(key).parts[0] for key in run.entries if "/" in key})
        near = difflib.get_close_matches(value, folders, n=_NAMED) or folders[:_NAMED]
        hint = f"there are {', '.join(near)}" if near else "its labels are in no folders"
        raise LayoutError(f"folder:{value}: no label of {run.workspace.root} is in that folder; {hint}")
    return keys


def _listed(run: _Run, value: str) -> list[str]:
    try:
        lines = Path(value).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SettingsError(f"keys:{value}: it is no text in UTF-8; expected one key a line") from error
    except OSError as error:
        raise MissingFileError(f"keys:{value}: cannot be read: {error.strerror}; expected one key a line") from error
    wanted = [line.strip() for line in lines if line.strip()]
    # with the image's suffix, too, as a list of files has it
    keys = [key if key in run.entries else PurePosixPath(key).with_suffix("").as_posix() for key in wanted]
    if unknown := [one for one, key in zip(wanted, keys, strict=True) if key not in run.entries]:
        raise LayoutError(f"keys:{value}: {run.workspace.root} has no done item for {_some(unknown)}")
    return keys


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:_NAMED]) + (f", ... ({len(listed)})" if len(listed) > _NAMED else "")


_CHOOSERS: dict[str, Callable[[_Run, str], list[str]]] = {
    "worst": _worst,
    "ignore": _ignored,
    "confidence": _least_confident,
    "class": _of_class,
    "folder": _of_folder,
    "keys": _listed,
}
_COUNTED = ("worst", "ignore", "confidence")
