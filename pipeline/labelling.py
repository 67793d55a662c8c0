"""The main job: label a set of images with a teacher, one entry an item, whatever happens to the process.

Decoding, the network and encoding overlap: threads read ahead of the device, threads write behind it, both through
bounded queues, so memory does not grow with the set. This thread drives the device and alone writes the ledger.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.decoding import Decoded, group_by_size, read_ahead
from pipeline.plan import Plan, make_plan
from pipeline.run_folder import claim, list_failures, publish_label, refuse_strangers
from pipeline.settings import LabelSettings, settings_digest
from storage.errors import ImageError
from storage.label_map import LabelMap
from storage.layouts import list_images
from storage.ledger import Entry, Ledger
from storage.schema import load_schema
from storage.workspace import Workspace
from teacher import Teacher, load_teacher

DECISION_RULE = 1
"""Version of the rule that turns scores into labels; raised when the same settings would give other pixels."""

_DECODERS = 2
_ENCODERS = 2

Image = npt.NDArray[np.uint8]


@dataclass(slots=True)
class LabelSummary:
    """Counts of a run; `total = labelled + failed + skipped` once it has ended."""

    total: int
    """Images of the listing."""
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


def _decisive_settings(settings: LabelSettings, teacher: Teacher) -> dict[str, object]:
    """What decides pixels, as plain values: no paths, no device, no batch."""
    return {
        "teacher": teacher.digest,
        "network": teacher.spec.network,
        "classes": list(teacher.schema.names),
        "scales": list(settings.scales),
        "threshold": settings.threshold,
        "flip": settings.flip,
        "precision": settings.precision,
        "decision_rule": DECISION_RULE,
    }


class LabelRun:
    """A labelling run: opened, planned, then iterated for its entries.

    Opening loads the teacher, takes the workspace's lock and refuses a workspace that holds labels of other settings.
    Use it as a context manager; leaving it records what was finished, also after an error or Ctrl-C.

    Raises:
        ForeignSettingsError: the workspace holds labels made with other settings; the message shows the difference.
        WorkspaceError: the workspace cannot be written, or another process has it.
        MissingFileError, SettingsError, SchemaError, CheckpointError: the teacher cannot be made as asked.
    """

    plan: Plan
    """What is done and what is to do."""

    def __init__(self, settings: LabelSettings) -> None:
        self.settings = settings
        self.workspace = Workspace(settings.out)
        # the cheap checks come first: a wrong path should not cost the loading of a network
        listing = list_images(settings.images, settings.layout, exclude=[settings.out, self.workspace.labels])
        schema = None if settings.classes is None else load_schema(settings.classes)
        with ExitStack() as stack:
            lock = self.workspace.lock()
            stack.callback(lock.release)
            self.workspace.prepare()
            stack.callback(self.workspace.tidy)
            refuse_strangers(self.workspace)
            self.teacher: Teacher = load_teacher(
                settings.teacher, settings.weights, schema=schema, device=settings.device, precision=settings.precision
            )
            self.decisive = _decisive_settings(settings, self.teacher)
            self.digest = settings_digest(self.decisive)
            self.ledger = stack.enter_context(Ledger(self.workspace.ledger))
            claim(self.workspace, self.ledger, self.ledger.settings, self.decisive, settings, "label")
            self.ledger.forget_failures(listing.keys)
            self.plan = make_plan(listing, self.ledger, self.workspace, self.digest)
            self.summary = LabelSummary(total=self.plan.total, skipped=len(self.plan.done))
            for entry in self.plan.done:
                self.summary.add_label(entry)
            self._stack = stack.pop_all()
        self._provenance: dict[str, str | float] = {
            "settings": self.digest,
            "teacher": self.teacher.digest,
            "classes": self.teacher.schema.digest,
            "threshold": settings.threshold,
            "version": version("autocoarse"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields the entry of every item that was to do, once it is in the ledger.

        Raises:
            WorkspaceError: a label or the ledger cannot be written; what was made before stays and counts.
        """
        refused = list(self.plan.failures(self.digest))
        self._commit(refused)
        yield from refused
        batch = self.settings.batch
        with ThreadPoolExecutor(_DECODERS, "decode") as decoders, ThreadPoolExecutor(_ENCODERS, "encode") as encoders:
            writing: deque[Future[Entry]] = deque()
            try:
                decoded = read_ahead(self.plan.to_do, decoders, depth=2 * batch + _DECODERS)
                for group in group_by_size(decoded, batch):
                    writing.extend(self._label(group, encoders))
                    yield from self._record(writing, keep=2 * batch + _ENCODERS)
                yield from self._record(writing, keep=0)
            finally:
                # reached with work left only after an error or Ctrl-C: what was labelled is recorded all the same
                decoders.shutdown(cancel_futures=True)
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
        if entries:
            self.ledger.commit(entries)
            for entry in entries:
                self.summary.add(entry)

    def _label(self, group: list[Decoded], encoders: ThreadPoolExecutor) -> Iterator[Future[Entry]]:
        """Label images of one size and hand them to the encoders; a failure costs its image alone."""
        images = [one.image for one in group if one.image is not None]
        if not images:
            for one in group:
                yield encoders.submit(self._failure, one, one.reason)
            return
        started = time.perf_counter()
        try:
            labels = self.teacher.label(images, self.settings.scales, self.settings.threshold, flip=self.settings.flip)
        except (ImageError, RuntimeError, MemoryError) as error:
            if len(group) > 1:
                for one in group:
                    yield from self._label([one], encoders)
            else:
                reason = str(error) or type(error).__name__
                yield encoders.submit(self._failure, group[0], f"{group[0].item.image}: {reason}")
            return
        seconds = (time.perf_counter() - started) / len(images)
        for one, label in zip(group, labels, strict=True):
            yield encoders.submit(self._publish, one, label, seconds)

    def _failure(self, one: Decoded, reason: str) -> Entry:
        return Entry(key=one.item.key, status="failed", settings_digest=self.digest, reason=reason)

    def _publish(self, one: Decoded, values: Image, seconds: float) -> Entry:
        label = LabelMap(values, len(self.teacher.schema))
        return publish_label(
            self.workspace,
            one.item.key,
            label,
            self._provenance,
            settings_digest=self.digest,
            image_bytes=one.image_bytes,
            image_modified_ns=one.image_modified_ns,
            image_sha256=one.image_sha256,
            seconds=seconds,
        )
