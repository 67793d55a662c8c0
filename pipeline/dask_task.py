"""What runs in a worker of a dask cluster: the teacher, opened once, and shards of items labelled with it.

Who gets which shard, and what becomes of a shard whose worker dies, is the driver's; see `dask_workers`. A worker
writes labels and nothing else of a run.
"""

import os
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import sync

from pipeline.cores import plan_here
from pipeline.dask_files import fetch_file
from pipeline.labeller import LabelJob, Labeller
from pipeline.teacher_source import Source
from storage.account import MARGIN, ByteAccount
from storage.errors import AutocoarseError, BudgetError, WorkerError, WorkspaceError
from storage.layouts import Item
from storage.ledger import Entry
from storage.paths import is_remote


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker is asked to take part in."""

    name: str
    """Of the run, in this process of it: that of the plugin that holds the teacher."""
    job: LabelJob
    source: Source
    images: Path
    """Folder that the worker must see."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says to an offer."""

    process: str
    """Of the host and the process."""
    device: str = ""
    """Kind of the device that the teacher is on."""
    refusal: str = ""
    """Why it cannot take part."""
    lacks_file: bool = False
    """Whether all that it lacks is the teacher's file."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of a shard."""

    entries: tuple[Entry, ...]
    left: tuple[Item, ...]
    """Items that have no entry."""
    stop: AutocoarseError | None
    """Why they have none; None: the run is to stop, or there are none."""
    used: int
    """Bytes that were written, entries included."""
    seconds: float
    """By a clock that no correction of the time moves."""
    problems: tuple[str, ...]
    """Of the worker, as in `WorkerView`."""


@dataclass(slots=True)
class LabellerPlugin(WorkerPlugin):
    """Holds a run's teacher in a worker for as long as the run lasts."""

    labeller: Labeller
    stop: Event = field(default_factory=Event)

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - dask's interface
        """Begin no more items: the run is over, or the worker is."""
        self.stop.set()


def process_name() -> str:
    """Host and process, as a run calls a worker."""
    return f"{socket.gethostname()}:{os.getpid()}"


def open_labeller(offer: Offer) -> Answer:
    """Load the teacher into this worker, once; what keeps it from taking part is an answer, no error."""
    worker, me = get_worker(), process_name()
    try:
        _check_folders(offer)
        source = offer.source
        if source.file is not None:
            folder = Path(worker.local_directory)
            found = fetch_file(worker, source.file, source.file_sha256, folder)
            if found is None:
                return Answer(me, lacks_file=True)
            source = source.at(found)
        decider, device = source.load(worker.memory_manager.memory_limit)
    except (AutocoarseError, OSError, RuntimeError, MemoryError) as error:
        return Answer(me, refusal=str(error) or type(error).__name__)
    plugin = LabellerPlugin(Labeller(offer.job, decider, plan_here(on_cuda=device == "cuda")))
    sync(worker.loop, worker.plugin_add, plugin=plugin, name=offer.name, catch_errors=False)
    return Answer(me, device)


def _check_folders(offer: Offer) -> None:
    """A worker that does not see what the driver sees would fail, or write where nobody looks."""
    workspace = offer.job.workspace
    if not is_remote(offer.images) and not offer.images.is_dir():
        raise WorkspaceError(f"it does not see the images {offer.images}; mount them there on its host too")
    if workspace.is_remote:  # whether a store may be written, the first label shows
        return
    if not (workspace.scratch / offer.name).is_file():
        raise WorkspaceError(f"it does not see the run {workspace.root}; mount it there on its host too")
    probe = workspace.scratch / f"{offer.name}.{process_name()}"
    workspace.publish(probe, b"", small=True)
    probe.unlink(missing_ok=True)


def label_shard(name: str, items: tuple[Item, ...], grant: int | None) -> ShardResult:
    """Label a shard of items with the teacher that this worker has opened.

    Args:
        name: of the offer.
        items: of the shard.
        grant: bytes that its files may take; None: as many as the disk has.

    Raises:
        WorkerError: the worker has no such teacher; it was restarted.
    """
    plugin = get_worker().plugins.get(name)
    if not isinstance(plugin, LabellerPlugin):
        raise WorkerError(f"{process_name()} has not opened a teacher for {name}")
    labeller = plugin.labeller
    account = ByteAccount(None if grant is None else grant + MARGIN)
    workspace = replace(labeller.job.workspace, account=account)
    entries: list[Entry] = []

    def record(new: list[Entry]) -> list[Entry]:
        entries.extend(new)
        return new

    stop: AutocoarseError | None = None
    started = time.monotonic()
    try:
        for _ in labeller.label(items, record, workspace, plugin.stop):
            pass
    except (BudgetError, WorkspaceError) as error:
        stop = error
    has_entry = {entry.key for entry in entries}
    left = tuple(item for item in items if item.key not in has_entry)
    seconds = time.monotonic() - started
    return ShardResult(tuple(entries), left, stop, account.used, seconds, labeller.problems)


def stop_labelling(name: str, dask_worker: Worker) -> None:
    """Have a worker begin no more items of a run."""
    plugin = dask_worker.plugins.get(name)
    if isinstance(plugin, LabellerPlugin):
        plugin.stop.set()


async def forget_labeller(name: str, dask_worker: Worker) -> None:
    """Give a worker's memory back."""
    await dask_worker.plugin_remove(name=name)
