"""Fitting a scale-attention head to a frozen teacher, which then fuses scales as if it had been trained for that.

The teacher predicts each image once at each scale (`pipeline.logit_cache`); then only the head is trained, a matter of
minutes (`pipeline.head_training`), and judged on other images beside a single scale and the average.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.claim import claimed_folder
from pipeline.head_data import HeadData, collect_images
from pipeline.head_folder import DESCRIPTION, HeadFolder
from pipeline.head_judging import HeadScores, judge_fusions
from pipeline.head_settings import FitAttentionSettings
from pipeline.head_training import new_head, train_head
from pipeline.logit_cache import LogitCache
from pipeline.samples import Sample, fingerprint_files, read_ahead
from pipeline.settings import settings_difference
from pipeline.teacher_file import describe_with_attention
from storage.atomic_file import remove_partial_files
from storage.errors import (
    CheckpointError,
    ForeignSettingsError,
    LabelError,
    MissingFileError,
    SettingsError,
    WorkspaceError,
)
from storage.schema import load_schema
from storage.workspace import write_atomically
from teacher import Teacher, load_teacher
from teacher.ensemble import EnsemblePredictor
from teacher.foreign.scale_head import HeadRecord, ScaleHead, load_head, save_head

TABLE = "fit-attention"
"""Of the settings."""

Stage = Literal["predict", "fit", "judge"]


@dataclass(frozen=True, slots=True)
class HeadProgress:
    """How far a stage is."""

    stage: Stage
    done: int
    total: int
    """Images, or steps of the training."""
    loss: float | None = None
    """Of the step."""
    logit_bytes: int | None = None
    """What the logits of all images are going to take, about; with the first that are there."""


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A fit, opened: iterate over it, then ask for the result."""

    settings: FitAttentionSettings
    teacher: Teacher
    data: HeadData
    description: bytes
    """Of the teacher with the head, as `--teacher` reads it."""
    finished: bool
    """Whether an earlier run has done all of it."""

    @classmethod
    def open(cls, settings: FitAttentionSettings) -> Self:
        """Load the teacher, pair images and labels, and see what an earlier run has done.

        Raises:
            MissingFileError: there is no such folder or file.
            LayoutError: no image has a label, or there is but one.
            LeakError: images to judge on are trained on, by the head or the teacher.
            ForeignSettingsError: `out` holds another head.
            WorkspaceError: what is in `out` cannot be read.
            SettingsError: the teacher has a scale attention of its own, or is several together.
            SettingsError, SchemaError, CheckpointError: the teacher cannot be made as asked.
        """
        schema = None if settings.classes is None else load_schema(settings.classes)
        teacher = load_teacher(
            settings.teacher, settings.weights, schema=schema, device=settings.device, precision=settings.precision
        )
        _refuse_attention(teacher, settings.teacher)
        folder = HeadFolder(settings.out)
        description = describe_with_attention(settings.teacher, settings.weights, settings.classes, folder.head)
        data = collect_images(settings, teacher)
        return cls(settings, teacher, data, description, _is_finished(folder, _question(settings, teacher, data)))

    @property
    def folder(self) -> HeadFolder:
        """Where the result goes."""
        return HeadFolder(self.settings.out)

    def __iter__(self) -> Iterator[HeadProgress]:
        """Do what is not done yet, and write the head, the teacher's description and the figures.

        Raises:
            LabelError: an image or a label cannot be read, or no pixel that is judged has a label.
            ImageError: an image is too small for the lowest scale, or of no size that the teacher takes.
            ForeignSettingsError: `out` holds other work, or logits of other images or another teacher.
            WorkspaceError: something cannot be written, or another process has `out`; DiskFullError: there is no room
                for the logits.
        """
        if self.finished:
            self._describe(self.result())  # the teacher may have moved since
            return
        with claimed_folder(self.folder.settings, TABLE, self.settings, FitAttentionSettings.decisive):
            yield from self._fit()

    def _fit(self) -> Iterator[HeadProgress]:
        settings, samples, device = self.settings, self.data.samples, self.teacher.device
        predicted = settings.predicted(self.teacher) | {"files": fingerprint_files(samples)}
        cache = LogitCache.open(self.folder.logits, predicted)
        remove_partial_files(settings.out)
        yield from predict_images(cache, samples, self.teacher, settings.scales)
        images = [cache.image(number) for number in range(len(samples))]
        learned = len(self.data.training)
        head = new_head(images[0].classes, settings.channels, settings.seed).to(device)
        for step, loss in enumerate(train_head(head, images[:learned], settings, device), start=1):
            yield HeadProgress("fit", step, settings.steps, loss)
        scores: dict[str, HeadScores] = {}
        for so_far in judge_fusions(head, images[learned:], self.teacher, settings.scales):
            scores = so_far
            yield HeadProgress("judge", scores["single"].images, len(samples) - learned)
        self._write(head, scores)
        if not settings.keep_logits:
            cache.remove()

    def _write(self, head: ScaleHead, scores: Mapping[str, HeadScores]) -> None:
        settings, schema, folder = self.settings, self.teacher.schema, self.folder
        figures = {name: one.to_dict(schema) for name, one in scores.items()}
        notes = {"settings": settings.fitted(), "network": self.teacher.name}
        record = HeadRecord(self.teacher.digest, schema.digest, settings.scales, self.data.known, notes)
        save_head(folder.head, head, record)
        content = {
            "head": head.digest,
            "scales": list(settings.scales),
            "trained_on": len(self.data.training),
            "judged_on": [sample.key for sample in self.data.validation],
            "fusions": figures,
            "question": _question(settings, self.teacher, self.data),
        }
        self._describe(content)

    def _describe(self, report: dict[str, Any]) -> None:
        """Write the teacher's description, unless someone has edited it, and the report, which knows it by its hash."""
        digest = hashlib.sha256(self.description).hexdigest()
        if not self.is_edited and self.folder.described() != digest:
            write_atomically(self.folder.teacher, self.description)
        if report.get(DESCRIPTION) != digest:
            write_atomically(self.folder.report, json.dumps(report | {DESCRIPTION: digest}, indent=1).encode())

    @property
    def is_edited(self) -> bool:
        """Whether the teacher's description is another than a fit wrote: then it stays as it is.

        Raises:
            WorkspaceError: it, or the report, cannot be read.
        """
        found = self.folder.described()
        written = (self.folder.read_report() or {}).get(DESCRIPTION)
        return found not in (None, written, hashlib.sha256(self.description).hexdigest())

    def result(self) -> dict[str, Any]:
        """What `fit.json` says, when all is done.

        Raises:
            WorkspaceError: it has gone, or is damaged.
        """
        found = self.folder.read_report()
        if found is None:
            raise WorkspaceError(f"{self.folder.report} has gone; run the same command again")
        return found


def _question(settings: FitAttentionSettings, teacher: Teacher, data: HeadData) -> dict[str, Any]:
    """What decides the result, as plain values."""
    files = {"files": fingerprint_files(data.samples), "judged": len(data.validation)}
    return settings.predicted(teacher) | settings.fitted() | files


def _is_finished(folder: HeadFolder, question: Mapping[str, Any]) -> bool:
    found = folder.read_report()
    if found is None:
        return False
    if found["question"] != (now := json.loads(json.dumps(question))):
        raise ForeignSettingsError(
            f"{folder.root} holds a head that was fitted otherwise:\n{settings_difference(found['question'], now)}\n"
            f"choose another --out, or remove {folder.root}"
        )
    return _is_of_report(folder.head, found["head"])


def _is_of_report(path: Path, digest: str) -> bool:
    """Whether the head that a report is of is there, and whole; another one is somebody's."""
    try:
        head = load_head(path)
    except (MissingFileError, CheckpointError):
        return False
    if head.digest != digest:
        raise ForeignSettingsError(f"{path} is another head than the one that was fitted here; move it away")
    return True


def _refuse_attention(teacher: Teacher, name: str) -> None:
    if isinstance(teacher.predictor, EnsemblePredictor):
        return  # told where it is described
    own = teacher.fusion()
    if own in ("hierarchical", "explicit"):
        raise SettingsError(
            f"{name} has a scale attention of its own ({own}), so there is nothing to fit: label with it as it is, or "
            f"name a teacher without one"
        )


def predict_images(
    cache: LogitCache, samples: Sequence[Sample], teacher: Teacher, scales: Sequence[float]
) -> Iterator[HeadProgress]:
    """Have the teacher predict what is not in the cache yet.

    Args:
        cache: the logits go there.
        samples: images with their truth, in the order of the cache.
        teacher: predicts.
        scales: ratios to the images.

    Raises:
        LabelError, ImageError, WorkspaceError: as `HeadFit.__iter__`.
    """
    sizes = {number: cache.image(number).path.stat().st_size for number in cache.done(len(samples))}
    missing = [number for number in range(len(samples)) if number not in sizes]
    yield HeadProgress("predict", len(sizes), len(samples))
    contents = read_ahead([samples[number] for number in missing], teacher.schema)
    for number, (sample, content) in zip(missing, contents, strict=True):
        if isinstance(content, str):
            raise LabelError(f"{content}; mend it, or take {sample.key} out")
        image, truth = content
        view = teacher.predict([image], scales, "average")
        sizes[number] = cache.image(number).write(view, truth)
        expected: int | None = None
        if number == missing[0]:
            expected = sum(sizes.values()) * len(samples) // len(sizes)
            cache.require_room(expected - sum(sizes.values()))
        yield HeadProgress("predict", len(sizes), len(samples), logit_bytes=expected)
