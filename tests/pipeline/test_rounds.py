"""Rounds of self-training: from end to end on tiny images, and when they stop."""

import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline.rounds
from pipeline.evaluation import evaluate_network
from pipeline.rounds import Round, RoundsProgress, RoundsResult, run_rounds
from pipeline.rounds_settings import RoundsSettings
from pipeline.scores import Scores
from storage.errors import ForeignSettingsError, LabelError, MissingFileError
from storage.schema import ClassSchema
from teacher import load_teacher
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec


def settings_for(data: Path, **changes: Any) -> RoundsSettings:
    """Settings of rounds of seconds."""
    values: dict[str, Any] = {
        "fine_images": data / "fine",
        "fine_labels": data / "fine_labels",
        "extra_images": data / "extra",
        "val_images": data / "val",
        "val_labels": data / "val_labels",
        "classes": str(data / "classes.json"),
        "encoder": "resnet10t",
        "steps": 2,
        "crop": (32, 40),
        "batch": 2,
        "scales": (1.0,),
        "rounds": 1,
        "threshold": 0.0,
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    return RoundsSettings.checked(**{**values, **changes})


def finished(settings: RoundsSettings) -> tuple[RoundsResult, list[RoundsProgress]]:
    """All rounds."""
    steps = list(run_rounds(settings))
    assert steps[-1].result is not None
    return steps[-1].result, steps


def work(steps: Sequence[RoundsProgress]) -> list[tuple[int, str]]:
    """What was done, by round and stage, in order; training counts where steps were taken."""
    done = [(s.number, s.stage) for s in steps if s.total or (s.training is not None and s.training.figures)]
    return list(dict.fromkeys(done))


def test_a_round_labels_trains_and_judges(data: Path) -> None:
    """The first teacher labels, the student learns from its labels, and both are judged as the files say."""
    settings = settings_for(data, threshold=0.5)
    result, steps = finished(settings)
    assert work(steps) == [(0, "train"), (0, "evaluate"), (1, "label"), (1, "train"), (1, "evaluate")]
    first, second = result.rounds
    assert (first.checkpoint, first.ignored) == (data / "out/round-0/teacher/checkpoint.pt", None)
    assert second.checkpoint == data / "out/round-1/student/checkpoint.pt"
    labels = [np.array(Image.open(path)) for path in sorted((data / "out/round-1/auto/labels").iterdir())]
    assert second.ignored == pytest.approx(np.mean([values == 255 for values in labels]))
    for one in result.rounds:
        teacher = load_teacher(one.checkpoint)
        *_, judged = evaluate_network(teacher, data / "val", data / "val_labels", (1.0,))
        assert judged.scores() == one.scores
        *_, judged = evaluate_network(teacher, data / "val", data / "val_labels", (1.0,), threshold=0.5)
        assert judged.scores() == one.labels
        assert one.labels.coverage < one.scores.coverage == 1
    written = json.loads((data / "out/rounds.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert written["best_checkpoint"] == str(result.best.checkpoint)
    assert "report a final figure on other images" in written["note"]

    again, steps = finished(settings)
    assert again == result
    assert work(steps) == []


def test_stopped_rounds_go_on_and_may_become_more(data: Path, tiny_teacher: Path) -> None:
    """With a teacher that is given none is trained; what a stop left undone is done, and nothing twice."""
    settings = settings_for(data, teacher=tiny_teacher)
    stopped = run_rounds(settings)
    seen = next(s for s in stopped if s.training is not None)
    stopped.close()  # type: ignore[attr-defined] # a generator
    assert (seen.number, seen.stage) == (1, "train")
    assert json.loads((data / "out/rounds.json").read_text())["stopped"] == ""
    result, steps = finished(settings)
    assert work(steps) == [(1, "train"), (1, "evaluate")]
    assert result.rounds[0].checkpoint == tiny_teacher
    with pytest.raises(ForeignSettingsError, match=r"threshold: 0\.0 -> 0\.9"):
        next(run_rounds(settings_for(data, teacher=tiny_teacher, threshold=0.9)))
    assert next(run_rounds(settings_for(data, teacher=tiny_teacher, rounds=5))).rounds == 5


def test_teachers_fill_what_humans_left_blank(data: Path, tiny_teacher: Path) -> None:
    """With human labels the student learns from the merged ones: the human's where there is one, else the teacher's."""
    settings = settings_for(data, teacher=tiny_teacher, coarse_labels=data / "extra_labels")
    steps = run_rounds(settings)
    next(s for s in steps if s.training is not None)
    steps.close()  # type: ignore[attr-defined] # a generator
    for number in range(2):
        human = np.array(Image.open(data / f"extra_labels/{number}.png"))
        auto = np.array(Image.open(data / f"out/round-1/auto/labels/{number}.png"))
        merged = np.array(Image.open(data / f"out/round-1/merged/labels/{number}.png"))
        assert (merged == np.where(human == 255, auto, human)).all()
    assert settings.training(data / "x", data / "out/round-1/merged").auto_labels == data / "out/round-1/merged"


def test_labels_without_a_pixel_end_the_rounds(data: Path, schema: ClassSchema) -> None:
    """A teacher that is nowhere sure enough is an error that says what to change, not a student of the fine labels."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    save_checkpoint(data / "unsure.pt", build_network(spec), spec, schema, {})
    with pytest.raises(LabelError, match=r"threshold 0\.99: .*lower --threshold"):
        list(run_rounds(settings_for(data, teacher=data / "unsure.pt", threshold=0.99)))
    with pytest.raises(MissingFileError, match="no teacher"):
        next(run_rounds(settings_for(data, teacher=data / "nothing.pt", out=data / "other")))


def test_failed_image_costs_itself_alone(data: Path, tiny_teacher: Path) -> None:
    """An image that cannot be labelled is said and left out; mended later, it does not cost the finished rounds."""
    good = (data / "extra/1.png").read_bytes()
    (data / "extra/1.png").write_bytes(b"no image")
    first, steps = finished(settings_for(data, teacher=tiny_teacher))
    assert next(s.warning for s in steps if s.warning).startswith("1 images have no label")
    assert [one.failed for one in first.rounds] == [0, 1]
    (data / "extra/1.png").write_bytes(good)
    again, steps = finished(settings_for(data, teacher=tiny_teacher))
    assert again == first
    assert not [s for s in steps if s.training is not None and s.training.figures is not None]


def made_up(number: int, miou: float, precision: float | None) -> Round:
    """A round with these figures."""
    scores = Scores(2, miou, {}, 0.5, 1.0, 0.5, {}, {})
    labels = Scores(2, miou, {}, 0.5, 0.5, precision, {}, {})
    return Round(number, Path(f"{number}.pt"), scores, labels, None)


@pytest.mark.parametrize(
    ("figures", "done", "best", "says"),
    [
        ([(0.5, 0.8), (0.6, 0.9), (0.7, 0.9), (0.8, 1.0)], 4, 3, "all 3 rounds are done"),
        ([(0.5, 0.8), (0.6, 0.9), (0.55, 0.95)], 3, 1, "in round 2 the mIoU fell from 60.00% to 55.00%"),
        ([(0.5, 0.8), (0.6, 0.7)], 2, 1, "in round 1 the precision of labels fell from 80.00% to 70.00%"),
        ([(0.5, 0.8), (0.4, 0.7)], 2, 0, "the mIoU fell from 50.00% to 40.00% and the precision"),
        ([(0.5, 0.8), (0.5, None)], 2, 0, "the precision of labels fell from 80.00% to 0.00%"),
    ],
)
def test_rounds_stop_when_held_out_figures_fall(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    figures: list[tuple[float, float | None]],
    done: int,
    best: int,
    says: str,
) -> None:
    """They go on while mIoU and precision do not fall, say what fell, and name the round of the highest mIoU."""

    def next_round(_: RoundsSettings, history: Sequence[Round]) -> Generator[RoundsProgress, None, Round]:
        yield from ()
        return made_up(len(history), *figures[len(history)])

    monkeypatch.setattr(pipeline.rounds, "_round", next_round)
    result, _ = finished(settings_for(data, rounds=3))
    assert (len(result.rounds), result.best.number) == (done, best)
    assert says in result.stopped
    assert json.loads((data / "out/rounds.json").read_text())["best_checkpoint"] == f"{best}.pt"
