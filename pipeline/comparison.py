"""The comparison of label sets: the same student trained on each, with the same seeds and steps.

It trains through `training` and leaves the arithmetic to `comparison_report`.
"""

import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.claim import claimed_folder
from pipeline.comparison_report import Comparison, Student, compare_students, comparison_markdown, comparison_plot
from pipeline.label_counts import LabelCounts, count_labels
from pipeline.settings import Scales
from pipeline.training import train
from pipeline.training_progress import TrainProgress, TrainResult
from pipeline.training_settings import TrainingRecipe, TrainSettings
from pipeline.training_state import TrainingFolder
from storage.errors import MissingFileError
from storage.layouts import Layout
from storage.schema import Ids, load_schema
from storage.workspace import Workspace, write_atomically

FINE = "fine"
"""The set that is always there: the fine labels alone."""

_SET = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._+-]{0,63})(?::(?P<kind>auto|coarse))?=(?P<labels>.+)")

SETTINGS, TABLE = "comparison.toml", "compare"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels of the extra images that a student is trained on, beside the fine ones."""

    name: str
    kind: Literal["fine", "auto", "coarse"]
    labels: Path | None
    """None: no extra labels, the set "fine"."""
    reviewed: Path | None = None
    """Labels that stand instead of those of the same images."""


class CompareSettings(TrainingRecipe):
    """What `compare` does: the recipe of every student, and what they learn from."""

    fine_images: Path
    """Folder of images with fine labels."""
    fine_labels: Path
    """Their labels; every image must have one."""
    extra_images: Path
    """Images that the sets hold labels of."""
    set: tuple[str, ...] = Field(min_length=1)
    """NAME=DIR each: a name, and what `label --out` made (taken as auto labels) or a folder (as coarse ones).
    NAME:auto=DIR or NAME:coarse=DIR say which."""
    reviewed: tuple[str, ...] = ()
    """NAME=DIR each: one of the sets, and reviewed labels that stand in it instead of those of the same images."""
    baseline: str | None = None
    """The set that gains are computed against; None: the first of coarse labels, or "fine" where there is none."""
    val_images: Path
    val_labels: Path
    """What every student is evaluated on, at its end alone."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of the label folders are; None: class indices, or what a Cityscapes file's name says."""
    scales: Scales = (0.5, 1.0, 2.0)
    """Scales at which the students are evaluated."""
    device: str = "auto"
    workers: int | None = Field(None, ge=0, le=256)
    """Processes that read and augment; None: as `train` decides."""
    seeds: int = Field(3, ge=1, le=1000)
    """Students of each set; their seeds are `seed`, `seed` + 1, ..."""
    out: Path
    """Folder of the students and of the report."""

    @field_validator("set")
    @classmethod
    def _check_sets(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        names = []
        for text in texts:
            match = _SET.fullmatch(text)
            if match is None:
                raise ValueError(
                    f"{text!r} is no label set; expected NAME=DIR, NAME:auto=DIR or NAME:coarse=DIR, where the name "
                    f"becomes a folder's: letters, digits and . _ + -"
                )
            names.append(match["name"])
        # folders of some systems do not tell upper case from lower case
        if len({name.lower() for name in (FINE, *names)}) <= len(names):
            raise ValueError(f"the sets are named {', '.join(names)}; each name must be another, and none {FINE!r}")
        return texts

    @model_validator(mode="after")
    def _check_baseline(self) -> Self:
        names = [FINE, *(_SET.fullmatch(text)["name"] for text in self.set)]  # type: ignore[index] # checked above
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"the baseline is {self.baseline!r}, expected one of the sets {', '.join(names)}")
        for text in self.reviewed:
            name, equals, labels = text.partition("=")
            if not equals or not labels or name not in names[1:]:
                raise ValueError(f"reviewed is {text!r}, expected NAME=DIR with one of the sets {', '.join(names[1:])}")
        if len({text.partition("=")[0] for text in self.reviewed}) < len(self.reviewed):
            raise ValueError("a set has reviewed labels twice; put them into one folder with import-review")
        if self.seed + self.seeds > 2**31:
            raise ValueError(f"{self.seeds} seeds from {self.seed} on end above {2**31 - 1}; give a lower seed")
        return self

    def label_sets(self) -> tuple[LabelSet, ...]:
        """The sets, fine first; a set's kind is looked up on the disk where it is not said.

        Raises:
            MissingFileError: a set's folder is not there.
        """
        sets = [LabelSet(FINE, "fine", None)]
        reviewed = {name: Path(labels) for name, _, labels in (text.partition("=") for text in self.reviewed)}
        if missing := [folder for folder in reviewed.values() if not folder.is_dir()]:
            raise MissingFileError(f"no folder {missing[0]}, which is to hold reviewed labels")
        for text in self.set:
            match = _SET.fullmatch(text)
            assert match is not None, "the settings are validated"
            labels = Path(match["labels"])
            if not labels.is_dir():
                raise MissingFileError(f"no folder {labels}, which is to hold the labels of the set {match['name']}")
            is_auto = match["kind"] == "auto" or (match["kind"] is None and Workspace.holding(labels) is not None)
            sets.append(LabelSet(match["name"], "auto" if is_auto else "coarse", labels, reviewed.get(match["name"])))
        return tuple(sets)

    def baseline_of(self, sets: Sequence[LabelSet]) -> str:
        """The name of the set that gains are computed against."""
        return self.baseline or next((s.name for s in sets if s.kind == "coarse"), FINE)

    def training(self, label_set: LabelSet, seed: int) -> TrainSettings:
        """The settings of one student."""
        extra = {}
        if label_set.labels is not None:
            extra = {f"{label_set.kind}_images": self.extra_images, f"{label_set.kind}_labels": label_set.labels}
            extra |= {} if label_set.reviewed is None else {"reviewed_labels": label_set.reviewed}
        shared = {name: getattr(self, name) for name in type(self).model_fields.keys() & TrainSettings.model_fields}
        folder = self.out / "students" / label_set.name
        own = {"seed": seed, "out": folder / f"seed-{seed}", "index": folder / "index.npz"}  # read once for all seeds
        return TrainSettings.checked(**{**shared, **extra, **own})

    def decisive(self) -> dict[str, Any]:
        """The settings that decide every student's weights; what lies behind the paths is `train`'s to compare."""
        return self.training(LabelSet(FINE, "fine", None), self.seed).decisive()


@dataclass(frozen=True, slots=True)
class CompareProgress:
    """How far a comparison is."""

    phase: Literal["counting", "training", "finished"]
    """Counting the pixels of a set's labels, or training a student on it."""
    name: str
    """Of the set."""
    seed: int
    done: int
    """Labels counted; students finished."""
    total: int
    training: TrainProgress | None = None
    """Of the student, while it is trained."""
    seconds_left: float | None = None
    """For the training of all students that are left, at the pace of those that are finished."""
    comparison: Comparison | None = None
    """With phase "finished", the last one."""


def compare(settings: CompareSettings) -> Iterator[CompareProgress]:
    """Train the same student on every label set with every seed, and write what it gave, after each student.

    All sets with the first seed come first, then all with the second: a comparison that is stopped has a fair table.
    The same call goes on where it stopped; sets and seeds may have been added to it.

    Writes comparison.toml, comparison.json, comparison.md, comparison.png, students/NAME/seed-S (a folder of `train`
    each) and label_counts/ into `settings.out`.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the comparison.

    Raises:
        ForeignSettingsError: the folder holds a comparison of another recipe, a student of other labels, or
            anything else.
        WorkspaceError: the folder cannot be written, or another process has it.
        AutocoarseError: as `train` does.
    """
    sets = settings.label_sets()  # the cheap check comes first
    with claimed_folder(settings.out / SETTINGS, TABLE, settings, CompareSettings.decisive):
        counts = yield from _count(settings, sets)
        order = [(label_set, settings.seed + i) for i in range(settings.seeds) for label_set in sets]
        # those that are finished come first, and the table is not written before it has them all again
        order.sort(key=lambda one: not _is_finished(settings, *one))
        known = sum(_is_finished(settings, *one) for one in order)
        students: list[Student] = []
        comparison = None
        for label_set, seed in order:
            result = yield from _train(settings, label_set, seed, students, len(order))
            assert result.scores is not None, "validation images are given"
            students.append(Student(label_set.name, seed, result.scores, result.steps, result.seconds))
            kinds = {s.name: s.kind for s in sets}
            if len(students) >= known:
                in_order = sorted(students, key=lambda student: (list(kinds).index(student.name), student.seed))
                comparison = compare_students(in_order, counts, kinds, settings.baseline_of(sets), len(order))
                _write(settings.out, comparison)
        assert comparison is not None, "there are a set and a seed at least"
        name, seed = students[-1].name, students[-1].seed
        yield CompareProgress("finished", name, seed, len(order), len(order), comparison=comparison)


def _is_finished(settings: CompareSettings, label_set: LabelSet, seed: int) -> bool:
    """Whether an earlier run has trained and judged a student; `train` looks at what it was made from."""
    return TrainingFolder(settings.training(label_set, seed).out).metrics.is_file()


def _count(
    settings: CompareSettings, sets: Sequence[LabelSet]
) -> Generator[CompareProgress, None, dict[str, LabelCounts]]:
    """Count the labels of each set; a folder that is none, or does not fit, is known before hours of training."""
    schema = load_schema(settings.classes)
    folder = settings.out / "label_counts"
    folder.mkdir(exist_ok=True)
    counts = {}
    for one in sets:
        images = settings.fine_images if one.labels is None else settings.extra_images
        labels = one.labels or settings.fine_labels
        cache = folder / f"{one.name}.json"
        for progress in count_labels(
            images, labels, one.kind, schema, settings.layout, settings.ids, cache, one.reviewed
        ):
            yield CompareProgress("counting", one.name, settings.seed, progress.done, progress.total)
            if progress.counts is not None:
                counts[one.name] = progress.counts
    return counts


def _train(
    settings: CompareSettings, label_set: LabelSet, seed: int, finished: Sequence[Student], total: int
) -> Generator[CompareProgress, None, TrainResult]:
    # Students that were finished before take no time now, but theirs is the best guess for those to come.
    left = fmean(s.seconds for s in finished) * (total - len(finished)) if finished else None
    result = None
    for progress in train(settings.training(label_set, seed)):
        result = progress.result
        yield CompareProgress("training", label_set.name, seed, len(finished), total, progress, left)
    assert result is not None, "training ends with its result"
    return result


def _write(out: Path, comparison: Comparison) -> None:
    write_atomically(out / "comparison.json", (json.dumps(comparison.to_dict(), indent=1) + "\n").encode())
    write_atomically(out / "comparison.md", comparison_markdown(comparison).encode())
    if (picture := comparison_plot(comparison)) is not None:
        write_atomically(out / "comparison.png", picture)
