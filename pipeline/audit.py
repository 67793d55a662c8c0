"""Audit: how far automatic labels agree with the human coarse labels of the very same images.

Coarse labels are a free test that a set brings along. What they do not say is in `audit_file.BIAS`. Memory holds the
counts, and one small record an image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from pipeline.audit_file import BIAS, VERSION, Audit, FolderAudit, ImageAudit, Mistake
from pipeline.audit_ranking import BlockEvidence, expected_shares
from pipeline.intervals import RatioSums
from pipeline.paired_labels import PairedLabels, pair_labels
from pipeline.quality import ClassQuality
from pipeline.scores import Counts, count_pixels
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.layouts import Layout
from storage.ledger import Ledger
from storage.schema import IGNORE, ClassSchema, Ids
from storage.workspace import Workspace

FLOOR_IMAGES = 10
"""There is enough evidence of a class if it was given to judged pixels of so many images, and drawn in so many."""

FLOOR_PIXELS = 1000
"""And if so many judged pixels were given it."""


@dataclass(frozen=True, slots=True)
class AuditProgress:
    """How far an audit is."""

    done: int
    total: int
    """Images."""
    agreement: float | None
    """Agreeing pixels of those judged so far; None where none is."""
    audit: Audit | None = None
    """With the last one."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is remembered of an image."""

    key: str
    pixels: int
    drawn: int
    judged: int
    agreeing: int
    mistake: Mistake | None
    evidence: BlockEvidence


@dataclass(frozen=True, slots=True)
class _Judged:
    """What one image adds to an audit."""

    record: _Record
    counts: Counts
    """As in `count_pixels`: rows are the human's classes."""
    unknown: int


@dataclass(slots=True)
class _Sums:
    """What the images looked at so far add up to."""

    counts: Counts
    given: RatioSums
    """By class, over the pixels that the labels give it."""
    drawn: RatioSums
    """By class, over the pixels that humans drew as it."""
    unknown: int
    records: list[_Record]

    @classmethod
    def of(cls, classes: int) -> Self:
        """Nothing yet."""
        return cls(np.zeros((classes, classes + 1), np.int64), _nothing(classes), _nothing(classes), 0, [])

    def add(self, one: _Judged) -> None:
        """Add an image."""
        right = one.counts.diagonal()
        self.counts += one.counts
        self.given += RatioSums.of_image(right, one.counts[:, :-1].sum(axis=0))
        self.drawn += RatioSums.of_image(right, one.counts.sum(axis=1))
        self.unknown += one.unknown
        self.records.append(one.record)


def audit_labels(
    labels: Path,
    coarse: Path,
    schema: ClassSchema,
    layout: Layout = "folder",
    ids: Ids | None = None,
) -> Iterator[AuditProgress]:
    """Compare labels with human coarse labels of the same images. Only images that have both are looked at.

    Args:
        labels: a RUN, or a label folder.
        coarse: label folder of what humans drew.
        schema: the classes that both are read as.
        layout: how the folders lie on disk.
        ids: what their values are; a RUN says itself what its own labels are.

    Yields:
        Progress after each image; the last has the audit.

    Raises:
        MissingFileError: there is no such folder.
        SchemaError: the RUN has other classes.
        LayoutError: a folder holds no labels, or they have no image in common.
        LabelError: a label cannot be read, holds an illegal value, or differs in size from the other; or humans have
            drawn nothing in any of the images.
        WorkspaceError: the RUN's ledger cannot be read.
    """
    pairs = pair_labels(labels, coarse, schema, layout, ids)
    sums = _Sums.of(len(schema))
    for done, one in enumerate(pairs.judge(_judge(schema)), start=1):
        sums.add(one)
        if done < len(pairs.keys):
            yield AuditProgress(done, len(pairs.keys), _agreement(sums.counts))
    _refuse_nothing(sums.counts, len(sums.records), coarse, schema)
    audit = _audit(labels, coarse, schema, sums, pairs)
    yield AuditProgress(len(sums.records), len(sums.records), audit.precision, audit)


def _audit(labels: Path, coarse: Path, schema: ClassSchema, sums: _Sums, pairs: PairedLabels) -> Audit:
    everything = _judge_folder(str(labels), sums.records)
    return Audit(
        kind="audit",
        version=VERSION,
        labels=str(labels),
        coarse=str(coarse),
        bias=BIAS,
        floor_images=FLOOR_IMAGES,
        floor_pixels=FLOOR_PIXELS,
        classes=_judge_classes(schema, _thresholds_of(labels, schema), sums.given, sums.drawn),
        drawn_images=tuple(sums.drawn.images.tolist()),
        confusion=tuple(map(tuple, sums.counts.tolist())),
        precision=everything.precision,
        precision_low=everything.precision_low,
        precision_high=everything.precision_high,
        coverage=everything.judged / everything.drawn,
        images_without_coarse=pairs.without_truth,
        images_without_auto=pairs.without_label,
        unknown=sums.unknown,
        folders=_folders(sums.records),
        images=_rank(sums.records),
    )


def _refuse_nothing(counts: Counts, images: int, coarse: Path, schema: ClassSchema) -> None:
    if not counts.any():
        raise LabelError(
            f"the {images} coarse labels of {coarse} hold no pixel with a class of {schema.name!r}: nothing can "
            f"be judged; if their values are the data set's own, say --ids source"
        )


def _thresholds_of(labels: Path, schema: ClassSchema) -> Mapping[str, float]:
    """The threshold of each class by name, as a RUN's ledger says; empty where nobody says, as of merged labels."""
    if (run := Workspace.holding(labels)) is None:
        return {}
    with Ledger(run.ledger, read_only=True) as ledger:
        settings = ledger.settings or {}
    threshold, own = settings.get("threshold"), settings.get("class_thresholds", {})
    if not isinstance(threshold, int | float) or not isinstance(own, dict):
        return {}
    return {name: float(own.get(name, threshold)) for name in schema.names}


def _judge(schema: ClassSchema) -> Callable[[str, LabelMap, LabelMap], _Judged]:
    """What is made of key, label and coarse label of one image."""

    def judge(key: str, label: LabelMap, coarse: LabelMap) -> _Judged:
        counts = count_pixels(coarse, label)
        judged = (coarse.values != IGNORE) & (label.values != IGNORE)
        record = _Record(
            key,
            pixels=label.values.size,
            drawn=int(counts.sum()),
            judged=int(counts[:, :-1].sum()),
            agreeing=int(counts.trace()),
            mistake=_worst_mistake(counts, schema),
            evidence=BlockEvidence.of_image(judged, judged & (coarse.values != label.values)),
        )
        return _Judged(record, counts, coarse.unknown)

    return judge


def _worst_mistake(counts: Counts, schema: ClassSchema) -> Mistake | None:
    wrong = counts[:, :-1] - np.diag(counts.diagonal())
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    pixels = int(wrong[row, column])
    return Mistake(schema.names[row], schema.names[column], pixels) if pixels else None


def _nothing(count: int) -> RatioSums:
    zeros = np.zeros(count, np.int64)
    return RatioSums.of_image(zeros, zeros)


def _agreement(counts: Counts) -> float | None:
    judged = counts[:, :-1].sum()
    return float(counts.trace() / judged) if judged else None


def _judge_classes(
    schema: ClassSchema, thresholds: Mapping[str, float], given: RatioSums, drawn: RatioSums
) -> tuple[ClassQuality, ...]:
    share, (low, high), found = given.share(), given.interval(), drawn.share()
    enough_truth = drawn.images >= FLOOR_IMAGES
    enough = enough_truth & (given.images >= FLOOR_IMAGES) & (given.whole >= FLOOR_PIXELS)
    return tuple(
        ClassQuality(
            name=name,
            threshold=thresholds.get(name),
            precision=_number(share[index]),
            precision_low=_number(low[index]),
            precision_high=_number(high[index]),
            coverage=_number(found[index]),
            images=int(given.images[index]),
            pixels=int(given.whole[index]),
            enough=bool(enough[index]),
            enough_truth=bool(enough_truth[index]),
        )
        for index, name in enumerate(schema.names)
    )


def _number(share: float) -> float | None:
    return None if np.isnan(share) else float(share)


def _judge_folder(name: str, records: Sequence[_Record]) -> FolderAudit:
    """The agreement over some images."""
    sums = _nothing(1)
    for one in records:
        sums += RatioSums.of_image(np.array([one.agreeing]), np.array([one.judged]))
    low, high = sums.interval()
    return FolderAudit(
        name,
        len(records),
        sum(one.drawn for one in records),
        int(sums.whole[0]),
        int(sums.part[0]),
        *(_number(shares[0]) for shares in (sums.share(), low, high)),
    )


def _folders(records: Iterable[_Record]) -> tuple[FolderAudit, ...]:
    of_folder: dict[str, list[_Record]] = defaultdict(list)
    for one in records:
        of_folder[PurePosixPath(one.key).parent.as_posix()].append(one)
    return tuple(_judge_folder(name, of_folder[name]) for name in sorted(of_folder))


def _rank(records: Sequence[_Record]) -> tuple[ImageAudit, ...]:
    """The images, the worst first; where as much is expected of two, the one with more wrong pixels seen."""
    scores = expected_shares([one.evidence for one in records])
    images = [
        ImageAudit(one.key, one.pixels, one.drawn, one.judged, one.agreeing, score, one.mistake)
        for one, score in zip(records, scores, strict=True)
    ]
    return tuple(sorted(images, key=lambda one: (-one.score, one.agreeing - one.judged, one.key)))
