"""All stages from one settings file: end to end on tiny images, stopped in each stage, and taken up again."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import evaluate_network
from pipeline.merging import MergeSettings
from pipeline.settings import LabellingRecipe, LabelSettings
from pipeline.stages import RunProgress, RunResult, run_stages
from pipeline.stages_settings import EvaluateStage, MergeStage, RunSettings
from pipeline.training_progress import TrainProgress
from pipeline.training_settings import TrainSettings
from storage.errors import ForeignSettingsError, LabelError, MissingFileError, SettingsError, WorkspaceError
from storage.schema import ClassSchema
from teacher import load_teacher
from teacher.checkpoint import load_checkpoint, save_checkpoint
from teacher.networks.registry import build_network, default_spec

RECIPE = {"encoder": "resnet10t", "steps": 2, "crop": (32, 40), "batch": 2}
ALL = ("teacher", "label", "merge", "student", "evaluate")


def settings_for(data: Path, **changes: Any) -> RunSettings:
    """Settings of a run of seconds, with human labels that the teacher fills."""
    values: dict[str, Any] = {
        **{f"{name}_images": data / name for name in ("fine", "extra", "val")},
        **{f"{name}_labels": data / f"{name}_labels" for name in ("fine", "val")},
        "coarse_labels": data / "extra_labels",
        "classes": str(data / "classes.json"),
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
        "teacher": RECIPE,
        "label": {"scales": (1.0,), "threshold": 0.4},
        "merge": {},
        "student": RECIPE,
        "evaluate": {"scales": (1.0,)},
    }
    return RunSettings.checked(**{**values, **changes})


def finished(settings: RunSettings) -> tuple[RunResult, list[RunProgress]]:
    """All stages."""
    steps = list(run_stages(settings))
    assert steps[-1].result is not None
    return steps[-1].result, steps


def stop_when(settings: RunSettings, is_there: Callable[[RunProgress], bool]) -> list[RunProgress]:
    """Run until a point is reached, and stop there as a kill or Ctrl-C does."""
    steps = []
    run = run_stages(settings)
    for step in run:
        steps.append(step)
        if is_there(step):
            run.close()  # type: ignore[attr-defined] # a generator
            return steps
    pytest.fail("the run ended before it was stopped")


def work(steps: Sequence[RunProgress]) -> dict[str, int]:
    """How often each stage did something: steps taken, labels made."""
    done = [s.stage for s in steps if (is_step(s.training) if s.training else s.total)]
    return {stage: done.count(stage) for stage in dict.fromkeys(done)}


def is_step(training: TrainProgress) -> bool:
    """Whether a step was taken; to say where a run goes on is none."""
    return training.phase == "training" and training.done > 0 and not training.message


def is_first_step(stage: str) -> Callable[[RunProgress], bool]:
    """Whether a training has taken its first step."""
    return lambda s: s.stage == stage and s.training is not None and is_step(s.training)


def pixels(folder: Path) -> list[Any]:
    """The labels of a folder, in order."""
    return [np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def test_stages_stopped_anywhere_go_on_and_are_then_all_current(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage is stopped once and goes on with what is left; a finished run opens no image and repeats nothing."""
    settings = settings_for(data)
    assert work(stop_when(settings, is_first_step("teacher"))) == {"teacher": 1}
    steps = stop_when(settings, lambda s: s.stage == "label")
    assert work(steps) == {"teacher": 2, "label": 1}
    steps = stop_when(settings, lambda s: s.stage == "merge")
    assert work(steps).keys() <= {"label", "merge"}
    assert not (data / "out/summary.json").exists()
    assert work(stop_when(settings, is_first_step("student"))).keys() <= {"merge", "student"}
    result, steps = finished(settings)
    assert work(steps) == {"student": 2}
    assert result.skipped == ("teacher", "label", "merge")

    auto, merged, human = (pixels(data / f) for f in ("out/auto/labels", "out/merged/labels", "extra_labels"))
    for one, other, both in zip(human, auto, merged, strict=True):
        assert (both == np.where(one == 255, other, one)).all()
    assert [one.counts.coverage for one in result.labels] == [
        pytest.approx(np.mean([values != 255 for values in labels])) for labels in (auto, merged)
    ]
    assert [one.bytes for one in result.labels] == [
        sum(path.stat().st_size for path in (data / "out" / name / "labels").iterdir()) for name in ("auto", "merged")
    ]
    record = load_checkpoint(result.student.checkpoint).record
    assert (record["samples"], result.student.checkpoint) == (
        {"fine": 3, "auto": 2},
        data / "out/student/checkpoint.pt",
    )
    written = json.loads((data / "out/summary.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert written["student"]["iou"] == result.student.scores.iou
    assert RunSettings.from_tables(tomllib.loads((data / "out/settings.toml").read_text())) == settings

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("an image or a label was opened")

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", refuse)
        again, steps = finished(settings)
    assert work(steps) == {}
    assert again.skipped == ALL
    assert again.to_dict() == result.to_dict()
    check_refusals(data)


def check_refusals(data: Path) -> None:
    """What was made with other settings, or from other data, is refused; it says what to remove, and stays."""
    before = {p: p.read_bytes() for p in (data / "out").rglob("*") if p.is_file()}
    longer = RECIPE | {"steps": 3}
    for changes, says in (
        ({"student": longer}, r"\[student\]\n  steps: 2 -> 3\nremove \S+/student to have"),
        (
            {"label": {"scales": (1.0,)}},
            r"\[label\]\n  threshold: 0\.4 -> 0\.5\nremove \S+auto, \S+merged, \S+student to",
        ),
        ({"merge": {"policy": "agree"}}, r"policy: fill -> agree\nremove \S+merged, \S+student to"),
        ({"merge": None, "coarse_labels": None}, r"policy: fill -> \(none\)"),
        ({"teacher": longer}, r"remove \S+teacher, \S+auto, \S+merged, \S+student to have"),
        ({"teacher": {"checkpoint": data / "t.pt"}}, r"checkpoint: \(none\) -> given"),
    ):
        with pytest.raises(ForeignSettingsError, match=says):
            next(run_stages(settings_for(data, **changes)))
    assert {p: p.read_bytes() for p in (data / "out").rglob("*") if p.is_file()} == before
    result, _ = finished(
        settings_for(data, evaluate={"scales": (0.5, 1.0)}, label={"scales": (1.0,), "threshold": 0.4, "batch": 2})
    )
    assert result.skipped == ALL[:-1], "how it is judged, and how many at once, decides no stage"
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(data / "extra_labels/1.png")
    with pytest.raises(ForeignSettingsError, match=r"(?s)stage student: .*samples.*anew, remove \S+out/student$"):
        finished(settings_for(data))


def test_given_teachers_are_judged_and_label(data: Path, tiny_teacher: Path) -> None:
    """With a checkpoint none is trained; without human labels the student learns from the teacher's as they are."""
    (data / "extra/2.png").write_bytes(b"no image")
    given = {"teacher": {"checkpoint": tiny_teacher}, "merge": None, "coarse_labels": None}
    settings = settings_for(data, **given)
    result, steps = finished(settings)
    *_, judged = evaluate_network(load_teacher(tiny_teacher), data / "val", data / "val_labels", (1.0,))
    assert result.teacher.scores == judged.scores()
    assert result.skipped == ("teacher",)
    assert (result.failed, [one.stage for one in result.labels]) == (1, ["label"])
    assert [s.warning for s in steps if s.warning] == [
        f"1 images have no label; the reasons are in {data / 'out/auto/failed.txt'}"
    ]
    assert load_checkpoint(result.student.checkpoint).record["samples"] == {"fine": 3, "auto": 2}
    again, _ = finished(settings)
    assert again.skipped == ("teacher", "student", "evaluate"), "what failed is tried again"
    (data / "extra/2.png").unlink()
    stored = tomllib.loads((data / "out/settings.toml").read_text())
    assert stored["teacher"] == {"checkpoint": str(tiny_teacher)}
    assert finished(RunSettings.from_tables(stored))[0].skipped == ("teacher", "label", "student", "evaluate")


def test_labels_without_a_pixel_end_the_run(data: Path, schema: ClassSchema) -> None:
    """A teacher that is nowhere sure enough is an error that says what to change, not a student of the fine labels."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    save_checkpoint(data / "unsure.pt", build_network(spec), spec, schema, {})
    alone = {"merge": None, "coarse_labels": None, "label": {"scales": (1.0,), "threshold": 0.99}}
    with pytest.raises(LabelError, match=r"threshold 0\.99: .*lower the threshold of \[label\]"):
        list(run_stages(settings_for(data, teacher={"checkpoint": data / "unsure.pt"}, **alone)))
    with pytest.raises(MissingFileError, match="no checkpoint"):
        next(run_stages(settings_for(data, teacher={"checkpoint": data / "none.pt"}, out=data / "other", **alone)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": {"boost_classes": ["car"]}}, r"\[teacher\] names car, no class of .*road, pole, sky"),
        ({"student": {"boost_classes": ["car"]}}, r"\[student\] names car"),
        ({"merge": {"union_classes": ["sky", "bus"]}}, r"\[merge\] names bus"),
        ({"merge": None}, r"no \[merge\] to merge them"),
        ({"coarse_labels": None}, r"no coarse_labels of \[run\]"),
    ],
)
def test_what_a_late_stage_would_refuse_is_refused_at_once(data: Path, changes: dict[str, Any], says: str) -> None:
    """Names that are no class, and a merge without its human labels, are known before anything is written."""
    with pytest.raises(SettingsError, match=says):
        next(run_stages(settings_for(data, **changes)))
    assert not (data / "out").exists()


def test_a_given_teacher_has_no_recipe(data: Path) -> None:
    """A checkpoint beside keys of a training is refused, and they are named."""
    with pytest.raises(SettingsError, match=r"teacher: .*leave out batch, steps, or the checkpoint"):
        settings_for(data, teacher={"checkpoint": "t.pt", "steps": 3, "batch": 4, "scales": (1.0,)})


def test_a_folder_of_another_kind_or_in_use_is_left_alone(data: Path) -> None:
    """What no run made is refused, and so is a folder that another run works in."""
    (data / "out").mkdir()
    (data / "out/settings.toml").write_text('[label]\nteacher = "t"\n')
    with pytest.raises(ForeignSettingsError, match=r"holds settings\.toml"):
        next(run_stages(settings_for(data)))
    (data / "out/settings.toml").unlink()
    first = run_stages(settings_for(data))
    next(first)
    with pytest.raises(WorkspaceError, match="in use"):
        next(run_stages(settings_for(data)))
    first.close()  # type: ignore[attr-defined] # a generator
    (data / "out/settings.toml").write_text("[run]\nfine_images = 3\n")
    with pytest.raises(ForeignSettingsError, match="cannot be read by this autocoarse"):
        next(run_stages(settings_for(data)))


def test_stages_have_the_defaults_of_their_commands(data: Path) -> None:
    """A key that a table leaves out means what it means to the command of the stage."""
    settings = settings_for(data, label={}, merge={}, teacher={}, student={}, evaluate={}, workers=None, device="auto")
    assert settings.labelling(data / "t.pt") == LabelSettings(
        images=data / "extra", teacher=str(data / "t.pt"), classes=settings.classes, out=data / "out/auto"
    )
    assert settings.merging() == MergeSettings(
        coarse=data / "extra_labels",
        auto=data / "out/auto",
        classes=settings.classes,
        out=data / "out/merged",
    )
    shared = {
        f"{name}_{what}": data / f"{name}{end}"
        for name in ("fine", "val")
        for what, end in (("images", ""), ("labels", "_labels"))
    }
    assert settings.training("student") == TrainSettings(**shared, classes=settings.classes, out=data / "out/student")
    assert (LabellingRecipe().scales, MergeStage().policy) == (EvaluateStage().scales, "fill")
    assert settings_for(data, student={"scales": (1.0, 2.0)}).training("student").scales == (1.0, 2.0)
