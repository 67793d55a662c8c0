"""The proof that nothing of a RUN is damaged: every item accounted for once, every file as it was made.

Threads check the items (decoding and hashing let other threads run); this thread alone reads the ledger. Which items
there are is in `verify_account`, what is wrong with one in `verify_item`, files of no item in `verify_strays`; what is
damaged is returned to the plan by `verify_repair`.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.verify_account import Account, Source, orphan
from pipeline.verify_item import ItemCheck, Subject
from pipeline.verify_problem import Problem
from pipeline.verify_repair import Repair, Repaired
from pipeline.verify_strays import StrayFinder
from storage.broken_ledger import broken_ledger
from storage.errors import ForeignSettingsError, MissingFileError, SettingsError, WorkspaceError
from storage.integrity import check_ledger
from storage.ledger import Ledger
from storage.soft_store import SoftStore
from storage.workspace import Workspace

PROBLEMS_KEPT = 1000
"""Problems that a summary holds; all are counted."""

_AHEAD = 4
"""Items a thread that are handed out before their results are taken."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one item, or of one file that is no item's."""

    key: str
    problem: Problem | None
    of_item: bool = True


@dataclass(slots=True)
class VerifySummary:
    """Counts of a verification, complete once it has ended."""

    items: int
    """Everything that is to be accounted for: entries, and images without one."""
    labels: int
    """Of these, the done ones, whose files are checked."""
    checked: int = 0
    """Labels checked so far."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Problems by kind."""
    damaged: int = 0
    """Problems that are damage."""
    of_items: int = 0
    """Damage that is an item's, which a repair may return to the plan."""
    left: int = 0
    """Items that are failed, unfinished or refused."""
    damage: list[Problem] = field(default_factory=list)
    """The first `PROBLEMS_KEPT` that are damage."""
    others: list[Problem] = field(default_factory=list)
    """The first `PROBLEMS_KEPT` that are none: thousands of images not labelled yet must not hide the damage."""
    repaired: Repaired | None = None
    """What a repair did; None where none was asked for."""

    @property
    def problems(self) -> list[Problem]:
        """The problems that are kept, damage first."""
        return self.damage + self.others

    @property
    def to_make(self) -> int:
        """Items that the next run is to make, or that it has to try again."""
        return self.left + (0 if self.repaired is None else len(self.repaired.returned))

    @property
    def beyond_repair(self) -> int:
        """Damage that is still there."""
        return self.damaged if self.repaired is None else len(self.repaired.kept)

    def add(self, found: Checked, *, is_label: bool) -> None:
        """Count what was found."""
        self.checked += is_label
        if (problem := found.problem) is None:
            return
        self.kinds[problem.kind] += 1
        self.damaged += problem.damage
        self.of_items += problem.damage and is_label
        self.left += problem.kind in ("failed", "unfinished", "refused")
        kept = self.damage if problem.damage else self.others
        if len(kept) < PROBLEMS_KEPT:
            kept.append(problem)


class Verification:
    """A verification: opened, then iterated for what is found of each item and of each file that is no item's.

    Without repair nothing is written and no lock is taken: a run may be at work meanwhile, and what it is about to
    record is then told as unfinished. Use it as a context manager.

    Args:
        run: the RUN.
        repair: return what is damaged to the plan, at the end.
        workers: threads; one a processor by default.

    Raises:
        MissingFileError: there is no RUN.
        BrokenLedgerError: its ledger is gone, damaged or empty, or does not say what the classes are.
        WorkspaceError: it is to be repaired and in use.
        SettingsError: workers is out of range.
    """

    source: Source
    """What the run was made from."""
    summary: VerifySummary

    def __init__(self, run: Path, *, repair: bool = False, workers: int | None = None) -> None:
        self.workspace = Workspace.holding(run) or Workspace(run)
        if not self.workspace.ledger.is_file():
            raise MissingFileError(f"{run} is no RUN: it has no ledger.sqlite; give what `label` or `merge` made")
        if workers is not None and workers < 1:
            raise SettingsError(f"workers is {workers}, expected at least 1")
        self._workers = workers or os.cpu_count() or 1
        self._repairs = repair
        self.at_work = not repair and self.workspace.scratch.is_dir()
        """Whether a run seems to be at work, or was killed."""
        with ExitStack() as stack:
            if repair:
                stack.callback(self.workspace.lock().release)
            if not repair or not self.workspace.ledger.stat().st_size:  # opened to be written, that would be a new one
                check_ledger(self.workspace.ledger)  # before it is asked anything
            self._ledger = stack.enter_context(Ledger(self.workspace.ledger, read_only=not repair))
            if repair:
                check_ledger(self.workspace.ledger)  # a killed run's journal has been played back by now
            self.source = Source.of(self.workspace)
            self._of_the_run = [] if self.source.problem is None else [self.source.problem]
            settings: dict[str, Any] = self._ledger.settings or {}
            self._slots = self._ledger.slots()
            store = self._find_store(settings)
            try:
                self._check = ItemCheck.of(settings, store)
            except WorkspaceError as error:
                raise broken_ledger(self.workspace.ledger, str(error)) from error
            self._account = Account.of(self._ledger, self.source.listing)
            done, others = self._account.done, self._account.others
            self.summary = VerifySummary(items=len(done) + len(others), labels=len(done))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def compares_store(self) -> bool | None:
        """Whether labels are compared with the kept confidence: not where the run's thresholds are off its grid.

        None: no confidence is kept.
        """
        return None if self._check.store is None else self._check.thresholds is not None

    def _find_store(self, settings: dict[str, Any]) -> SoftStore | None:
        name = "soft/zarr.json"
        try:
            store = SoftStore.find(self.workspace.soft)
        except ForeignSettingsError as error:
            self._of_the_run.append(Problem("chunk damaged", name, str(error)))
            return None
        if store is None and self._slots:
            self._of_the_run.append(Problem("chunk missing", name, f"{len(self._slots)} items are to have a chunk"))
        elif store is not None and list(store.form.classes) != settings.get("classes"):
            reason = f"it is of the classes {', '.join(store.form.classes)}, which are not the run's"
            self._of_the_run.append(Problem("store disagrees", name, reason))
        return store

    def __iter__(self) -> Iterator[Checked]:
        """Do the work; yields each item once, the done ones first, and then the files that are no item's.

        Raises:
            WorkspaceError: the ledger cannot be read, or in a repair not be written.
            OSError: in a repair, a file cannot be deleted.
        """
        damaged: list[str] = []
        for found in self._check_labels():
            self.summary.add(found, is_label=True)
            if found.problem is not None and found.problem.damage:
                damaged.append(found.key)
            yield found
        for problem in self._account.others:
            yield self._tell(problem, of_item=True)
        others = []
        for problem in self._other_files():
            others.append(problem)
            yield self._tell(problem, of_item=False)
        if self._repairs:
            self.summary.repaired = self._repair(damaged, others)

    def _repair(self, damaged: list[str], others: list[Problem]) -> Repaired:
        lost = self._account.orphans if self.source.can_make_again else frozenset(self._account.done)
        repair = Repair(self.workspace, self._ledger, self._check.digest, self._check.store, self._slots, lost)
        return repair.run(damaged, others)

    def _tell(self, problem: Problem, *, of_item: bool) -> Checked:
        found = Checked(problem.key, problem, of_item)
        self.summary.add(found, is_label=False)
        return found

    def _other_files(self) -> Iterator[Problem]:
        yield from self._of_the_run
        listed = frozenset(self._account.images)
        finder = StrayFinder(self.workspace, self._ledger, self._check.digest, listed, self.source.folder)
        yield from finder.find(self._check.store, self._slots)

    def _check_labels(self) -> Iterator[Checked]:
        """Check the done items in threads, in order, a bounded number ahead of the consumer."""
        pending: deque[Future[Checked]] = deque()
        with ThreadPoolExecutor(self._workers, "verify") as pool:
            try:
                for key in self._account.done:
                    pending.append(self._submit(key, pool))
                    if len(pending) >= _AHEAD * self._workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)  # reached with work left only after an error or Ctrl-C

    def _submit(self, key: str, pool: ThreadPoolExecutor) -> Future[Checked]:
        entry = self._ledger.get(key)
        if entry is None or entry.status != "done":
            reason = "a run at work has taken it up again"
            return pool.submit(Checked, key, Problem("unfinished", key, reason, damage=False))
        try:
            label = self.workspace.label_path(key)
        except WorkspaceError as error:
            return pool.submit(Checked, key, Problem("missing", key, str(error)))
        note = self._ledger.note(key) if self._check.merged else None
        subject = Subject(entry, label, self._account.images.get(key), self._slots.get(key), note)
        return pool.submit(self._find, subject)

    def _find(self, subject: Subject) -> Checked:
        key = subject.entry.key
        problem = self._check.find_problem(subject)
        if problem is None and key in self._account.orphans:
            problem = orphan(key)
        return Checked(key, problem)
