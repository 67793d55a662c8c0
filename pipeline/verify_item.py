"""One item of a verification: its label, its kept confidence and its image against what the ledger says of it.

The first problem found is told, the most specific first; each is found without the hash of the file. Nothing is
written, and the ledger is not read: threads share what is here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt

from pipeline.merge_pair import ImageMark, LabelPair, Mark, Marks, pair_digest
from pipeline.merge_plan import compared_settings
from pipeline.settings import settings_digest
from pipeline.verify_problem import Problem
from storage.agreement import image_agrees
from storage.clean_up import remove_small_components
from storage.errors import ImageError, LabelError, SettingsError
from storage.image_reader import MAX_PIXELS, read_image_size
from storage.integrity import ProvenLabel, read_proven_label
from storage.label_map import LabelMap, count_values
from storage.layouts import LabelFile
from storage.ledger import Entry
from storage.run_form import RunForm
from storage.schema import IGNORE, Ids
from storage.soft_store import NO_CONFIDENCE, Planes, SoftStore, apply_thresholds, level_of


@dataclass(frozen=True, slots=True)
class Subject:
    """A done item, and where its files are."""

    entry: Entry
    label: Path
    image: Path | None
    """None: not there, or not known."""
    slot: int | None
    """Of its chunk in the soft store; None: no confidence is kept."""
    note: Mapping[str, Any] | None
    """What is noted beside the entry."""


@dataclass(frozen=True)
class ItemCheck:
    """What the items of a run must agree with; threads may share it."""

    form: RunForm
    digest: str
    """Of the run's settings."""
    merged: bool
    """Whether it is a merging run, whose entries also answer for both parents."""
    store: SoftStore | None
    thresholds: tuple[float, ...] | None
    """By class index, where the store can tell what the label must be."""
    min_component: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], store: SoftStore | None) -> Self:
        """Read a ledger's settings.

        Raises:
            WorkspaceError: they do not say what the classes are.
        """
        form = RunForm.of(settings)
        return cls(
            form,
            settings_digest(compared_settings(settings)),
            "merge_rule" in settings,
            store,
            None if store is None else _thresholds_on_grid(settings, form, store),
            int(settings.get("min_component", 0)),
        )

    def find_problem(self, subject: Subject) -> Problem | None:
        """Check an item, and give the first problem of it."""
        return next(self._problems(subject), None)

    def _problems(self, subject: Subject) -> Iterator[Problem]:
        entry, key = subject.entry, subject.entry.key
        try:
            content = read_label_file(subject.label)
            label = read_proven_label(content)
        except (FileNotFoundError, NotADirectoryError):
            yield Problem("missing", key, "there is no label file")
            return
        except IsADirectoryError:
            yield Problem("missing", key, "a folder lies in the label's place")
            return
        except LabelError as error:
            yield Problem("undecodable", key, f"the label {error}")
            return
        except OSError as error:
            yield Problem("undecodable", key, f"the label cannot be read: {error.strerror or error}")
            return
        image, unreadable = _image_size(subject.image)
        replaced = not unreadable and subject.image is not None and not image_agrees(entry, subject.image)
        yield from self._size_problems(entry, label, None if replaced else image)
        counts = self.count(label)
        if isinstance(counts, str):
            yield Problem("illegal value", key, f"the label {counts}")
            return
        yield from self._settings_problems(subject, label)
        yield from self._alterations(entry, content, counts)
        if subject.slot is not None and self.store is not None:
            yield from self._chunk_problems(subject, label, subject.slot, self.store)
        if unreadable:
            yield Problem("unfinished", key, f"its image was damaged since: {unreadable}", damage=False)
        elif replaced:
            yield Problem("unfinished", key, "its image was replaced since; the next run does it again", damage=False)

    def _alterations(self, entry: Entry, content: bytes, counts: npt.NDArray[np.int64]) -> Iterator[Problem]:
        if tuple(counts[: len(self.form.names)].tolist()) != entry.counts or int(counts[IGNORE]) != entry.ignored:
            yield Problem("altered", entry.key, "the label's pixels by class are not those recorded")
        if len(content) != entry.bytes:
            yield Problem("altered", entry.key, f"the label has {len(content)} bytes, recorded are {entry.bytes}")
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            yield Problem("altered", entry.key, "the label's hash is not the one recorded")

    def _size_problems(self, entry: Entry, label: ProvenLabel, image: tuple[int, int] | None) -> Iterator[Problem]:
        height, width = label.size
        for what, size in (("recorded is", (entry.height, entry.width)), ("its image is", image)):
            if size is not None and size != (height, width):
                reason = f"the label is {width}x{height}, {what} {size[1]}x{size[0]}"
                yield Problem("wrong size", entry.key, reason)

    def count(self, label: ProvenLabel) -> npt.NDArray[np.int64] | str:
        """Pixels by class index or ignore, (256,); or which value is illegal."""
        present = np.flatnonzero(label.counts).astype(np.uint8)
        try:
            indices = self.form.to_indices(present)  # of each value once: a hundred times fewer than of each pixel
        except LabelError as error:
            return str(error)
        counts = np.zeros(256, np.int64)
        np.add.at(counts, indices, label.counts[present])
        return counts

    def _settings_problems(self, subject: Subject, label: ProvenLabel) -> Iterator[Problem]:
        key, found = subject.entry.key, label.provenance.get("settings")
        if found is None:
            yield Problem("foreign settings", key, "the label does not say what it was made with: not by this run")
        elif found != self.digest:
            yield Problem("foreign settings", key, f"the label says settings {found}, the run's are {self.digest}")
        recorded = subject.entry.settings_digest
        if not self.merged and recorded != self.digest:
            yield Problem("foreign settings", key, f"the entry says settings {recorded}, the run's are {self.digest}")
        if self.merged and not self._fits_parents(subject, label):
            yield Problem("foreign settings", key, "label, entry and note differ in the parents it was merged from")

    def _fits_parents(self, subject: Subject, label: ProvenLabel) -> bool:
        """Whether label, entry and note speak of the same two parents, whatever the parents' values meant."""
        try:
            marks = Marks(*(None if mark is None else Mark(*mark) for mark in (subject.note or {})["parents"]))
        except (KeyError, TypeError):
            return False
        if any(
            label.provenance.get(f"{side}_sha256") != (None if mark is None else mark.sha256)
            for side, mark in marks._asdict().items()
        ):
            return False
        for meaning in product(get_args(Ids), repeat=2):
            files = [None if mark is None else LabelFile(Path(), ids) for mark, ids in zip(marks, meaning, strict=True)]
            pair = LabelPair(subject.entry.key, files[0], files[1], ImageMark())
            if pair_digest(self.digest, pair, marks) == subject.entry.settings_digest:
                return True
        return False

    def _chunk_problems(self, subject: Subject, label: ProvenLabel, slot: int, store: SoftStore) -> Iterator[Problem]:
        entry, key, form = subject.entry, subject.entry.key, store.form
        size = (entry.height, entry.width)
        if not store.chunk_path(slot, size).is_file():
            yield Problem("chunk missing", key, f"there is no {store.chunk_path(slot, size)}")
            return
        try:
            planes = store.read(slot, size)
        except LabelError as error:
            yield Problem("chunk damaged", key, str(error))
            return
        for name, plane in zip(form.planes, planes, strict=True):
            legal = form.steps if name == "confidence" else len(form.classes)
            beyond = NO_CONFIDENCE if name == "confidence" else 256
            if count_values(plane)[legal:beyond].any():
                reason = f"{store.chunk_path(slot, size)}: {name} holds values that are none of 0..{legal - 1}"
                yield Problem("illegal chunk", key, reason)
        if (decided := self.decide(planes)) is None:
            return
        if different := int(np.count_nonzero(decided.values != self.form.to_indices(label.values))):
            reason = f"{different} pixels are not what the kept confidence says at the run's thresholds"
            yield Problem("store disagrees", key, reason)

    def decide(self, planes: Planes) -> LabelMap | None:
        """The label that the kept confidence of an image says; None where the store cannot tell it exactly.

        Raises:
            LabelError: a pixel has a class that there is not.
        """
        if self.store is None or self.thresholds is None:
            return None
        values = apply_thresholds(planes, self.thresholds, self.store.form.steps)
        return remove_small_components(LabelMap(values, len(self.form.names)), self.min_component)


def read_label_file(path: Path) -> bytes:
    """The content of what lies in a label's place.

    Raises:
        LabelError: it is too large for any label.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > 2 * MAX_PIXELS:  # no label is as large, and memory is not for what may lie here
        raise LabelError(f"has {size} bytes, which no label has")
    return path.read_bytes()


def _image_size(image: Path | None) -> tuple[tuple[int, int] | None, str]:
    """(height, width) of an image, or why it cannot be told; neither where there is no image."""
    try:
        return (None if image is None else read_image_size(image)), ""
    except ImageError as error:
        return None, str(error)


def _thresholds_on_grid(settings: Mapping[str, Any], form: RunForm, store: SoftStore) -> tuple[float, ...] | None:
    """The run's thresholds by class index; None where the store cannot decide them exactly."""
    own, common = settings.get("class_thresholds") or {}, settings.get("threshold")
    if common is None or store.form.classes != form.names:
        return None
    thresholds = tuple(float(own.get(name, common)) for name in form.names)
    try:
        for threshold in thresholds:
            level_of(threshold, store.form.steps)
    except SettingsError:
        return None
    return thresholds
