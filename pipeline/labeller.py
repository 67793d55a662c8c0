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
from threading import Event, Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.decoding import Decoded, group_by_size, read_ahead
from pipeline.kept_confidence import StoreWriter
from pipeline.publishing import publish_label
from storage.clean_up import remove_small_components
from storage.errors import BudgetError, ImageError
from storage.label_map import LabelMap
from storage.label_png import LabelFormat
from storage.layouts import Item
from storage.ledger import Entry
from storage.schema import ClassSchema
from storage.workspace import Workspace

Image = npt.NDArray[np.uint8]

_DECODERS = 2
_ENCODERS = 2


class Decided(Protocol):
    """What a decider makes of one image."""

    @property
    def label(self) -> Image:
        """(height, width) uint8: a class index, or 255."""

    @property
    def soft(self) -> Image | None:
        """(plane, height, width) uint8, what is kept beside the label; None where nothing is."""


class Decider(Protocol):
    """A teacher with the run's scales and thresholds: what turns images into labels."""

    def decide(self, images: Sequence[Image]) -> Sequence[Decided]:
        """Label images of one size, each (height, width, 3) uint8 RGB, as one batch.

        Raises:
            ImageError: an image cannot be labelled.
            RuntimeError, MemoryError: the device cannot.
        """


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
    read and write.
    """

    job: LabelJob
    decider: Decider
    _device: Lock = field(default_factory=Lock, repr=False)

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
        with ThreadPoolExecutor(_DECODERS, "decode") as decoders, ThreadPoolExecutor(_ENCODERS, "encode") as encoders:
            writing: deque[Future[Entry]] = deque()
            try:
                decoded = read_ahead(items, decoders, depth=2 * batch + _DECODERS)
                for group in group_by_size(decoded, batch):
                    if stop is not None and stop.is_set():
                        break
                    writing.extend(self._label(group, encoders, folder))
                    yield from _record(writing, record, keep=2 * batch + _ENCODERS)
                yield from _record(writing, record, keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                decoders.shutdown(cancel_futures=True)
                with suppress(BudgetError):  # it is on its way already
                    record([f.result() for f in writing if f.exception() is None])

    def _label(self, group: list[Decoded], encoders: ThreadPoolExecutor, folder: Workspace) -> Iterator[Future[Entry]]:
        """Label images of one size and hand them to the encoders; a failure costs its image alone."""
        images = [one.image for one in group if one.image is not None]
        if not images:
            for one in group:
                yield encoders.submit(self._failure, one, one.reason)
            return
        try:
            with self._device:
                started = time.perf_counter()
                decisions = self.decider.decide(images)
                seconds = (time.perf_counter() - started) / len(images)
        except (ImageError, RuntimeError, MemoryError) as error:
            if len(group) > 1:
                for one in group:
                    yield from self._label([one], encoders, folder)
            else:
                reason = str(error) or type(error).__name__
                yield encoders.submit(self._failure, group[0], f"{group[0].item.image}: {reason}")
            return
        for one, decision in zip(group, decisions, strict=True):
            yield encoders.submit(self._publish, one, decision, seconds, folder)

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.job.settings_digest, reason=reason)

    def _publish(self, one: Decoded, decision: Decided, seconds: float, folder: Workspace) -> Entry:
        job = self.job
        label = remove_small_components(LabelMap(decision.label, len(job.schema)), job.min_component)
        beside = []
        if job.keeper is not None and decision.soft is not None and one.item.slot is not None:
            beside = job.keeper.files(one.item.slot, decision.soft)
        return publish_label(
            folder,
            one.item.key,
            label,
            job.provenance,
            job.form,
            job.schema,
            beside,
            settings_digest=job.settings_digest,
            image_bytes=one.image_bytes,
            image_modified_ns=one.image_modified_ns,
            image_sha256=one.image_sha256,
            seconds=seconds,
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
