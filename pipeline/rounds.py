"""Rounds of self-training: the student of one round is the teacher of the next, as long as held-out images say so.

It chains the stages as the commands do, and keeps what each round made. Since the validation images decide when it
stops and which round is best, they are a selection set: a figure to report needs other images.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.claim import claimed_folder
from pipeline.judging import judge_checkpoint
from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings
from pipeline.rounds_settings import RoundsSettings
from pipeline.scores import Scores
from pipeline.training import train
from pipeline.training_progress import TrainProgress
from pipeline.training_state import TrainingFolder
from storage.errors import LabelError, MissingFileError
from storage.workspace import write_atomically


@dataclass(frozen=True, slots=True)
class Round:
    """A network and how good it is on the validation images; number 0 is the first teacher."""

    number: int
    checkpoint: Path
    scores: Scores
    """Of all that it predicts."""
    labels: Scores
    """Of the labels that it makes, above the threshold: their precision and coverage."""
    ignored: float | None
    """Share of the pixels of the extra images' labels, which it was trained on, that are no class; None of number 0."""
    failed: int = 0
    """Extra images that it was not trained on, because they have no label."""


@dataclass(frozen=True, slots=True)
class RoundsResult:
    """What the rounds gave."""

    rounds: tuple[Round, ...]
    best: Round
    """The one of the highest mIoU; of equal ones the first."""
    stopped: str
    """Why the rounds ended; empty while they go on."""

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values; shares are of 1."""
        return {
            "best_round": self.best.number,
            "best_checkpoint": str(self.best.checkpoint),
            "stopped": self.stopped,
            "rounds": [asdict(one) | {"checkpoint": str(one.checkpoint)} for one in self.rounds],
            "note": "the validation images chose the round; report a final figure on other images",
        }


@dataclass(frozen=True, slots=True)
class RoundsProgress:
    """How far the rounds are."""

    number: int
    """The round, of `rounds`; 0: the first teacher."""
    rounds: int
    stage: Literal["train", "label", "merge", "evaluate", "finished"]
    done: int = 0
    total: int = 0
    """Images labelled, merged or evaluated; of training see `training`."""
    training: TrainProgress | None = None
    warning: str = ""
    """What someone may want to mend, once."""
    finished: Round | None = None
    """With a round's last one."""
    result: RoundsResult | None = None
    """With stage "finished", the last one."""


def run_rounds(settings: RoundsSettings) -> Iterator[RoundsProgress]:
    """Label, train a student, evaluate it, make it the teacher, and so on; stop when it gets worse.

    A round is worse than the one before when its network's mIoU on the validation images is lower, or the precision
    of the labels that it makes there. The same call goes on where it stopped; `rounds` may be raised.

    Writes rounds.toml, rounds.json, round-0/teacher, and for each round round-N/auto (a run of `label`), where there
    are human labels round-N/merged (a run of `merge`), and round-N/student into `settings.out`.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the result.

    Raises:
        MissingFileError: there is no such teacher.
        LabelError: the teacher is never surer than the threshold: there is nothing to learn from.
        ForeignSettingsError: the folder holds rounds with other settings, of another teacher, or anything else.
        WorkspaceError: the folder cannot be written, or another process has it.
        AutocoarseError: as the stages do.
    """
    if settings.teacher is not None and not settings.teacher.is_file():
        raise MissingFileError(f"no teacher {settings.teacher}; give a checkpoint, or leave it out to train one")
    with claimed_folder(settings.out / "rounds.toml", "rounds", settings, RoundsSettings.decisive):
        history: list[Round] = []
        result = None
        while result is None or not result.stopped:
            history.append((yield from _round(settings, history)))
            result = _result(settings, history)
            write_atomically(settings.out / "rounds.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
            yield RoundsProgress(history[-1].number, settings.rounds, "evaluate", finished=history[-1])
        yield RoundsProgress(history[-1].number, settings.rounds, "finished", result=result)


def _result(settings: RoundsSettings, history: Sequence[Round]) -> RoundsResult:
    """What the rounds so far give; it says why they ended, if they are to end."""
    best = max(history, key=lambda one: one.scores.miou)
    stopped = _why_worse(*history[-2:]) if len(history) > 1 else ""
    if not stopped and len(history) > settings.rounds:
        stopped = f"all {settings.rounds} rounds are done"
    return RoundsResult(tuple(history), best, stopped)


def _why_worse(before: Round, now: Round) -> str:
    """What of a round fell below the round before, in words; empty where nothing did."""
    falls = [
        f"{what} fell from {old:.2%} to {new:.2%}"
        for what, old, new in (
            ("the mIoU", before.scores.miou, now.scores.miou),
            # where no pixel is surer than the threshold, there is no precision, and nothing to learn from
            ("the precision of labels", before.labels.precision or 0.0, now.labels.precision or 0.0),
        )
        if new < old
    ]
    return f"in round {now.number} {' and '.join(falls)} on the validation images" if falls else ""


def _round(settings: RoundsSettings, history: Sequence[Round]) -> Generator[RoundsProgress, None, Round]:
    """Make the network of the next round, the first teacher if there is none yet, and judge it."""
    number = len(history)
    folder = settings.out / f"round-{number}"
    learned_from: _Labels | None = None
    scores: Scores | None = None
    if number:
        labels_of_round = folder / "auto"
        # an image that was mended since must not make the round's student, and all after it, worthless
        fixed = TrainingFolder(folder / "student").has_state()
        learned_from = yield from _label(settings, number, labels_of_round, history[-1].checkpoint, fixed=fixed)
        if (merging := settings.merging(folder / "merged", labels_of_round)) is not None:
            labels_of_round = merging.out
            learned_from = yield from _merge(settings, number, merging, fixed=fixed)
        if learned_from.ignored == 1:
            raise LabelError(
                f"{history[-1].checkpoint} is nowhere surer than the threshold {settings.threshold:g}: "
                f"{labels_of_round} holds no labelled pixel to learn from; lower --threshold and choose another "
                f"--out, or train a better teacher"
            )
        checkpoint, scores = yield from _train(settings, number, folder / "student", labels_of_round)
    elif settings.teacher is None:
        checkpoint, scores = yield from _train(settings, number, folder / "teacher", None)
    else:
        checkpoint = settings.teacher
    if scores is None:
        scores = yield from _judge(settings, number, checkpoint, 0, folder / "network.json")
    labels = yield from _judge(settings, number, checkpoint, settings.threshold, folder / "labels.json")
    if learned_from is None:
        return Round(number, checkpoint, scores, labels, None)
    return Round(number, checkpoint, scores, labels, learned_from.ignored, learned_from.failed)


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels of a round."""

    ignored: float
    """Share of their pixels that is no class."""
    failed: int
    """Images that have none."""


def _label(
    settings: RoundsSettings, number: int, out: Path, teacher: Path, *, fixed: bool
) -> Generator[RoundsProgress, None, _Labels]:
    """Label the extra images, unless the labels are fixed: a student is learning from them, or has."""
    with LabelRun(settings.labelling(out, teacher)) as run:
        for done, _ in enumerate(() if fixed else run, run.plan.done_count + 1):
            yield RoundsProgress(number, settings.rounds, "label", done, run.plan.total)
        summary = run.summary
        failed = summary.total - summary.skipped - summary.labelled
        if failed:
            warning = f"{failed} images have no label, the reasons are in {run.workspace.failures}"
            yield RoundsProgress(number, settings.rounds, "label", summary.total, summary.total, warning=warning)
    return _Labels(summary.ignore_fraction, failed)


def _merge(
    settings: RoundsSettings, number: int, merging: MergeSettings, *, fixed: bool
) -> Generator[RoundsProgress, None, _Labels]:
    """Let the round's labels fill the human ones, unless the merged labels are fixed."""
    with MergeRun(merging) as run:
        for done, _ in enumerate(() if fixed else run, len(run.plan.done) + 1):
            yield RoundsProgress(number, settings.rounds, "merge", done, run.summary.total)
        summary = run.summary
        failed = summary.total - summary.skipped - summary.merged
        if failed:
            warning = f"{failed} labels are not merged, the reasons are in {run.workspace.failures}"
            yield RoundsProgress(number, settings.rounds, "merge", summary.total, summary.total, warning=warning)
    return _Labels(summary.counts.ignored / summary.counts.pixels if summary.counts.pixels else 0.0, failed)


def _train(
    settings: RoundsSettings, number: int, out: Path, auto_labels: Path | None
) -> Generator[RoundsProgress, None, tuple[Path, Scores | None]]:
    result = None
    for progress in train(settings.training(out, auto_labels)):
        result = progress.result
        yield RoundsProgress(number, settings.rounds, "train", training=progress)
    assert result is not None, "training ends with its result"
    return result.checkpoint, result.scores


def _judge(
    settings: RoundsSettings, number: int, checkpoint: Path, threshold: float, cache: Path
) -> Generator[RoundsProgress, None, Scores]:
    """Judge a network's labels above a threshold on the validation images, unless that was done before."""
    for step in judge_checkpoint(
        checkpoint,
        settings.val_images,
        settings.val_labels,
        cache,
        classes=settings.classes,
        layout=settings.layout,
        ids=settings.ids,
        scales=settings.scales,
        threshold=threshold,
        device=settings.device,
        precision=settings.precision,
    ):
        if isinstance(step, Scores):
            return step
        yield RoundsProgress(number, settings.rounds, "evaluate", step.done, step.total)
    raise AssertionError("the scores come last")
