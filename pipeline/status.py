"""How a run of labels stands, at work or afterwards: what is done, how fast, what it takes, and what is in its way.

It reads the ledger in short reads, the settings and the sizes of files; it writes nothing and takes nothing away from
the run. The total is what the run set out to do when it was last started: the images are not listed again.
"""

import contextlib
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.forecast import ENOUGH
from pipeline.worker_view import WorkerView
from storage.account import LEDGER_ROW, MARGIN
from storage.budget import LEDGER_BYTES, LEDGER_ENTRY_BYTES
from storage.errors import MissingFileError
from storage.ledger import Ledger
from storage.ledger_copy import readable_ledger
from storage.object_io import find_file, read_file
from storage.tally import Failure, Tally, tally
from storage.workspace import Workspace

_SECOND = 1_000_000_000

_WINDOWS = (60, 300, 3600)
"""Seconds over which the rate is taken: the shortest with enough items in it."""

_SILENT_SECONDS, _SILENT_ITEMS = 120.0, 20
"""A run that has written nothing for so long, and for the time of so many items, may hang."""

_FIRST_SECONDS = 600.0
"""The same before there is a rate: the first image may take long."""

_IN_FLIGHT = 4
"""Labels that a run writes at a time."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands; `total = done + failed + left` where the total is known."""

    root: Path
    command: str
    """What continues it: `label` or `merge`."""
    at_work: bool
    """Whether a process works on it now."""
    killed: bool
    """Whether it was killed, and not started again since."""
    started_ns: int | None
    """When it was last started; None: its ledger does not say."""
    read_ns: int
    """When all of this was read."""
    total: int | None
    """Items that it set out to have; None: its ledger does not say."""
    done: int
    failed: int
    """While it is at work those that failed since it was started, as it tries the others again."""
    left: int | None
    images_per_second: float | None
    """Of late, failed ones too; None when it is not at work."""
    used_bytes: int
    """Of all files: labels as the ledger says, everything else as it lies there."""
    bytes_each: float | None
    """Of an item with all that belongs to it; None without labels."""
    budget: int | None
    labels: int
    """All labels of the ledger, also those of images that are not in the total any more."""
    pixels: int
    """Of all labels."""
    ignored: int
    """Of these, the ones that were given no class."""
    last_label_ns: int | None
    """When the latest label was written."""
    failures: tuple[Failure, ...]
    """The latest ones, the latest first."""
    workers: tuple[WorkerView, ...] = ()
    """How each worker stood some seconds ago; none where it labels by itself, or is not at work."""

    @property
    def ignore_fraction(self) -> float | None:
        """Share of the pixels that was given no class; None without labels."""
        return self.ignored / self.pixels if self.pixels else None

    @property
    def seconds_left(self) -> float | None:
        """Time until nothing is left, at the rate of late."""
        if self.left is None or not self.images_per_second:
            return None
        return self.left / self.images_per_second

    @property
    def seconds_at_work(self) -> float | None:
        """Time since it was started; None where it is not at work, or does not say."""
        return self._age(self.started_ns) if self.at_work else None

    @property
    def seconds_since_label(self) -> float | None:
        """Age of the latest label."""
        return self._age(self.last_label_ns)

    def _age(self, moment_ns: int | None) -> float | None:
        # the disk may be another machine's, with a clock that is a little ahead
        return None if moment_ns is None else max(0.0, (self.read_ns - moment_ns) / _SECOND)

    @property
    def forecast_bytes(self) -> int | None:
        """Of all files once nothing is left; None before enough labels are made to tell, or without a total."""
        return self.needed_bytes if self.labels >= ENOUGH or not self.left else None

    @property
    def needed_bytes(self) -> int | None:
        """The same from however few labels."""
        if self.left is None or (self.left and self.bytes_each is None):
            return None
        return round(self.used_bytes + self.left * (self.bytes_each or 0))

    @property
    def lacks_room(self) -> bool:
        """Whether the budget will not do for what is left."""
        if self.budget is None or not self.left:
            return False
        needed = self.used_bytes if self.needed_bytes is None else self.needed_bytes
        # of the last labels each reserves more of the ledger than it will take
        return needed + MARGIN + min(self.left, _IN_FLIGHT) * LEDGER_ROW > self.budget

    @property
    def may_hang(self) -> bool:
        """Whether it is at work and has recorded nothing for much longer than its items take."""
        moments = [m for m in (self.started_ns, self.last_label_ns, *(f.failed_ns for f in self.failures)) if m]
        if not self.at_work or not self.left or not moments:
            return False
        rate = self.images_per_second
        usual = max(_SILENT_SECONDS, _SILENT_ITEMS / rate) if rate else _FIRST_SECONDS
        return (self.read_ns - max(moments)) / _SECOND > usual

    @property
    def is_complete(self) -> bool:
        """Whether nothing failed and nothing is left, as far as the ledger says."""
        return not self.failed and not self.left and not self.killed


def read_status(workspace: Workspace, now_ns: int | None = None) -> RunStatus:
    """Read how a run stands; it may be at work meanwhile.

    Args:
        workspace: of the run.
        now_ns: the time, in ns since 1970; that of the clock by default.

    Raises:
        MissingFileError: there is no run.
        WorkspaceError: its ledger cannot be read: it is damaged, or its run was killed within a commit.
    """
    if not workspace.is_run():
        raise MissingFileError(
            f"{workspace.root} is no RUN: it has no labels and ledger.sqlite; give what `label`, `merge` or "
            f"`rethreshold` made, once it has started"
        )
    now = time.time_ns() if now_ns is None else now_ns
    at_work = workspace.is_at_work()
    with Ledger(readable_ledger(workspace), read_only=True) as ledger:
        plan = _Plan.of(ledger.plan)
        windows = [max(now - seconds * _SECOND, plan.started_ns or 0) for seconds in _WINDOWS]
        windows += [] if plan.started_ns is None else [plan.started_ns]
        workers = ledger.workers if at_work else []
        sums = tally(ledger, [plan.labels_since_ns, plan.started_ns or 0, *windows])
    done, failed = _count(plan, sums, at_work=at_work)
    left = None if plan.total is None else max(0, plan.total - done - failed)
    beside, store, ledger_bytes = _measure(workspace)
    # a new ledger has its size already, of which a few labels would seem to take a large share each
    rows = max(ledger_bytes - LEDGER_BYTES, sums.done * LEDGER_ENTRY_BYTES)
    command, budget = _settings(workspace.settings)
    return RunStatus(
        root=workspace.root,
        command=command,
        at_work=at_work,
        killed=not at_work and workspace.scratch.is_dir() and not workspace.is_at_work(),
        started_ns=plan.started_ns,
        read_ns=now,
        total=plan.total,
        done=done,
        failed=failed,
        left=left,
        images_per_second=_rate(sums, windows, now) if at_work else None,
        used_bytes=sums.bytes + beside,
        bytes_each=(sums.bytes + store + rows) / sums.done if sums.done else None,
        budget=budget,
        labels=sums.done,
        pixels=sums.pixels,
        ignored=sums.ignored,
        last_label_ns=sums.last_label_ns or None,
        failures=sums.failures,
        workers=tuple(WorkerView(**worker | {"problems": tuple(worker.get("problems", ()))}) for worker in workers),
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a run recorded when it was started."""

    total: int | None = None
    skipped: int = 0
    started_ns: int | None = None
    labels_since_ns: int = 0

    @classmethod
    def of(cls, plan: dict[str, Any] | None) -> "_Plan":
        if plan is None:
            return cls()
        try:
            started = round(datetime.fromisoformat(plan["started"]).timestamp() * 1e6) * 1000
            return cls(plan["total"], plan["skipped"], started, plan["labels_since_ns"])
        except (ValueError, TypeError, KeyError):
            return cls()  # damaged; what the entries say is not less true for that


def _count(plan: _Plan, sums: Tally, *, at_work: bool) -> tuple[int, int]:
    """Done and failed items of the total.

    A ledger may also hold labels that are to be made again, and labels of images that are gone: of those that are
    older than the run, only as many count as it found done.
    """
    if plan.total is None:
        return sums.done, sums.failed
    made = sums.done_since[0]
    done = made + min(plan.skipped, sums.done - made)
    return min(done, plan.total), sums.failed_since[1] if at_work else sums.failed


def _rate(sums: Tally, windows: list[int], now: int) -> float:
    """Items a second, over the shortest window with enough of them, or over the longest."""
    counts = [d + f for d, f in zip(sums.done_since[2:], sums.failed_since[2:], strict=True)]
    enough = (i for i, count in enumerate(counts) if count >= ENOUGH)
    chosen = next(enough, len(windows) - 1)
    return counts[chosen] * _SECOND / max(now - windows[chosen], 1)


def _measure(workspace: Workspace) -> tuple[int, int, int]:
    """Bytes of all files but the labels, and of these the ones of kept confidence and of the ledger."""
    if workspace.is_remote:  # nothing is kept there, and listing what else there is would list the labels
        files = (workspace.settings, workspace.classes, workspace.failures, workspace.calibration, workspace.audit)
        rows = readable_ledger(workspace).stat().st_size
        return rows + sum(found.size for path in files if (found := find_file(path)) is not None), 0, rows
    absolute = Workspace(workspace.root.absolute())  # as the paths are below
    beside = store = ledger = 0
    for path, size in _files_beside_labels(absolute):
        beside += size
        store += size if path.startswith(f"{absolute.soft}{os.sep}") else 0
        ledger += size if path.startswith(str(absolute.ledger)) else 0
    return beside, store, ledger


def _files_beside_labels(workspace: Workspace) -> Iterator[tuple[str, int]]:
    """Path and size of each file, without listing a folder of millions in memory."""
    folders, labels = [str(workspace.root)], str(workspace.labels)
    while folders:
        # what a run at work removes meanwhile takes no room any more
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    folders += [entry.path] if entry.path != labels else []
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield entry.path, entry.stat(follow_symlinks=False).st_size


def _settings(path: Path) -> tuple[str, int | None]:
    """The command that goes on with a run, and its budget."""
    try:
        content = tomllib.loads(read_file(path).decode())
    except (OSError, ValueError):
        return "label", None  # how it stands is not less true without its settings
    commands = ("label", "merge", "import-review")
    command = next((name for name in commands if isinstance(content.get(name), dict)), "label")
    budget = content.get(command, {}).get("budget")
    return command, budget if isinstance(budget, int) else None
