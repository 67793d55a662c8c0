"""The main job: label a set of images with a teacher, one entry an item, whatever happens to the process.

Decoding, the network and encoding overlap: threads read ahead of the device, threads write behind it, both through
bounded queues, so memory does not grow with the set. This thread drives the device and alone writes the ledger.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Self

from pipeline.decoding import Decoded, group_by_size, read_ahead
from pipeline.forecast import Forecast
from pipeline.kept_confidence import StoreWriter, find_store, release_slots
from pipeline.plan import Plan, make_plan
from pipeline.provenance import decisive_settings, label_provenance
from pipeline.run_folder import claim, list_failures, opened_run, publish_label, record_plan, refuse_foreign
from pipeline.settings import LabelSettings, settings_digest, thresholds_by_class
from storage.account import ByteAccount
from storage.budget import LEDGER_BYTES, measure_bytes
from storage.clean_up import remove_small_components
from storage.errors import BudgetError, ImageError
from storage.label_map import LabelMap
from storage.layouts import Listing, list_images
from storage.ledger import Entry
from storage.schema import load_schema
from storage.soft_store import StoreForm, is_on_grid
from storage.workspace import Workspace
from teacher import Teacher, load_teacher
from teacher.decision import DecisionRule
from teacher.inference import Decision

_DECODERS = 2
_ENCODERS = 2


@dataclass(slots=True)
class LabelSummary:
    """Counts of a run; `total = labelled + failed + skipped` once it has ended."""

    total: int
    """Images of the listing; of a shard, its own."""
    skipped: int
    """Done by an earlier run."""
    labelled: int = 0
    failed: int = 0
    bytes: int = 0
    """Of all labels of the listing, this run's and earlier ones."""
    pixels: int = 0
    ignored: int = 0

    @property
    def ignore_fraction(self) -> float:
        """Share of the pixels that was given no class, over all labels of the listing."""
        return self.ignored / self.pixels if self.pixels else 0.0

    def add(self, entry: Entry) -> None:
        """Count an item of this run."""
        if entry.status == "failed":
            self.failed += 1
        else:
            self.labelled += 1
            self.add_label(entry)

    def add_label(self, entry: Entry) -> None:
        """Count a label's bytes and pixels."""
        self.bytes += entry.bytes
        self.pixels += entry.height * entry.width
        self.ignored += entry.ignored


class LabelRun:
    """A labelling run: opened, planned, then iterated for its entries.

    Opening loads the teacher, takes the workspace's lock and refuses a workspace that holds labels of other settings.
    Use it as a context manager; leaving it records what was finished, also after an error or Ctrl-C.

    Raises:
        ForeignSettingsError: the workspace holds labels made with other settings; the message shows the difference.
        BudgetError: the budget leaves no room for a label.
        WorkspaceError: the workspace cannot be written, or another process has it.
        MissingFileError, SettingsError, SchemaError, CheckpointError: the teacher cannot be made as asked.
    """

    plan: Plan
    """What is done and what is to do."""
    forecast: Forecast
    """What the run will take on the disk."""

    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings
        self._account = ByteAccount(settings.budget)
        self.workspace = Workspace(settings.out, self._account)
        if not self.workspace.ledger.exists():
            self._account.open(LEDGER_BYTES, self.workspace.ledger)  # a hopeless budget leaves nothing behind
        # the cheap checks come first: a wrong path should not cost the loading of a network
        listing = list_images(settings.images, settings.layout, exclude=[settings.out, self.workspace.labels])
        listing = listing.of_shard(settings.shard)
        schema = None if settings.classes is None else load_schema(settings.classes)
        with ExitStack() as stack:
            self.ledger = stack.enter_context(opened_run(self.workspace))
            self.teacher: Teacher = load_teacher(
                settings.teacher, settings.weights, schema=schema, device=settings.device, precision=settings.precision
            )
            self._rule = DecisionRule(
                thresholds_by_class(settings.threshold, settings.class_thresholds, self.teacher.schema),
                settings.keep,
                settings.keep_steps,
            )
            self.decisive = decisive_settings(settings, self.teacher)
            self.digest = settings_digest(self.decisive)
            self._provenance = label_provenance(self.decisive, self.teacher.schema)
            self._plan(listing)
            self._stack = stack.pop_all()

    def _plan(self, listing: Listing) -> None:
        """Decide what is to do, and only then write: a run that is refused leaves the folder as it was."""
        settings, workspace, ledger, schema = self.settings, self.workspace, self.ledger, self.teacher.schema
        refuse_foreign(workspace, ledger, ledger.settings, self.decisive, settings)
        store = None
        if settings.keep != "none":
            store = find_store(workspace, StoreForm(settings.keep, settings.keep_steps, schema.names))
        self.plan = make_plan(listing, ledger, workspace, self.digest, store)
        used, to_write = measure_bytes(settings.out).total_bytes, bool(self.plan.to_do or self.plan.refused)
        self._account.open(used, workspace.ledger, to_write=to_write)
        claim(workspace, ledger, ledger.settings, self.decisive, settings, "label", schema)
        ledger.forget_failures(listing.keys)
        keys = [item.key for item in self.plan.to_do]
        self._keeper = None if store is None else StoreWriter.open(workspace, store, ledger, keys)
        if store is None:
            release_slots(workspace, ledger, keys)  # an earlier run was to keep what this one does not
        self.summary = LabelSummary(total=self.plan.total, skipped=len(self.plan.done))
        for entry in self.plan.done:
            self.summary.add_label(entry)
        record_plan(workspace, ledger, self.plan.total, len(self.plan.done))
        self._account.settle(rows=0)
        left = len(self.plan.to_do) + len(self.plan.refused)
        self.forecast = Forecast(workspace, self.plan.done, left, settings.png)

    @property
    def thresholds_off_grid(self) -> tuple[float, ...]:
        """Of the run's thresholds, those that what it keeps cannot tell; none where it keeps nothing."""
        if self._rule.keep == "none":
            return ()
        return tuple(sorted({t for t in self._rule.thresholds if not is_on_grid(t, self._rule.steps)}))

    @property
    def used_bytes(self) -> int:
        """Bytes of all files of the run, with those that are reserved."""
        return self._account.used

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields the entry of every item that was to do, once it is in the ledger.

        Raises:
            BudgetError: the next label would pass the budget; what was made before stays and counts, as it does with
            DiskFullError, WorkspaceError: a label or the ledger cannot be written.
        """
        batch = self.settings.batch
        with ThreadPoolExecutor(_DECODERS, "decode") as decoders, ThreadPoolExecutor(_ENCODERS, "encode") as encoders:
            writing: deque[Future[Entry]] = deque()
            try:
                refused = list(self.plan.failures(self.digest))
                self._commit(refused)
                yield from refused
                decoded = read_ahead(self.plan.to_do, decoders, depth=2 * batch + _DECODERS)
                for group in group_by_size(decoded, batch):
                    writing.extend(self._label(group, encoders))
                    yield from self._record(writing, keep=2 * batch + _ENCODERS)
                yield from self._record(writing, keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                decoders.shutdown(cancel_futures=True)
                with suppress(BudgetError):  # it is on its way already
                    self._commit([f.result() for f in writing if f.exception() is None])
                list_failures(self.workspace, self.ledger)

    def _record(self, writing: deque[Future[Entry]], keep: int) -> list[Entry]:
        """Commit what has been written, from the queue's head; wait for as many as are over `keep`."""
        entries: list[Entry] = []
        try:
            while writing and (len(writing) > keep or writing[0].done()):
                entries.append(writing[0].result())
                writing.popleft()
        finally:
            self._commit(entries)  # one write that failed does not cost the record of those before it
        return entries

    def _commit(self, entries: list[Entry]) -> None:
        """Record entries; failures that there is no room for are left out, and end the run."""
        full: BudgetError | None = None
        recorded = []
        for entry in entries:
            if entry.status == "failed":
                try:
                    self._account.reserve(0, rows=1)
                except BudgetError as error:
                    full = error
                    continue
            recorded.append(entry)
        if recorded:
            self.ledger.commit(recorded)
            self._account.settle(rows=len(recorded))
            for entry in recorded:
                self.summary.add(entry)
                self.forecast.add(entry)
        if full is not None:
            raise full

    def _label(self, group: list[Decoded], encoders: ThreadPoolExecutor) -> Iterator[Future[Entry]]:
        """Label images of one size and hand them to the encoders; a failure costs its image alone."""
        images = [one.image for one in group if one.image is not None]
        if not images:
            for one in group:
                yield encoders.submit(self._failure, one, one.reason)
            return
        started = time.perf_counter()
        try:
            decisions = self.teacher.decide(images, self.settings.scales, self._rule, flip=self.settings.flip)
        except (ImageError, RuntimeError, MemoryError) as error:
            if len(group) > 1:
                for one in group:
                    yield from self._label([one], encoders)
            else:
                reason = str(error) or type(error).__name__
                yield encoders.submit(self._failure, group[0], f"{group[0].item.image}: {reason}")
            return
        seconds = (time.perf_counter() - started) / len(images)
        for one, decision in zip(group, decisions, strict=True):
            yield encoders.submit(self._publish, one, decision, seconds)

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.digest, reason=reason)

    def _publish(self, one: Decoded, decision: Decision, seconds: float) -> Entry:
        label = LabelMap(decision.label, len(self.teacher.schema))
        label = remove_small_components(label, self.settings.min_component)
        beside = []
        if self._keeper is not None and decision.soft is not None:
            beside = self._keeper.files(one.item.key, decision.soft)
        return publish_label(
            self.workspace,
            one.item.key,
            label,
            self._provenance,
            self.settings.form,
            self.teacher.schema,
            beside,
            settings_digest=self.digest,
            image_bytes=one.image_bytes,
            image_modified_ns=one.image_modified_ns,
            image_sha256=one.image_sha256,
            seconds=seconds,
        )
