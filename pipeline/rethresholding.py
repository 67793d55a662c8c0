"""Other thresholds for a run whose confidence was kept: the labels that labelling at them would have made.

No network is run: each label is decided again from what the soft store holds, in threads, as fast as the disk allows.
The result is a RUN like any other, with the settings and the digest that `label` would have given it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from pipeline.calibrated import keep_calibration, kept_calibration, with_thresholds
from pipeline.calibration_file import Calibration, read_calibration
from pipeline.labelling import LabelSummary
from pipeline.plan import refusals
from pipeline.provenance import label_provenance
from pipeline.publishing import publish_label
from pipeline.run_folder import claim, list_failures, opened_run, reason_to_keep, record_plan
from pipeline.settings import (
    LabelSettings,
    Settings,
    Threshold,
    read_label_settings,
    settings_digest,
    thresholds_by_class,
)
from pipeline.threads import work_and_record
from storage.agreement import label_agrees
from storage.clean_up import remove_small_components
from storage.errors import LabelError, MissingFileError, SettingsError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import Preset
from storage.ledger import Entry, Ledger
from storage.schema import load_schema
from storage.soft_store import SoftStore, apply_thresholds, is_on_grid, level_of
from storage.workspace import Workspace


class RethresholdSettings(Settings):
    """What `rethreshold` does."""

    run: Path
    """A run of `label` with kept confidence."""
    threshold: Threshold | None = None
    """Of all classes but those below; None: the run's own."""
    class_thresholds: dict[str, Threshold] | None = None
    """Thresholds of classes that have one of their own, by class name; None: the run's."""
    thresholds: Path | None = None
    """A calibration, which has a threshold for each class."""
    png: Preset | None = None
    """How hard the label PNGs are compressed; None: as the run's."""
    workers: int | None = Field(None, ge=1, le=256)
    """Threads; None: one a processor."""
    out: Path
    """Folder of the new run."""

    @model_validator(mode="after")
    def _thresholds_from_one_place(self) -> Self:
        others = {"threshold": self.threshold, "class_thresholds": self.class_thresholds}
        if self.thresholds is not None and (given := [name for name, value in others.items() if value is not None]):
            raise SettingsError(
                f"got both thresholds, the calibration {self.thresholds}, and {' and '.join(given)}: leave one out"
            )
        return self


class RethresholdRun:
    """A run of other thresholds: opened, planned, then iterated for its entries.

    Use it as a context manager; leaving it records what was finished, also after an error or Ctrl-C.

    Raises:
        BrokenLedgerError: the run's ledger is gone or damaged.
        MissingFileError: there is no such run, or its confidence was not kept.
        SettingsError: a threshold is not on the grid of the kept confidence, a name is no class, or the calibration is
            of other confidences than those that were kept.
        ForeignSettingsError: the new folder holds labels made with other settings.
        WorkspaceError: a folder cannot be read or written, or another process has it.
    """

    plan: tuple[Entry, ...]
    """The run's entries whose labels are to be made again."""
    without_label: int
    """Items that have no label in the run, and will have none here."""

    def __init__(self, settings: RethresholdSettings) -> None:
        self.settings = settings
        self._parent = Workspace(settings.run)
        self.workspace = Workspace(settings.out)
        self._parent.refuse_lost_ledger()
        if not self._parent.is_run() or (store := SoftStore.find(self._parent.soft)) is None:
            raise MissingFileError(
                f"{settings.run} is no run of `label --keep confidence` or top2; without kept confidence another "
                f"threshold means labelling again"
            )
        self._store = store
        self._refuse_overlap()
        with ExitStack() as stack:
            parent = stack.enter_context(Ledger(self._parent.ledger, read_only=True))
            self.schema = load_schema(str(self._parent.classes))
            self._calibration: Calibration | None = None
            if settings.thresholds is not None:
                self._calibration = read_calibration(settings.thresholds)
            self.label_settings = self._label_settings(parent)
            self.decisive = self._decisive_settings(parent)
            self.digest = settings_digest(self.decisive)
            self._thresholds = self._class_thresholds()
            self._theirs = self._thresholds_of_the_run(parent)
            self._provenance = label_provenance(self.decisive, self.schema)
            self.ledger = stack.enter_context(opened_run(self.workspace))
            claim(
                self.workspace,
                self.ledger,
                self.ledger.settings,
                self.decisive,
                self.label_settings,
                "label",
                self.schema,
            )
            keep_calibration(self.workspace, self.label_settings, self._calibration)
            self._slots = parent.slots()
            self._plan(parent)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _refuse_overlap(self) -> None:
        out, run = self.workspace.root.resolve(), self._parent.root.resolve()
        if out.is_relative_to(run) or run.is_relative_to(out):
            raise SettingsError(
                f"--out {self.workspace.root} and {self._parent.root} lie in each other; choose another"
            )

    def _label_settings(self, parent: Ledger) -> LabelSettings:
        """The settings with which `label` would make the same run."""
        before, own, recorded = read_label_settings(self._parent.settings), self.settings, parent.settings or {}
        theirs = recorded.get("threshold"), recorded.get("class_thresholds", {})
        changes = {
            "threshold": theirs[0] if own.threshold is None else own.threshold,
            "class_thresholds": theirs[1] if own.class_thresholds is None else own.class_thresholds,
            "png": own.png or before.png,
            "keep": "none",
            "budget": None,
            "out": own.out,
        }
        asked = LabelSettings.checked(**before.model_dump() | changes)
        if self._calibration is None:
            self._calibration = kept_calibration(self._parent, asked)
            return asked
        return with_thresholds(asked, self._calibration, recorded, brings_temperature=False)

    def _decisive_settings(self, parent: Ledger) -> dict[str, object]:
        decisive = dict(parent.settings or {})
        decisive.pop("class_thresholds", None)
        decisive["threshold"] = self.label_settings.threshold
        if self.label_settings.class_thresholds:
            decisive["class_thresholds"] = dict(self.label_settings.class_thresholds)
        return decisive

    def _class_thresholds(self) -> tuple[float, ...]:
        settings, steps = self.label_settings, self._store.form.steps
        if self._store.form.classes != self.schema.names:
            raise WorkspaceError(f"{self._store.root} keeps other classes than {self._parent.classes} names")
        thresholds = thresholds_by_class(settings.threshold, settings.class_thresholds, self.schema)
        thresholds = thresholds if len(thresholds) > 1 else thresholds * len(self.schema)
        for threshold in thresholds:
            level_of(threshold, steps)  # refuses what is not on the grid before anything is written
        return thresholds

    def _thresholds_of_the_run(self, parent: Ledger) -> tuple[float, ...] | None:
        """The run's own thresholds by class; None where they are off the grid, or its labels were cleaned up since."""
        settings = parent.settings or {}
        own = settings.get("class_thresholds", {})
        assert isinstance(own, dict), "a run records it so"
        thresholds = tuple(own.get(name, settings.get("threshold")) for name in self.schema.names)
        exact = all(is_on_grid(threshold, self._store.form.steps) for threshold in thresholds)
        return thresholds if exact and not settings.get("min_component") else None

    def _plan(self, parent: Ledger) -> None:
        to_do: list[Entry] = []
        refused: list[tuple[str, str]] = []
        self.summary = LabelSummary(total=0, skipped=0)
        keys = set()
        entries = list(parent)  # all at once: a run that is at work waits for whoever reads its ledger
        done = [entry for entry in entries if entry.status == "done"]
        planned = (parent.plan or {}).get("total", 0)
        self.without_label = max(planned, len(entries)) - len(done)
        for entry in done:
            keys.add(entry.key)
            made = self.ledger.get(entry.key)
            label = self.workspace.label_path(entry.key)
            if made is not None and self._is_current(made, entry) and label_agrees(made, label):
                self.summary.skipped += 1
                self.summary.add_label(made)
            elif reason := reason_to_keep(label, self.digest, "the label made again"):
                refused.append((entry.key, reason))
            else:
                to_do.append(entry)
        self.summary.total = len(keys)
        self.plan, self._refused = tuple(to_do), tuple(refused)
        self.ledger.forget_failures(frozenset(keys))
        record_plan(self.workspace, self.ledger, self.summary.total, self.summary.skipped)

    def _is_current(self, made: Entry, entry: Entry) -> bool:
        same = made.settings_digest == self.digest and made.image_sha256 == entry.image_sha256
        return made.status == "done" and same

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields the entry of every label that was to be made, once it is in the ledger.

        Raises:
            DiskFullError, WorkspaceError: a label or the ledger cannot be written; what was made before stays.
        """
        refused = refusals(self._refused, self.digest)
        workers = self.settings.workers or os.cpu_count() or 1
        try:
            yield from work_and_record(self.plan, self._make, self._commit, workers, refused)
        finally:
            list_failures(self.workspace, self.ledger)

    def _commit(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            self.ledger.commit(entries)
            for entry in entries:
                self.summary.add(entry)
        return entries

    def _make(self, entry: Entry) -> Entry:
        started = time.perf_counter()
        try:
            label = self._decide(entry)
        except LabelError as error:
            return Entry(key=entry.key, status="failed", settings_digest=self.digest, reason=str(error))
        return publish_label(
            self.workspace,
            entry.key,
            label,
            self._provenance,
            self.label_settings.form,
            self.schema,
            settings_digest=self.digest,
            image_bytes=entry.image_bytes,
            image_modified_ns=entry.image_modified_ns,
            image_sha256=entry.image_sha256,
            seconds=time.perf_counter() - started,
        )

    def _decide(self, entry: Entry) -> LabelMap:
        slot = self._slots.get(entry.key)
        if slot is None:
            raise LabelError(f"{entry.key}: no confidence is kept for this image; label it again with --keep")
        planes = self._store.read(slot, (entry.height, entry.width))
        if self._theirs is not None:
            own = LabelMap(apply_thresholds(planes, self._theirs, self._store.form.steps), len(self.schema))
            if tuple(own.counts[: len(self.schema)].tolist()) != entry.counts:
                raise LabelError(
                    f"{entry.key}: what is kept is not of the run's own label; `autocoarse verify {self._parent.root} "
                    f"--repair` returns it to the plan, and `label` makes it again"
                )
        values = apply_thresholds(planes, self._thresholds, self._store.form.steps)
        return remove_small_components(LabelMap(values, len(self.schema)), self.label_settings.min_component)
