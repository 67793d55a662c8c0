"""Files in a RUN that no entry speaks of: strays, copies of labels, and what the run itself has left behind.

It reads such files to tell what they are, and deletes none.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pipeline.verify_problem import Problem
from storage.errors import LabelError
from storage.label_png import read_provenance
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.soft_store import SoftStore
from storage.workspace import Workspace

_OF_THE_SYSTEM = (".lock", "ledger.sqlite-*", "ledger-rebuilt.sqlite*", "ledger-damaged*.sqlite*", ".*.partial")
"""Files that locking, SQLite, `verify --rebuild` and atomic writing make beside a run's own."""


@dataclass(frozen=True)
class StrayFinder:
    """What a run's files are known by."""

    workspace: Workspace
    ledger: Ledger
    digest: str
    """Of the run's settings."""
    listed: frozenset[str]
    """Keys of the images that are there."""
    images: Path | None
    """Their folder, which may lie in the RUN."""

    def find(self, store: SoftStore | None, slots: Mapping[str, int]) -> Iterator[Problem]:
        """All files that no done item speaks of."""
        strays = [path for path in _files(self.workspace.labels) if not self._is_recorded(path)]
        copies = self._find_copies(strays) if strays else {}
        for path in strays:
            yield self._of_label(path, copies)
        if store is not None or not slots:  # of a store that cannot be read nothing is known
            yield from self._of_store(store, slots)
        yield from self._elsewhere()

    def _is_recorded(self, path: Path) -> bool:
        # read anew: what a run at work has recorded meanwhile is no stray
        entry = self._entry_of(path)
        return entry is not None and entry.status == "done"

    def _entry_of(self, path: Path) -> Entry | None:
        name = self._key_of(path)
        return self.ledger.get(name) if path.suffix == ".png" and _is_utf8(name) else None

    def _key_of(self, path: Path) -> str:
        return path.relative_to(self.workspace.labels).as_posix().removesuffix(".png")

    def _find_copies(self, strays: list[Path]) -> dict[Path, str]:
        """What each of some files is a copy of: the key of a label of its content, or of nearly its name."""
        digests = {path: _digest(path) for path in strays}
        wanted = set(digests.values())
        names = {path: _near_names(self._key_of(path)) for path in strays}
        wanted_names = {name for near in names.values() for name in near}
        by_digest: dict[str, str] = {}
        by_name: dict[str, str] = {}
        for entry in self.ledger:
            if entry.status == "done" and entry.sha256 in wanted:
                by_digest.setdefault(entry.sha256, entry.key)
            if entry.status == "done" and entry.key.casefold() in wanted_names:
                by_name.setdefault(entry.key.casefold(), entry.key)
        copies = {}
        for path in strays:
            near = (by_name[name] for name in names[path] if name in by_name)
            key = by_digest.get(digests[path]) or next(near, None)
            if key is not None:
                copies[path] = key
        return copies

    def _of_label(self, path: Path, copies: Mapping[Path, str]) -> Problem:
        where = self._name(path)
        key = self._key_of(path)
        entry = self._entry_of(path)
        own = _is_made_with(path, self.digest)
        if entry is not None:
            reason = f"the label of {key}, which has failed: {entry.reason}"
            return Problem("stray", where, reason, damage=False)
        if own and path.suffix == ".png" and (key in self.listed or path not in copies):
            reason = f"a label of {key} that this run made and has not recorded"
            # deleted by a repair only where the next run can make it again
            return Problem("stray", where, reason, damage=False, own=key in self.listed and _is_utf8(key))
        if path in copies:
            return Problem("duplicate", where, f"a second label of {copies[path]}")
        return Problem("stray", where, "no item of the run has this label" + ("" if own else "; not made by this run"))

    def _of_store(self, store: SoftStore | None, slots: Mapping[str, int]) -> Iterator[Problem]:
        """Files of the soft store that are neither metadata nor the chunk of an item that has its slot."""
        metadata = {self.workspace.soft / "zarr.json"}
        keys = {slot: key for key, slot in slots.items()}
        if store is not None:
            metadata |= {store.array_path(size) / "zarr.json" for size in store.array_sizes()}
        for path in _files(self.workspace.soft):
            if path in metadata:
                continue
            slot = None if store is None else store.chunk_slot(path)
            key = None if slot is None else keys.get(slot)
            if store is None or slot is None:
                yield Problem("stray", self._name(path), "no file of a store of confidence")
            elif key is None:
                yield Problem("stray", self._name(path), f"no item has slot {slot}", damage=False, own=True)
            else:
                entry = self.ledger.get(key)
                if entry is None or entry.status != "done":
                    continue  # the next run writes it again
                if path != store.chunk_path(slot, (entry.height, entry.width)):
                    reason = f"slot {slot} is of {key}, whose chunk lies elsewhere"
                    yield Problem("stray", self._name(path), reason, damage=False, own=True)

    def _elsewhere(self) -> Iterator[Problem]:
        """Whatever else lies in the RUN; a folder is told once."""
        run, root = self.workspace, self.workspace.root
        images = None if self.images is None else self.images.resolve()
        if images == root.resolve():
            return  # it is a folder of images too, and what lies beside them is not the run's concern
        known = {run.labels, run.soft, run.attention, run.scratch, run.ledger}
        known |= {run.settings, run.classes, run.failures, run.calibration, run.audit}
        for path in sorted(root.iterdir()):
            if path in known or any(fnmatch(path.name, pattern) for pattern in _OF_THE_SYSTEM):
                continue
            if images is not None and images.is_relative_to(path.resolve()):
                continue
            if not path.is_dir():
                yield Problem("stray", self._name(path), "no file that a run makes", damage=False)
            elif count := sum(1 for _ in _files(path)):
                yield Problem(
                    "stray", self._name(path), f"no folder that a run makes; files in it: {count}", damage=False
                )

    def _name(self, path: Path) -> str:
        name = path.relative_to(self.workspace.root).as_posix()
        return name if _is_utf8(name) else repr(name)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones too, without following links to folders."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(here, name) for name in sorted(files))


def _near_names(key: str) -> tuple[str, ...]:
    """What a label's key may have been, but for case, before its file was renamed: suffixes taken away."""
    folder, slash, name = key.casefold().rpartition("/")
    stem = name.rpartition(".")[0]
    return tuple(folder + slash + n for n in dict.fromkeys((name, stem, stem.rpartition(".")[0])) if n)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # a dangling link, or not readable: no copy of anything
        return ""


def _is_made_with(path: Path, digest: str) -> bool:
    try:
        return read_provenance(path).get("settings") == digest
    except (OSError, LabelError):
        return False
