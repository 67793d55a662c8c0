"""Gathering runs into one: the labels of several jobs that shared a data set, and the proof that nothing is missing.

Labels and kept confidence are taken as they are, each once it has proven to be what its run recorded; no network is
run. The result is a RUN like any other, with the settings that one `label` of all images would have written.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pydantic import Field

from pipeline.calibrated import keep_calibration, kept_calibration
from pipeline.gather_plan import GatherPlan, GatherPlanner, Holdings, Task
from pipeline.gather_source import GatherSource, absent_shards, open_sources, shard_count
from pipeline.kept_confidence import StoreWriter, find_store, release_slots
from pipeline.labelling import LabelSummary
from pipeline.run_folder import claim, list_failures, opened_run, record_plan
from pipeline.settings import LabelSettings, Settings, settings_digest
from pipeline.threads import work_and_record
from storage.adoption import Adopted
from storage.agreement import image_agrees
from storage.errors import LabelError, LayoutError, MissingFileError, WorkspaceError
from storage.layouts import Listing, list_images
from storage.ledger import Entry
from storage.shard import Shard
from storage.workspace import Workspace


class GatherSettings(Settings):
    """What `gather` does."""

    runs: tuple[Path, ...] = Field(min_length=1)
    """Runs of `label` with the same settings, such as the shards of one data set."""
    images: Path | None = None
    """Where the images are now; None: where the runs say."""
    workers: int | None = Field(None, ge=1, le=256)
    """Threads; None: one a processor."""
    out: Path
    """Folder of the new run."""


@dataclass(slots=True)
class GatherSummary(LabelSummary):
    """Counts of a gathering; `total = labelled + failed + skipped + missing` once it has ended. Labelled: taken."""

    missing: int = 0
    """Images of which no run has an entry."""
    duplicates: int = 0
    """Items that more than one run has, with the same label; each counts once."""
    gone: int = 0
    """Labels of images that are not there any more."""
    linked: int = 0
    """Labels taken as a second name of the same file; the others are copies."""
    missing_by_shard: Counter[str] = field(default_factory=Counter)
    """Where the runs are shards of the same number of shards."""


@dataclass(frozen=True, slots=True)
class _Job:
    """An item with all that a thread needs to take it."""

    task: Task
    found: tuple[tuple[GatherSource, Entry], ...]
    """Its done entries, in the runs that have them."""
    reason: str
    """Why it has none."""
    slot: int | None
    """Where its confidence is kept, where it is."""


@dataclass(frozen=True, slots=True)
class _Taken:
    entry: Entry
    linked: bool = False


class GatherRun:
    """A gathering: opened, planned, then iterated for its entries.

    Use it as a context manager; leaving it records what was finished, also after an error or Ctrl-C.

    Raises:
        MissingFileError: a run, or the folder of images that was given, is not there.
        SettingsError: a run is given twice, or the new folder and a run lie in each other.
        ForeignSettingsError: the runs differ in their settings, or the new folder holds labels of others.
        LayoutError: two runs have different labels of one image.
        WorkspaceError: a folder cannot be read or written, or another process has it.
    """

    sources: tuple[GatherSource, ...]
    plan: GatherPlan
    listing: Listing | None
    """The images; None where they are not there to compare with."""
    absence: str
    """Why they are not there; empty where they are."""
    summary: GatherSummary

    def __init__(self, settings: GatherSettings) -> None:
        self.settings = settings
        self.workspace = Workspace(settings.out)
        with ExitStack() as stack:
            same_images = settings.images is None
            self.sources = open_sources(settings.runs, settings.out, stack, same_images=same_images)
            self.at_work = tuple(one.workspace.root for one in self.sources if one.workspace.is_at_work())
            """Runs that are not finished yet."""
            self.label_settings = self._label_settings()
            self.listing, self.absence = self._list_images()
            held = Holdings.of(self.sources)
            first = self.sources[0]
            self.decisive = first.decisive
            self.digest = settings_digest(self.decisive)
            self.ledger = stack.enter_context(opened_run(self.workspace))
            before = self.ledger.settings
            claim(self.workspace, self.ledger, before, self.decisive, self.label_settings, "label", first.schema)
            keep_calibration(
                self.workspace, self.label_settings, kept_calibration(first.workspace, self.label_settings)
            )
            self._plan(held)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def absent_shards(self) -> tuple[Shard, ...]:
        """Shards that none of the runs is of, where all of them are shards of the same number of shards."""
        return absent_shards(self.sources)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing or failed, as far as can be said; see `is_proven`."""
        no_shard_is_absent = self.is_proven or not self.absent_shards
        return not self.summary.failed and not self.summary.missing and no_shard_is_absent

    @property
    def is_proven(self) -> bool:
        """Whether the items were compared with the images that there are."""
        return self.listing is not None

    def _label_settings(self) -> LabelSettings:
        """The settings with which `label` would make the same run of all images."""
        first, own = self.sources[0].settings, self.settings
        # a shard's budget was for the shard
        changes = {"shard": None, "budget": None, "out": own.out, "images": own.images or first.images}
        return LabelSettings.checked(**first.model_dump() | changes)

    def _list_images(self) -> tuple[Listing | None, str]:
        exclude = [self.settings.out, self.workspace.labels, *(source.workspace.root for source in self.sources)]
        try:
            return list_images(self.label_settings.images, self.label_settings.layout, exclude), ""
        except (MissingFileError, LayoutError) as error:
            if self.settings.images is not None:
                raise
            return None, str(error)

    def _plan(self, held: Holdings) -> None:
        theirs = self.sources[0].store
        store = None if theirs is None else find_store(self.workspace, theirs.form)
        planner = GatherPlanner(self.sources, held, self.listing, self.workspace, self.ledger, self.digest, store)
        self.summary = GatherSummary(0, 0, duplicates=len(held.duplicates), gone=planner.count_gone())
        self.plan = planner.plan(self._count_done)
        self._images = planner.images
        self.duplicates = tuple(held.duplicates)
        """Keys of the items that more than one run has."""
        self.summary.total = self.summary.skipped + len(self.plan.to_do) + len(self.plan.missing)
        self._count_missing()
        self._keeper = None if store is None else StoreWriter.open(self.workspace, store, self.ledger, self._keys)
        if store is None:
            release_slots(self.workspace, self.ledger, self._keys)
        total, skipped = self.summary.total, self.summary.skipped
        record_plan(self.workspace, self.ledger, total, skipped, labels_are_new=False)

    def _keys(self) -> Iterator[str]:
        return (task.key for task in self.plan.to_do if task.runs)

    def _count_done(self, entry: Entry) -> None:
        self.summary.skipped += 1
        self.summary.add_label(entry)

    def _count_missing(self) -> None:
        self.summary.missing = len(self.plan.missing)
        if (count := shard_count(self.sources)) is not None:
            self.summary.missing_by_shard.update(str(Shard.of(key, count)) for key in self.plan.missing)

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields the entry of every item that was to be taken, once it is in the ledger.

        Raises:
            DiskFullError, WorkspaceError: a file or the ledger cannot be written; what was taken before stays.
        """
        workers = self.settings.workers or os.cpu_count() or 1
        try:
            yield from work_and_record(self._jobs(), self._take, self._commit, workers)
        finally:
            list_failures(self.workspace, self.ledger)

    def _jobs(self) -> Iterable[_Job]:
        """The work with its entries, read as it is needed, by the thread that may read ledgers."""
        for task in self.plan.to_do:
            found = [(self.sources[run], self.sources[run].ledger.get(task.key)) for run in task.runs]
            done = tuple((one, entry) for one, entry in found if entry is not None and entry.status == "done")
            reason = task.reason or f"{task.key}: a run at work has taken it up again"
            if task.failed_in is not None and (entry := self.sources[task.failed_in].ledger.get(task.key)) is not None:
                reason = entry.reason or reason
            yield _Job(task, done, reason, self.ledger.slot(task.key))

    def _commit(self, taken: list[_Taken]) -> list[Entry]:
        entries = [one.entry for one in taken]
        if entries:
            self.ledger.commit(entries)
            for entry in entries:
                self.summary.add(entry)
            self.summary.linked += sum(one.linked for one in taken)
        return entries

    def _take(self, job: _Job) -> _Taken:
        """Take an item from the first run that has it whole."""
        reasons = [] if job.found else [job.reason]
        for source, entry in job.found:
            try:
                return self._adopt(source, entry, job.slot)
            except LabelError as error:
                reasons.append(str(error))
        failure = Entry(key=job.task.key, status="failed", settings_digest=self.digest, reason="; ".join(reasons))
        return _Taken(failure)

    def _adopt(self, source: GatherSource, entry: Entry, to_slot: int | None) -> _Taken:
        key, run = entry.key, source.workspace.root
        if entry.settings_digest != self.digest:
            made_with = entry.settings_digest
            raise LabelError(f"{key}: {run} made it with other settings, {made_with}; run its `label` again")
        if (image := self._images.get(key)) is not None and not image_agrees(entry, image):
            raise LabelError(f"{image} was replaced since {run} labelled it; run its `label` again")
        try:
            theirs = source.workspace.label_path(key)
        except WorkspaceError as error:
            raise LabelError(str(error)) from error
        ours, chunk = self.workspace.label_path(key), self._chunk(source, entry, to_slot)
        linked = self.workspace.adopt_together([*chunk, Adopted(theirs, ours, entry.sha256)])
        return _Taken(replace(entry, modified_ns=ours.stat().st_mtime_ns), linked)

    def _chunk(self, source: GatherSource, entry: Entry, to_slot: int | None) -> list[Adopted]:
        """The file that keeps an item's confidence, once it has been read, where there is to be one."""
        keeper = self._keeper
        if keeper is None or source.store is None or to_slot is None:
            return []
        size, slot = (entry.height, entry.width), source.slots.get(entry.key)
        if slot is None:
            raise LabelError(f"{entry.key}: {source.workspace.root} kept no confidence of it; run its `label` again")
        source.store.read(slot, size)
        for path, content in keeper.new_array(size):
            self.workspace.publish(path, content)
        return [Adopted(source.store.chunk_path(slot, size), keeper.store.chunk_path(to_slot, size))]
