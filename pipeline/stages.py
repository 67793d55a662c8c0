"""All stages in a row: teacher, labels, merge, student, and how good both networks are; each skipped where it is done.

It chains the stages as the commands do; whether a stage's outputs are current is the stage's own to find out.
"""

import json
import tomllib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.claim import claimed_folder
from pipeline.judging import judge_checkpoint
from pipeline.label_counts import LabelCounts, count_labels
from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun
from pipeline.scores import Scores
from pipeline.settings import settings_difference
from pipeline.stages_settings import FOLDERS, RunSettings
from pipeline.training import train
from pipeline.training_progress import TrainProgress
from storage.errors import ForeignSettingsError, LabelError, SettingsError
from storage.schema import load_schema
from storage.workspace import write_atomically

SETTINGS, TABLE = "settings.toml", "run"


@dataclass(frozen=True, slots=True)
class Network:
    """A teacher or a student."""

    checkpoint: Path
    scores: Scores
    """On the validation images."""
    trained: bool
    """Whether any step was taken now."""
    judged: bool
    """Whether it was evaluated now."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels of the extra images."""

    stage: str
    """That made them: "label" or "merge"."""
    labels: Path
    """A run of that command."""
    counts: LabelCounts
    bytes: int
    failed: int
    """Images that have no label, for reasons in the run's failed.txt."""
    made: int
    """Labels that were made now."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What the stages gave, and which of them had nothing to do."""

    teacher: Network
    labels: tuple[LabelSet, ...]
    """The teacher's; then, where they were merged with human ones, the merged. The student learned from the last."""
    student: Network

    @property
    def failed(self) -> int:
        """Images that could not be labelled, or whose labels could not be merged; the larger number of the two."""
        return max(one.failed for one in self.labels)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The stages whose outputs were current."""
        worked = {
            "teacher": self.teacher.trained,
            **{one.stage: one.made + one.failed > 0 for one in self.labels},
            "student": self.student.trained,
            "evaluate": self.teacher.judged or self.student.judged,
        }
        return tuple(stage for stage, has_worked in worked.items() if not has_worked)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values; shares are of 1."""
        networks = {
            name: {"checkpoint": str(one.checkpoint), **asdict(one.scores)}
            for name, one in (("teacher", self.teacher), ("student", self.student))
        }
        labels = {
            FOLDERS[one.stage]: {
                "labels": str(one.labels),
                **asdict(one.counts),
                "coverage": one.counts.coverage,
                "bytes": one.bytes,
                "failed": one.failed,
            }
            for one in self.labels
        }
        return {"teacher": networks["teacher"], "labels": labels, "student": networks["student"]}


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run of all stages is."""

    stage: str
    """teacher, label, merge, student or finished."""
    done: int = 0
    total: int = 0
    """Of what `unit` says; of training see `training`."""
    unit: str = "images"
    training: TrainProgress | None = None
    warning: str = ""
    """What someone may want to mend, once."""
    result: RunResult | None = None
    """With stage "finished", the last one."""


def run_stages(settings: RunSettings) -> Iterator[RunProgress]:
    """Train a teacher, or take the one that is given, label, merge, train a student, and say how good both are.

    The same call goes on where it stopped, and finds finished what is. Nothing is ever removed to be made anew.

    Writes settings.toml, summary.json, teacher/ and student/ (folders of `train`), auto/ (a run of `label`) and,
    where there are human labels, merged/ (a run of `merge`) into `settings.out`.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the result.

    Raises:
        ForeignSettingsError: the folder holds what was made with other settings, or from other data, or anything
            else; the message says what to remove.
        LabelError: the teacher is never surer than the threshold: there is nothing to learn from.
        WorkspaceError: the folder cannot be written, or another process has it.
        AutocoarseError: as the stages do.
    """
    settings.check()
    _refuse_changes(settings)
    with claimed_folder(settings.out / SETTINGS, TABLE, settings, _compared_by_stage):
        teacher = yield from make_teacher(settings)
        labels = yield from make_labels(settings, teacher.checkpoint)
        student = yield from _train(settings, "student", labels[-1].labels)
        result = RunResult(teacher, labels, student)
        write_atomically(settings.out / "summary.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        yield RunProgress("finished", result=result)


def _compared_by_stage(_: RunSettings) -> dict[str, Any]:
    return {}  # of the table [run] nothing decides but content, and the stages' tables have been compared


def _refuse_changes(settings: RunSettings) -> None:
    """Refuse other settings of a stage that has begun, or that one has begun after: before any work, not days later."""
    path = settings.out / SETTINGS
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return  # there is none, or it is a stranger's, which is refused when the folder is claimed
    if TABLE not in tables:
        return
    try:
        before = RunSettings.from_tables(tables).decisive()
    except SettingsError as error:
        raise ForeignSettingsError(
            f"{path}: these settings cannot be read by this autocoarse: {error}; choose another out in [run]"
        ) from error
    now = settings.decisive()
    changed = [stage for stage in now if before[stage] != now[stage]]
    begun = _begun(settings, changed[0]) if changed else ""
    if begun:
        difference = "\n".join(f"  [{stage}]\n{settings_difference(before[stage], now[stage])}" for stage in changed)
        raise ForeignSettingsError(
            f"{settings.out} holds what was made with other settings:\n{difference}\n"
            f"remove {begun} to have it made anew, choose another out in [run], or repeat the settings that are there"
        )


def _begun(settings: RunSettings, first: str) -> str:
    """The folders of a stage and of those after it, as far as they are there, in words."""
    stages = list(FOLDERS)
    folders = [settings.folder(stage) for stage in stages[stages.index(first) :]]
    return ", ".join(str(folder) for folder in folders if folder.exists())


@contextmanager
def _explained(settings: RunSettings, stage: str) -> Iterator[None]:
    """Say what to remove where a stage finds that its data are not what its outputs were made from."""
    try:
        yield
    except ForeignSettingsError as error:
        raise ForeignSettingsError(
            f"stage {stage}: {error}\nin a run of all stages: to have it made anew, remove {_begun(settings, stage)}"
        ) from error


def make_teacher(settings: RunSettings) -> Generator[RunProgress, None, Network]:
    """The first stage of `run_stages`: train the teacher, or judge the one that is given."""
    given = settings.teacher.checkpoint
    if given is None:
        return (yield from _train(settings, "teacher", None))
    judged = False
    for step in judge_checkpoint(
        given,
        settings.val_images,
        settings.val_labels,
        settings.folder("teacher") / "scores.json",
        classes=settings.classes,
        layout=settings.layout,
        ids=settings.ids,
        scales=settings.scales_of(settings.teacher),
        device=settings.device,
        precision=settings.label.precision,
        allow_training_images=settings.evaluate.allow_training_images,
    ):
        if isinstance(step, Scores):
            return Network(given, step, trained=False, judged=judged)
        judged = True
        yield RunProgress("teacher", step.done, step.total)
    raise AssertionError("the scores come last")


def make_labels(settings: RunSettings, teacher: Path) -> Generator[RunProgress, None, tuple[LabelSet, ...]]:
    """The next stages: let the teacher label the extra images, and merge that with the human labels, if asked for."""
    with _explained(settings, "label"), LabelRun(settings.labelling(teacher)) as run:
        for done, _ in enumerate(run, run.plan.done_count + 1):
            yield RunProgress("label", done, run.plan.total)
        summary = run.summary
    sets = [_label_set(settings, "label", summary.bytes, summary.failed, summary.labelled)]
    if (merging := settings.merging()) is not None:
        with _explained(settings, "merge"), MergeRun(merging) as merge:
            for done, _ in enumerate(merge, len(merge.plan.done) + 1):
                yield RunProgress("merge", done, merge.summary.total)
            merged = merge.summary
        sets.append(_label_set(settings, "merge", merged.bytes, merged.failed, merged.merged))
    for one in sets:
        if one.failed:
            warning = f"{one.failed} images have no label; the reasons are in {one.labels / 'failed.txt'}"
            yield RunProgress(one.stage, warning=warning)
    if not sets[-1].counts.labelled:
        raise LabelError(
            f"{teacher} is nowhere surer than the threshold {settings.label.threshold:g}: {sets[-1].labels} holds no "
            f"labelled pixel to learn from; remove it and lower the threshold of [label], or train a better teacher"
        )
    return tuple(sets)


def _label_set(settings: RunSettings, stage: str, size: int, failed: int, made: int) -> LabelSet:
    folder, schema = settings.folder(stage), load_schema(settings.classes)
    counting = count_labels(
        settings.extra_images, folder, "auto", schema, settings.layout, settings.ids, folder / "counts.json"
    )
    *_, counted = counting  # from the ledger: no label is read
    assert counted.counts is not None, "the last progress has the counts"
    return LabelSet(stage, folder, counted.counts, size, failed, made)


def _train(settings: RunSettings, stage: str, auto_labels: Path | None) -> Generator[RunProgress, None, Network]:
    trained = judged = False
    result = None
    with _explained(settings, stage):
        for progress in train(settings.training(stage, auto_labels)):
            trained |= progress.plan is not None  # it comes before the first step that is left
            judged |= progress.phase == "validating"
            result = progress.result
            yield RunProgress(stage, training=progress)
    assert result is not None, "training ends with its result"
    assert result.scores is not None, "validation images are given"
    return Network(result.checkpoint, result.scores, trained, judged)
