"""One process at labelling: items in, entries out, with one teacher; the same in the command itself and in a worker.

Decoding, the network and encoding overlap: threads read ahead of the device, threads write behind it, both through
bounded queues, so memory does not grow with the set. It records nothing: the ledger is the driver's alone. Nothing
here needs torch but the teacher, which is given.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

from pipeline.cores import ThreadPlan, plan_here
from pipeline.decider import Decider
from pipeline.deciding import Deciding, Outcome
from pipeline.decoding import Decoded, group_by_size, read_ahead, with_following
from pipeline.kept_confidence import StoreWriter
from pipeline.publishing import publish_label
from pipeline.step_down import Way
from storage.attention_maps import attention_files, forget_attention
from storage.clean_up import remove_small_components
from storage.errors import BudgetError
from storage.label_map import LabelMap
from storage.label_png import LabelFormat
from storage.layouts import Item
from storage.ledger import Entry
from storage.schema import ClassSchema
from storage.workspace import Workspace


def images_in_flight(batch: int, threads: ThreadPlan) -> int:
    """How many images, or labels, a process that labels on the CPU holds at most beside those that it is labelling.

    With a decider that looks ahead there are two batches more.
    """
    return 2 * (2 * batch) + threads.decoders + threads.encoders + batch


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What a run asks of each process that labels for it; small, and the same for all items."""

    workspace: Workspace
    schema: ClassSchema
    settings_digest: str
    provenance: Mapping[str, str | float]
    form: LabelFormat
    min_component: int = 0
    batch: int = 1
    keeper: StoreWriter | None = None
    """Where confidence is kept; None: it is not."""
    attention: tuple[float, ...] = ()
    """The scales of which attention maps are saved; none are without any."""


@dataclass(slots=True)
class Labeller:
    """A teacher at work for a job.

    Threads may label at the same time; the decider serves one of them after the other, and while it does the others
    read and write. Before a device that works by itself, a thread does nothing but give it batches: encoders wait for
    what was decided, and the caller's thread records it.
    """

    job: LabelJob
    decider: Decider
    threads: ThreadPlan = field(default_factory=lambda: plan_here(on_cuda=False))
    """Of this process, for what surrounds the device."""
    _deciding: Deciding = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._deciding = Deciding(self.decider, self.job.batch)

    @property
    def problems(self) -> tuple[str, ...]:
        """As `Decider.problems`."""
        return self.decider.problems

    def label(
        self,
        items: Iterable[Item],
        record: Callable[[list[Entry]], list[Entry]],
        workspace: Workspace | None = None,
        stop: Event | None = None,
    ) -> Iterator[Entry]:
        """Label items, each of which becomes one entry.

        Args:
            items: taken as they are needed, a few ahead of the device.
            record: records entries, in this thread, and gives those that are recorded; also of what was finished when
                an error, or the consumer, ends the work.
            workspace: the job's, with the account that this work's bytes are on; the job's own by default.
            stop: once it is set, no further item is begun.

        Yields:
            The entries that are recorded.

        Raises:
            BudgetError: the next label would pass the budget; what was made before stays and counts, as it does with
            DiskFullError, WorkspaceError: a label cannot be written, or not be recorded.
        """
        folder, batch = workspace or self.job.workspace, self.job.batch
        threads = self.threads
        writing = _Writing(record)
        with (
            ThreadPoolExecutor(threads.decoders, "decode") as decoders,
            ThreadPoolExecutor(threads.encoders, "encode") as encoders,
            ThreadPoolExecutor(1, "device") as device,
        ):
            try:
                decoded = read_ahead(items, decoders, depth=2 * batch + threads.decoders)
                groups = group_by_size(decoded, batch)
                label = partial(self._label, writing, encoders, folder, stop)
                for labelled in (
                    self._ahead(groups, label, device) if self._deciding.looks_ahead else map(label, groups)
                ):
                    writing.ended += labelled
                    yield from writing.recorded(keep=2 * batch + threads.encoders)
                    if stop is not None and stop.is_set():
                        break
                device.shutdown(cancel_futures=True)
                writing.ended = len(writing.entries)
                yield from writing.recorded(keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                device.shutdown(cancel_futures=True)
                decoders.shutdown(cancel_futures=True)
                with suppress(BudgetError):  # it is on its way already
                    record([f.result() for f in writing.entries if f.exception() is None])

    def _ahead(
        self, groups: Iterator[list[Decoded]], label: Callable[..., int], device: ThreadPoolExecutor
    ) -> Iterator[int]:
        """Label groups in a thread of their own, which has the next one before this one has ended."""
        begun: Future[int] | None = None
        for group, following in with_following(groups):
            before, begun = begun, device.submit(label, group, following)
            if before is not None:
                yield before.result()
        if begun is not None:
            yield begun.result()

    def _label(
        self,
        writing: "_Writing",
        encoders: ThreadPoolExecutor,
        folder: Workspace,
        stop: Event | None,
        group: list[Decoded],
        following: Sequence[Decoded] = (),
    ) -> int:
        """Label images of one size, or one that was not read, and hand them to the encoders; after a stop, do not.

        Returns:
            How many were handed on.
        """
        if stop is not None and stop.is_set():
            return 0
        if group[0].image is None:
            writing.entries.extend(encoders.submit(self._failure, one, one.reason) for one in group)
        else:
            for outcome in self._deciding.decide(group, following):
                writing.entries.append(encoders.submit(self._publish, outcome, folder))
        return len(group)

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.job.settings_digest, reason=reason)

    def _publish(self, outcome: Outcome, folder: Workspace) -> Entry:
        job, outcome = self.job, self._deciding.arrived(outcome)
        one, decision, way = outcome.image, outcome.decided, outcome.way
        if decision is None:
            return self._failure(one, f"{one.item.image}: {outcome.reason}")
        # what a tile sees is less than the image: such a label may be another one, and says so
        provenance = job.provenance if way.tile is None else {**job.provenance, "tile": way.tile}
        label = remove_small_components(LabelMap(decision.label, len(job.schema)), job.min_component)
        beside: list[tuple[Path, bytes]] = []
        if job.attention and decision.attention is not None:
            beside += attention_files(folder, one.item.key, job.attention, decision.attention)
        else:
            forget_attention(folder, one.item.key)
        if job.keeper is not None and decision.soft is not None and one.item.slot is not None:
            beside += job.keeper.files(one.item.slot, decision.soft)
        return publish_label(
            folder,
            one.item.key,
            label,
            provenance,
            job.form,
            job.schema,
            beside,
            settings_digest=job.settings_digest,
            image_bytes=one.image_bytes,
            image_modified_ns=one.image_modified_ns,
            image_sha256=one.image_sha256,
            seconds=outcome.seconds,
            reason="" if way == Way(job.batch) else f"for want of memory labelled {way}",
        )


@dataclass(slots=True)
class _Writing:
    """What is being written, in the order in which it was labelled."""

    record: Callable[[list[Entry]], list[Entry]]
    entries: deque[Future[Entry]] = field(default_factory=deque)
    ended: int = 0
    """How many of them, from the first on, are of groups that have ended. What is of the group that the device is at
    waits until the device has the group after it: while this thread records, the device has something to do."""

    def recorded(self, keep: int) -> list[Entry]:
        """Record what has been written, from the queue's head; wait for as many as are over `keep`."""
        entries: list[Entry] = []
        try:
            while self.ended and (len(self.entries) > keep or self.entries[0].done()):
                entries.append(self.entries[0].result())
                self.entries.popleft()
                self.ended -= 1
        finally:
            entries = self.record(entries)  # one write that failed does not cost the record of those before it
        return entries
