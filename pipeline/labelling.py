"""The main job: label a set of images with a teacher, one entry an item, whatever happens to the process.

Who labels is in `workers`, and how in `labeller`. This is the driver: it plans, and it alone writes the ledger.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Self

from pipeline.calibrated import keep_calibration, kept_calibration, with_thresholds
from pipeline.calibration_file import read_calibration
from pipeline.cores import plan_here
from pipeline.forecast import Forecast
from pipeline.gate import Gate
from pipeline.kept_confidence import StoreWriter, find_store, release_slots
from pipeline.labeller import LabelJob, Labeller
from pipeline.memory import return_weights
from pipeline.paired_labels import refuse_unrelated
from pipeline.plan import Plan
from pipeline.plan_making import PlanMaker
from pipeline.provenance import decisive_settings, label_provenance, scales_with_attention
from pipeline.run_folder import claim, list_failures, opened_run, record_plan, refuse_foreign
from pipeline.settings import LabelSettings, settings_digest, thresholds_by_class
from pipeline.teacher_decider import TeacherDecider, way_of
from pipeline.teacher_source import TeacherSource
from pipeline.workers import OneProcess, Workers
from storage.account import ByteAccount
from storage.budget import LEDGER_BYTES, measure_bytes
from storage.errors import BudgetError, GateError, SettingsError
from storage.layouts import Item, find_images
from storage.ledger import Entry
from storage.schema import load_schema
from storage.soft_store import StoreForm, is_on_grid
from storage.workspace import Workspace
from teacher import Teacher, load_teacher

_SHOW_SECONDS = 5.0
_REFUSED_PAGE = 1000


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
    stepped_down: int = 0
    """Labelled in another way than was asked for, because memory did not suffice."""

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
            self.stepped_down += bool(entry.reason)
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
        MissingFileError, SettingsError, SchemaError, CheckpointError: the teacher cannot be made as asked, or the
            calibration is none of its labels; or the gate has nothing that tells how good the labels are.
        LayoutError: there is no image, or `coarse` has a label of none.
        GateError: the calibration says that the labels would not meet the gate.
    """

    plan: Plan
    """What is done and what is to do."""
    gate: Gate
    """What the labels must meet, by the calibration before and by `coarse` after they are made."""
    gate_not_known: str
    """Of which classes the calibration does not know whether they meet it, or is not sure; empty where it is of all."""
    forecast: Forecast
    """What the run will take on the disk."""

    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings
        """What is done; the thresholds of a calibration are in the place of its file."""
        self._account = ByteAccount(settings.budget)
        self._shown = 0.0
        self.workspace = Workspace(settings.out, self._account)
        if not self.workspace.ledger.exists():
            self._account.open(LEDGER_BYTES, self.workspace.ledger)  # a hopeless budget leaves nothing behind
        # the cheap checks come first: a wrong path should not cost the loading of a network
        find_images(settings.images, settings.layout)
        self._calibration = None if settings.thresholds is None else read_calibration(settings.thresholds)
        self.gate = Gate.parse(*settings.gate)
        self.gate_not_known = self._check_gate()
        schema = None if settings.classes is None else load_schema(settings.classes)
        with ExitStack() as stack:
            self.ledger = stack.enter_context(opened_run(self.workspace))
            # where others label, this process only has to know which teacher it is
            device = "cpu" if settings.is_distributed else settings.device
            return_weights()
            self.teacher: Teacher = load_teacher(
                settings.teacher,
                settings.weights,
                schema=schema,
                device=device,
                precision=settings.precision,
                compiled=settings.compiled and not settings.is_distributed,
            )
            self.gate.refuse_unknown(self.teacher.schema.names, self.teacher.schema.name)
            if settings.coarse is not None:  # days of labelling should not end in a wrong path
                refuse_unrelated(
                    settings.images, settings.coarse, settings.layout, settings.coarse_ids, self.teacher.schema
                )
            if self._calibration is not None:
                decisive = decisive_settings(settings, self.teacher)
                settings = with_thresholds(settings, self._calibration, decisive, brings_temperature=True)
                self.settings = settings
            self._thresholds = thresholds_by_class(settings.threshold, settings.class_thresholds, self.teacher.schema)
            self._attention_scales = scales_with_attention(settings, self.teacher)
            self.decisive = decisive_settings(settings, self.teacher)
            self.digest = settings_digest(self.decisive)
            self._provenance = label_provenance(self.decisive, self.teacher.schema)
            self._plan()
            stack.callback(self.plan.close)
            self.workers = self._open_workers()
            stack.callback(self.workers.close)
            self._stack = stack.pop_all()

    def _check_gate(self) -> str:
        """Refuse, before there is any work, what a calibration says would not meet the gate."""
        if not self.gate.conditions:
            return ""
        calibration = self._calibration or kept_calibration(self.workspace, self.settings)
        if calibration is not None:
            try:
                return self.gate.check(calibration.quality())
            except GateError as error:
                raise GateError(
                    f"{error}\nnothing was labelled; choose surer thresholds by `autocoarse calibrate` with a higher "
                    f"--target-precision, or ask less of these classes, such as precision[NAME]>=0.8"
                ) from error
        if self.settings.coarse is None:
            raise SettingsError(
                f"gate {self.gate} needs something that tells how good the labels are: --thresholds, a calibration of "
                f"the teacher made by `autocoarse calibrate`, or --coarse, human coarse labels of these images"
            )
        return ""

    def _plan(self) -> None:
        """Decide what is to do, and only then write: a run that is refused leaves the folder as it was."""
        settings, workspace, ledger, schema = self.settings, self.workspace, self.ledger, self.teacher.schema
        refuse_foreign(workspace, ledger, ledger.settings, self.decisive, settings)
        store = None
        if settings.keep != "none":
            store = find_store(workspace, StoreForm(settings.keep, settings.keep_steps, schema.names))
        maker = PlanMaker(ledger, workspace, self.digest, store)
        self.plan = maker.make(settings.images, settings.layout, [settings.out, workspace.labels], settings.shard)
        used = measure_bytes(settings.out).total_bytes
        self._account.open(used, workspace.ledger, to_write=self.plan.left_count > 0)
        claim(workspace, ledger, ledger.settings, self.decisive, settings, "label", schema)
        keep_calibration(workspace, settings, self._calibration)
        ledger.forget_failures(self.plan)
        self._keeper = None if store is None else StoreWriter.open(workspace, store, ledger, self._keys)
        if store is None:
            release_slots(workspace, ledger, self._keys)  # an earlier run was to keep what this one does not
        done = self.plan.done
        self.summary = LabelSummary(
            self.plan.total, done.made.count, bytes=done.made.bytes, pixels=done.pixels, ignored=done.ignored
        )
        record_plan(workspace, ledger, self.plan.total, done.made.count)
        self._account.settle(rows=0)
        self.forecast = Forecast(workspace, done.made, self.plan.left_count, settings.png)

    def _keys(self) -> Iterator[str]:
        return (item.key for item in self.plan.to_do())

    def _items(self) -> Iterator[Item]:
        """What is to do, read as it is needed, with where its confidence is to be kept."""
        items = self.plan.to_do()
        return items if self._keeper is None else (replace(item, slot=self.ledger.slot(item.key)) for item in items)

    def _open_workers(self) -> Workers:
        """Who labels: this process, or those that the settings name; nobody new where there is nothing to do."""
        settings = self.settings
        workspace = Workspace(settings.out.absolute())
        job = LabelJob(
            workspace,
            self.teacher.schema,
            self.digest,
            self._provenance,
            settings.form,
            settings.min_component,
            settings.batch,
            None if self._keeper is None else replace(self._keeper, workspace=workspace),
            self._attention_scales,
        )
        way = way_of(settings, self.teacher, self._thresholds)
        if not settings.is_distributed or not self.plan.to_do_count:
            job = replace(job, workspace=self.workspace)
            threads = plan_here(on_cuda=self.teacher.device.type == "cuda")
            return OneProcess(Labeller(job, TeacherDecider(self.teacher, way), threads))
        from pipeline.dask_open import open_dask_workers  # dask takes half a second that one process has no use for

        return open_dask_workers(settings, job, TeacherSource.of(settings, self.teacher, way), self._account)

    @property
    def thresholds_off_grid(self) -> tuple[float, ...]:
        """Of the run's thresholds, those that what it keeps cannot tell; none where it keeps nothing."""
        settings = self.settings
        if settings.keep == "none":
            return ()
        return tuple(sorted({t for t in self._thresholds if not is_on_grid(t, settings.keep_steps)}))

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
            WorkerError: there is no worker any more to do the work.
        """
        try:
            refused = self.plan.failures(self.digest)
            while page := list(islice(refused, _REFUSED_PAGE)):
                yield from self._commit(page)
            yield from self.workers.label(self._items(), self.plan.to_do_count, self._commit)
        finally:
            list_failures(self.workspace, self.ledger)

    def _commit(self, entries: list[Entry]) -> list[Entry]:
        """Record entries, and give them; failures that there is no room for are left out, and end the run."""
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
        self._show_workers()
        if full is not None:
            raise full
        return recorded

    def _show_workers(self) -> None:
        """Leave in the ledger, now and then, how the workers stand, for those who look on from elsewhere."""
        if time.monotonic() - self._shown >= _SHOW_SECONDS and (workers := self.workers.view()):
            self.ledger.record_workers([asdict(worker) for worker in workers])
            self._shown = time.monotonic()
