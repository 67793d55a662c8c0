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
from pathlib import Path
from threading import Event, Lock
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.cores import ThreadPlan, plan_here
from pipeline.decoding import Decoded, group_by_size, read_ahead
from pipeline.kept_confidence import StoreWriter
from pipeline.publishing import publish_label
from pipeline.step_down import StepDown, Way, is_out_of_memory
from storage.attention_maps import attention_files
from storage.clean_up import remove_small_components
from storage.errors import BudgetError, ImageError
from storage.label_map import LabelMap
from storage.label_png import LabelFormat
from storage.layouts import Item
from storage.ledger import Entry
from storage.schema import ClassSchema
from storage.workspace import Workspace

Image = npt.NDArray[np.uint8]


def images_in_flight(batch: int, threads: ThreadPlan) -> int:
    """How many images, or labels, a process that labels holds at most beside those that it is labelling."""
    return 2 * (2 * batch) + threads.decoders + threads.encoders + batch


class Decided(Protocol):
    """What a decider makes of one image."""

    @property
    def label(self) -> Image:
        """(height, width) uint8: a class index, or 255."""

    @property
    def soft(self) -> Image | None:
        """(plane, height, width) uint8, what is kept beside the label; None where nothing is."""

    @property
    def attention(self) -> Image | None:
        """(scale, height, width) uint8, how much each scale counted; None where nobody asked."""


class Decider(Protocol):
    """A teacher with the run's scales and thresholds: what turns images into labels."""

    def decide(self, images: Sequence[Image]) -> Sequence[Decided]:
        """Label images of one size, each (height, width, 3) uint8 RGB, as one batch.

        Raises:
            ImageError: an image cannot be labelled.
            RuntimeError, MemoryError: the device cannot.
        """


@runtime_checkable
class TilingDecider(Decider, Protocol):
    """A decider that can also do with less memory than whole images take."""

    def first_way(self, size: tuple[int, int], batch: int) -> Way:
        """How images of a size, (height, width), are labelled, as far as memory can be told beforehand.

        Args:
            size: of the images, in pixels.
            batch: how many may be labelled together.
        """

    def next_tile(self, size: tuple[int, int], tile: int | None) -> int | None:
        """Side of the next smaller tiles after those of side `tile`, or after whole images; None: there are none."""

    def decide_in_tiles(self, images: Sequence[Image], tile: int) -> Sequence[Decided]:
        """As `decide`, but no more than a tile is on its way through the network."""

    def free_memory(self) -> None:
        """Give back what an attempt that ran out of memory has left."""


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

    Threads may label at the same time; the device serves one of them after the other, and while it does the others
    read and write. Where memory runs out, images of that size, and larger ones, are labelled in a smaller way from then
    on: fewer at a time, then, where the decider can, in tiles.
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
                for group in group_by_size(decoded, batch):
                    if stop is not None and stop.is_set():
                        break
                    writing.extend(self._label(group, encoders, folder))
                    yield from _record(writing, record, keep=2 * batch + threads.encoders)
                yield from _record(writing, record, keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                decoders.shutdown(cancel_futures=True)
                with suppress(BudgetError):  # it is on its way already
                    record([f.result() for f in writing if f.exception() is None])

    def _label(self, group: list[Decoded], encoders: ThreadPoolExecutor, folder: Workspace) -> Iterator[Future[Entry]]:
        """Label images of one size and hand them to the encoders; a failure costs its image alone."""
        if group[0].image is None:
            for one in group:
                yield encoders.submit(self._failure, one, one.reason)
            return
        size = (group[0].image.shape[0], group[0].image.shape[1])
        waiting, alone = list(group), 0
        while waiting:
            with self._device:
                way = self._ways.way(size)
                part = waiting[: 1 if alone else way.batch]
                started = time.perf_counter()
                outcome = self._attempt(part, size, way)
                seconds = (time.perf_counter() - started) / len(part)
                if outcome is None:
                    if isinstance(self.decider, TilingDecider):
                        self.decider.free_memory()  # not before the error, which held on to it, is gone
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
                yield encoders.submit(self._publish, one, decision, way, seconds, folder)

    def _attempt(self, part: list[Decoded], size: tuple[int, int], way: Way) -> Sequence[Decided] | str | None:
        """Label images of one size together.

        Returns:
            What was decided, or why nothing could be; None where memory ran out and a smaller way was taken.
        """
        images = [one.image for one in part if one.image is not None]
        try:
            if way.tile is not None and isinstance(self.decider, TilingDecider):
                return self.decider.decide_in_tiles(images, way.tile)
            return self.decider.decide(images)
        except (ImageError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) and self._ways.step_down(size, len(part)):
                return None
            return str(error) or type(error).__name__

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.job.settings_digest, reason=reason)

    def _publish(self, one: Decoded, decision: Decided, way: Way, seconds: float, folder: Workspace) -> Entry:
        job = self.job
        # what a tile sees is less than the image: such a label may be another one, and says so
        provenance = job.provenance if way.tile is None else {**job.provenance, "tile": way.tile}
        label = remove_small_components(LabelMap(decision.label, len(job.schema)), job.min_component)
        beside: list[tuple[Path, bytes]] = []
        if job.attention and decision.attention is not None:
            beside += attention_files(folder, one.item.key, job.attention, decision.attention)
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
            seconds=seconds,
            reason="" if way == Way(job.batch) else f"for want of memory labelled {way}",
        )


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
