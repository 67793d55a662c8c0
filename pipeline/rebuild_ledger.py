"""A ledger made anew: a run whose ledger is damaged or gone gets another one, from its settings and its labels.

What proves a label is in `rebuild_item`, what the old ledger and the teacher still say in `rebuild_sources`, and whose
the kept confidence is in `rebuild_slots`. The new ledger grows under a name of its own: stopped at any point, the next
call goes on with it. Labels are never written, and never taken where they do not say that they are this run's.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

from pipeline.rebuild_item import FoundLabel, LabelProof, LookedAt
from pipeline.rebuild_slots import SlotFinder
from pipeline.rebuild_sources import ImageTable, Remains, find_decisive, is_sound
from pipeline.run_folder import record_plan
from pipeline.settings import LabelSettings, read_label_settings
from pipeline.threads import work_and_record
from pipeline.verify_account import Source
from pipeline.verify_item import ItemCheck
from pipeline.verify_problem import Problem
from storage.agreement import image_agrees, label_agrees
from storage.errors import ForeignSettingsError, MissingFileError, SettingsError, WorkspaceError
from storage.layouts import is_utf8
from storage.ledger import Entry, Ledger
from storage.soft_store import SoftStore
from storage.walk import FoundFile, walk_files
from storage.workspace import Workspace

PROBLEMS_KEPT = 1000
"""Labels without an entry that a summary holds; all are counted."""

_COPIES = """
SELECT key FROM entries WHERE image_sha256 = '' AND sha256 IN (SELECT sha256 FROM entries WHERE image_sha256 != '')
"""


@dataclass(slots=True)
class RebuildSummary:
    """Counts of a rebuilding, complete once it has ended."""

    files: int
    """In the folder of labels, as far as they may be any."""
    images: int
    """That the run is to label."""
    recorded: int = 0
    """Labels that have an entry now."""
    without_image: int = 0
    """Of these, those whose image is gone."""
    left_out: int = 0
    """Labels that have none."""
    problems: list[Problem] = field(default_factory=list)
    """Why, of the first `PROBLEMS_KEPT`."""
    keeps: bool = False
    """Whether the run keeps confidence."""
    slots: int = 0
    """Labels whose kept confidence was found again."""
    aside: Path | None = None
    """Where the damaged ledger is; None where there was none."""

    @property
    def left(self) -> int:
        """Images without an entry, which the next run labels."""
        return max(0, self.images - (self.recorded - self.without_image))

    @property
    def without_confidence(self) -> int:
        """Of the labels with an entry, those whose confidence was kept, or should have been, and is not known."""
        return self.recorded - self.slots if self.keeps else 0

    def leave_out(self, problem: Problem) -> None:
        """Count a label that gets no entry."""
        self.left_out += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


class LedgerRebuild:
    """A rebuilding: opened, then iterated for what becomes of each label; at the end the new ledger is in its place.

    Use it as a context manager. Left before the end, the ledger is as it was, and the next one goes on from there.

    Args:
        run: the RUN.
        workers: threads; one a processor by default.

    Raises:
        MissingFileError: there is no RUN, or its images are not there.
        SettingsError: its ledger is sound; or it is no run of `label`, and how that is made again.
        ForeignSettingsError: its settings are not those that the labels were made with.
        WorkspaceError: it is in use, its settings cannot be read, or nothing tells what the labels were made with.
        LayoutError: its images are not laid out as they were.
    """

    summary: RebuildSummary

    def __init__(self, run: Path, *, workers: int | None = None) -> None:
        self.workspace = Workspace(run.absolute().parent) if run.absolute().name == "labels" else Workspace(run)
        if not self.workspace.labels.is_dir() or not self.workspace.settings.is_file():
            raise MissingFileError(f"{run} is no RUN: it has no labels and settings.toml; give what `label` made")
        if workers is not None and workers < 1:
            raise SettingsError(f"workers is {workers}, expected at least 1")
        self._workers = workers or os.cpu_count() or 1
        self._settings = self._read_settings()
        with ExitStack() as stack:
            stack.callback(self.workspace.lock().release)
            if is_sound(self.workspace.ledger):
                raise SettingsError(
                    f"the ledger {self.workspace.ledger} is sound, and stays; `autocoarse verify {run}` checks the "
                    f"labels"
                )
            settings, out = self._settings, self.workspace
            self._images = ImageTable.of(settings, [settings.out, out.root, out.labels])
            stack.callback(self._images.close)
            self._ledgers = stack.enter_context(ExitStack())
            self._remains = self._ledgers.enter_context(Remains(out.ledger))
            decisive = find_decisive(out, settings, self._remains)
            self._check = ItemCheck.of(decisive, self._find_store())
            self._ledger = self._ledgers.enter_context(self._open(decisive))
            self.summary = RebuildSummary(sum(1 for _ in self._files()), self._images.count)
            self._stack = stack.pop_all()

    def _read_settings(self) -> LabelSettings:
        command, root = Source.of(self.workspace).command, self.workspace.root
        if command in ("merge", "import-review"):
            again = {"merge": f"merge --settings {self.workspace.settings}", "import-review": "import-review"}[command]
            raise SettingsError(
                f"{root} is a run of `{command}`, whose ledger holds more than its labels tell. It is made again in "
                f"little time: move {self.workspace.labels} and {self.workspace.ledger} away, and run `autocoarse "
                f"{again}`; until then the labels can be read as a folder, with --classes {self.workspace.classes}"
            )
        return read_label_settings(self.workspace.settings)

    def _find_store(self) -> SoftStore | None:
        try:
            return SoftStore.find(self.workspace.soft)
        except ForeignSettingsError:
            return None  # `verify` says what is wrong with it

    def _open(self, decisive: dict[str, object]) -> Ledger:
        """The new ledger, as an earlier call has left it."""
        path, shard = self.workspace.ledger_in_the_making, self._settings.shard
        try:
            with Ledger(path) as before:
                # one with a plan was complete, and its notes are gone
                goes_on = before.settings == decisive and before.shard == shard and before.plan is None
        except WorkspaceError:
            goes_on = False  # damaged as well, or another version's
        if not goes_on:
            for name in (f"{path.name}-journal", path.name):
                path.with_name(name).unlink(missing_ok=True)
        ledger = Ledger(path)
        ledger.claim(decisive, shard)
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields an entry for each file, of one that is left out a failed one that nobody records.

        Raises:
            WorkspaceError: the new ledger cannot be written.
            OSError: the old one cannot be put aside.
        """
        proof = LabelProof(self._check, self._settings.shard)
        yield from work_and_record(self._labels(), proof.look, self._record, self._workers)
        self._forget_copies()
        self.summary.keeps = self._settings.keep != "none"
        self.summary.slots = SlotFinder(self._ledger, self._check, self._workers).record()
        done = self.summary.images - self.summary.left
        record_plan(self.workspace, self._ledger, self.summary.images, done, labels_are_new=False)
        self._ledger.forget_notes()
        self._put_in_place()

    def _files(self) -> Iterator[FoundFile]:
        files = walk_files(self.workspace.labels, strange=[])
        return (file for file in files if file.relative.endswith(".png") and is_utf8(file.relative))

    def _labels(self) -> Iterator[FoundLabel]:
        for file in self._files():
            key = file.relative.removesuffix(".png")
            path, image = self.workspace.labels / file.relative, self._images.find(key)
            made = self._ledger.get(key)
            if made is not None and label_agrees(made, path) and (image is None or image_agrees(made, image)):
                yield FoundLabel(key, path, image, made=made)
            else:
                yield FoundLabel(key, path, image, before=self._remains.get(key))

    def _record(self, looked: list[LookedAt]) -> list[Entry]:
        entries = [self._account(one) for one in looked]
        if left_out := [one.found.key for one in looked if one.entry is None]:
            # an earlier call, which was stopped, may have taken what was there then
            self._ledger.forget(left_out)
            self._ledger.take_slots(left_out)
        new = [one for one in looked if one.entry is not None and one.found.made is None]
        if new:
            notes = {one.found.key: {"pixels": one.pixels} for one in new if one.pixels}
            self._ledger.commit([one.entry for one in new if one.entry is not None], notes)
        return entries

    def _account(self, one: LookedAt) -> Entry:
        if one.entry is not None:
            self.summary.recorded += 1
            self.summary.without_image += one.found.image is None
            return one.entry
        assert one.problem is not None, "it says why there is no entry"
        self.summary.leave_out(one.problem)
        return Entry(key=one.found.key, status="failed", settings_digest="", reason=one.problem.reason)

    def _forget_copies(self) -> None:
        """Leave out copies of labels under other names: no image is there of whose they could be."""
        copies = [key for (key,) in self._ledger.read(_COPIES)]
        self._ledger.forget(copies)
        self.summary.recorded -= len(copies)
        self.summary.without_image -= len(copies)
        for key in copies:
            self.summary.leave_out(
                Problem("duplicate", key, "there is no such image, and another label has these bytes")
            )

    def _put_in_place(self) -> None:
        """Put what is left of the old ledger aside, and the new one in its place."""
        self._ledgers.close()
        old, aside = self.workspace.ledger, self.workspace.damaged_ledger
        names = (aside.with_stem(f"{aside.stem}-{number}") for number in count(2))
        if aside.exists():
            aside = next(path for path in names if not path.exists())
        # what is left of its last transaction goes first: beside the new one it would be played back into that
        for name in (f"{old.name}-journal", old.name):
            if old.with_name(name).exists():
                old.with_name(name).replace(aside.with_name(name.replace(old.name, aside.name)))
                self.summary.aside = aside
        self.workspace.ledger_in_the_making.replace(old)
