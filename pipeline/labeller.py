"""One process at labelling: items in, entries out, with one teacher; the same in the command itself and in a worker.

Decoding, the network and encoding overlap: threads read ahead of the device, threads write behind it, both through
bounded queues, so memory does not grow with the set. It records nothing: the ledger is the driver's alone. Nothing
here needs torch but the teacher, which is given.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from threading import Event, Lock

from pipeline.cores import ThreadPlan, plan_here
from pipeline.decider import Decided, Decider, ForesightedDecider, TilingDecider
from pipeline.decoding import Decoded, group_by_size, read_ahead, with_following
from pipeline.kept_confidence import StoreWriter
from pipeline.publishing import publish_label
from pipeline.step_down import StepDown, Way, is_out_of_memory
from storage.clean_up import remove_small_components
from storage.errors import BudgetError, ImageError
from storage.label_map import LabelMap
from storage.label_png import LabelFormat
from storage.layouts import Item
from storage.ledger import Entry
from storage.schema import ClassSchema
from storage.workspace import Workspace


def images_in_flight(batch: int, threads: ThreadPlan) -> int:
    """How many images, or labels, a process that labels on the CPU holds at most beside those that it is labelling.

    With a decider that looks ahead it is a batch more.
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


@dataclass(slots=True)
class Labeller:
    """A teacher at work for a job.

    Threads may label at the same time; the device serves one of them after the other, and while it does the others
    read and write. Where memory runs out, images of that size, and larger ones, are labelled in a smaller way from then
    on: fewer at a time, then, where the decider can, in tiles.

    The device may be at work still on what it has been given: a decider that looks ahead is told what comes next before
    it is given a batch, and an encoder waits for what was decided while the next batch is launched. So what fails there
    may show only in the encoder, which has the image labelled again.
    """

    job: LabelJob
    decider: Decider
    threads: ThreadPlan = field(default_factory=lambda: plan_here(on_cuda=False))
    """Of this process, for what surrounds the device."""
    _device: Lock = field(default_factory=Lock, repr=False)
    _ways: StepDown = field(init=False, repr=False)

    def __post_init__(self) -> None:
        batch, decider = self.job.batch, self.decider
        if isinstance(decider, TilingDecider):
            self._ways = StepDown(lambda size: decider.first_way(size, batch), decider.next_tile)
        else:
            self._ways = StepDown(lambda _: Way(batch), lambda *_: None)

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
        with (
            ThreadPoolExecutor(threads.decoders, "decode") as decoders,
            ThreadPoolExecutor(threads.encoders, "encode") as encoders,
        ):
            writing: deque[Future[Entry]] = deque()
            try:
                decoded = read_ahead(items, decoders, depth=2 * batch + threads.decoders)
                groups = group_by_size(decoded, batch)
                for group, following in with_following(groups) if self._looks_ahead else zip(groups, repeat([])):
                    if stop is not None and stop.is_set():
                        break
                    writing.extend(self._label(group, following, encoders, folder))
                    yield from _record(writing, record, keep=2 * batch + threads.encoders)
                yield from _record(writing, record, keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                decoders.shutdown(cancel_futures=True)
                with suppress(BudgetError):  # it is on its way already
                    record([f.result() for f in writing if f.exception() is None])

    @property
    def problems(self) -> tuple[str, ...]:
        """As `Decider.problems`."""
        return self.decider.problems

    @property
    def _looks_ahead(self) -> bool:
        return isinstance(self.decider, ForesightedDecider) and self.decider.looks_ahead

    def _label(
        self, group: list[Decoded], following: list[Decoded], encoders: ThreadPoolExecutor, folder: Workspace
    ) -> Iterator[Future[Entry]]:
        """Label images of one size and hand them to the encoders; a failure costs its image alone.

        Args:
            group: the images.
            following: those that come next, of another size perhaps; empty where that is not known.
            encoders: threads that publish.
            folder: the job's workspace.
        """
        if group[0].image is None:
            for one in group:
                yield encoders.submit(self._failure, one, one.reason)
            return
        size = _size(group[0])
        waiting, alone = list(group), 0
        while waiting:
            with self._device:
                way = self._ways.way(size)
                part = waiting[: 1 if alone else way.batch]
                self._foretell(waiting[len(part) :] or following)
                started = time.perf_counter()
                outcome = self._attempt(part, size, way)
                seconds = (time.perf_counter() - started) / len(part)
                if outcome is None:
                    self._free_memory()
                    continue
            if isinstance(outcome, str) and len(part) > 1:
                alone = len(part)  # whose fault it was shows when each is alone
                continue
            del waiting[: len(part)]
            alone = max(0, alone - len(part))
            if isinstance(outcome, str):
                yield encoders.submit(self._failure, part[0], f"{part[0].item.image}: {outcome}")
                continue
            for one, decision in zip(part, outcome, strict=True):
                yield encoders.submit(self._publish, one, decision, way, len(part), seconds, folder)

    def _foretell(self, coming: list[Decoded]) -> None:
        """Have the decider prepare for the batch that comes next, as far as it is known."""
        if isinstance(self.decider, ForesightedDecider) and self.decider.looks_ahead and coming:
            images = [one.image for one in coming if one.image is not None]
            if images:
                self.decider.expect(images[: self._ways.way(_size(coming[0])).batch])

    def _attempt(
        self, part: list[Decoded], size: tuple[int, int], way: Way, *, wait: bool = False
    ) -> Sequence[Decided] | str | None:
        """Label images of one size together.

        Args:
            part: the images.
            size: their (height, width), in pixels.
            way: how they are labelled.
            wait: until it is done, and not only on its way.

        Returns:
            What was decided, or why nothing could be; None where memory ran out and a smaller way was taken.
        """
        images = [one.image for one in part if one.image is not None]
        try:
            if way.tile is not None and isinstance(self.decider, TilingDecider):
                decided = self.decider.decide_in_tiles(images, way.tile)
            else:
                decided = self.decider.decide(images)
            if wait:
                _wait_for(decided)
        except (ImageError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and self._ways.step_down(size, len(part)):
                return None
            return str(error) or type(error).__name__
        return decided

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.job.settings_digest, reason=reason)

    def _free_memory(self) -> None:
        """Not before the error, which held on to it, is gone."""
        if isinstance(self.decider, TilingDecider):
            self.decider.free_memory()

    def _wait(self, one: Decoded, decision: Decided, way: Way, together: int) -> tuple[Decided, Way] | str:
        """Wait for what was decided of an image; where the device has failed at it, have it decided again, alone.

        Returns:
            What was decided, and in which way; or why nothing could be.
        """
        try:
            _wait_for([decision])
        except (RuntimeError, MemoryError) as error:
            reason, is_short = str(error) or type(error).__name__, is_out_of_memory(error)
        else:
            return decision, way
        size = _size(one)
        with self._device:
            again = together > 1
            if is_short:  # unless it was the same with another image since then: that way is left
                again = self._ways.way(size) != way or self._ways.step_down(size, together)
                self._free_memory()
        while again:
            with self._device:
                way = self._ways.way(size)
                outcome = self._attempt([one], size, way, wait=True)
                if outcome is None:
                    self._free_memory()
                    continue
            return outcome if isinstance(outcome, str) else (outcome[0], way)
        return reason

    def _publish(
        self, one: Decoded, decision: Decided, way: Way, together: int, seconds: float, folder: Workspace
    ) -> Entry:
        job = self.job
        made = self._wait(one, decision, way, together)
        if isinstance(made, str):
            return self._failure(one, f"{one.item.image}: {made}")
        decision, way = made
        # what a tile sees is less than the image: such a label may be another one, and says so
        provenance = job.provenance if way.tile is None else {**job.provenance, "tile": way.tile}
        label = remove_small_components(LabelMap(decision.label, len(job.schema)), job.min_component)
        beside = []
        if job.keeper is not None and decision.soft is not None and one.item.slot is not None:
            beside = job.keeper.files(one.item.slot, decision.soft)
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
            seconds=seconds,
            reason="" if way == Way(job.batch) else f"for want of memory labelled {way}",
        )


def _wait_for(decided: Sequence[Decided]) -> None:
    for one in decided:
        _ = one.label, one.soft


def _size(one: Decoded) -> tuple[int, int]:
    assert one.image is not None, "it was read"
    return (one.image.shape[0], one.image.shape[1])


def _record(writing: deque[Future[Entry]], record: Callable[[list[Entry]], list[Entry]], keep: int) -> list[Entry]:
    """Record what has been written, from the queue's head; wait for as many as are over `keep`."""
    entries: list[Entry] = []
    try:
        while writing and (len(writing) > keep or writing[0].done()):
            entries.append(writing[0].result())
            writing.popleft()
    finally:
        entries = record(entries)  # one write that failed does not cost the record of those before it
    return entries
