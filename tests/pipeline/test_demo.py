"""The demonstration in small: every stage is real, every figure comes from files that are there."""

import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.demo import DemoSettings, run_demo
from pipeline.evaluation import evaluate_labels
from storage.errors import ForeignSettingsError, SettingsError, WorkspaceError
from storage.schema import load_schema
from storage.workspace import Workspace


def test_the_demo_reports_what_its_files_hold_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its figures are those of the labels and checkpoints that it leaves; a second run finds them done."""
    settings = DemoSettings(
        out=tmp_path,
        size=(48, 64),
        scenes=(3, 5, 2),
        teacher_steps=3,
        student_steps=2,
        batch=2,
        crop=(32, 48),
        scales=(1.0,),
        threshold=0.12,
        device="cpu",
    )
    progress = list(run_demo(settings))
    result = progress[-1].result
    assert result is not None
    assert tuple(result.students) == ("fine", "fine + coarse", "fine + auto")
    assert result.labels == 5
    assert result.label_bytes == sum(p.stat().st_size for p in (tmp_path / "auto/labels").rglob("*.png"))
    *_, judged = evaluate_labels(tmp_path / "auto", tmp_path / "scenes/labels_fine/train_extra", load_schema("scenes"))
    assert judged.scores() == result.auto
    assert 0.5 < result.coarse.coverage < 0.9
    compared = json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert [row["miou"]["mean"] for row in compared["rows"]] == [s.miou for s in result.students.values()]
    assert compared["kinds"] == {"fine": "fine", "fine+coarse": "coarse", "fine+auto": "auto"}
    trainings = ["teacher", *(f"comparison/students/{name}/seed-0" for name in compared["kinds"])]
    recipes = [tomllib.loads((tmp_path / name / "settings.toml").read_text())["train"] for name in trainings]
    assert [recipe["steps"] for recipe in recipes] == [3, 2, 2, 2]
    assert (
        len({json.dumps({name: recipe[name] for name in ("crop", "seed", "learning_rate")}) for recipe in recipes}) == 1
    )
    assert json.loads((tmp_path / "summary.json").read_text())["auto"]["precision"] == result.auto.precision
    reported = json.loads((tmp_path / "report/report.json").read_text())
    assert reported["precision"] == pytest.approx(result.auto.precision, abs=1e-4)
    assert (tmp_path / "report/index.html").is_file()
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > 4 * 64

    again = list(run_demo(settings))
    assert again[-1].result is not None
    assert again[-1].result.students == result.students
    assert again[-1].result.auto == result.auto
    assert not [p for p in again if p.step.training is not None and p.step.training.plan is not None], "trained again"
    assert not [p for p in again if p.step.stage == "label"], "labelled again"


def files(root: Path) -> dict[str, bytes]:
    """Content of all files below a folder, but for locks."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_demo_of_other_settings_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    """Another seed in the same folder is an error that shows the difference, before anything is written."""
    settings = DemoSettings(out=tmp_path, size=(48, 64), scenes=(1, 1, 1), device="cpu")
    first = run_demo(settings)
    next(first)
    first.close()
    before = files(tmp_path)
    with pytest.raises(ForeignSettingsError, match="seed: 0 -> 1"):
        next(run_demo(settings.model_copy(update={"seed": 1})))
    assert files(tmp_path) == before
    assert {"settings.toml", "scenes/images/train/scene_00000.png"} <= before.keys()
    assert next(run_demo(settings.model_copy(update={"device": "auto"}))).step.done == 1, "the device decides nothing"


@pytest.mark.parametrize("name", ["notes.txt", "settings.toml"])
def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path, name: str) -> None:
    """A folder with other files, or with another command's settings, is refused, and nothing is written into it."""
    (tmp_path / name).write_text('[label]\nteacher = "t"\n')
    with pytest.raises(ForeignSettingsError, match=rf"holds {name}.*--out"):
        next(run_demo(DemoSettings(out=tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    """A folder that another process works in is refused before anything is written."""
    lock = Workspace(tmp_path).lock()
    with pytest.raises(WorkspaceError, match="in use"):
        next(run_demo(DemoSettings(out=tmp_path)))
    lock.release()
    assert not files(tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_training_would_refuse_is_refused_at_once(tmp_path: Path, seed: int) -> None:
    """The demo's seed has the range that training's has."""
    with pytest.raises(SettingsError, match="seed"):
        DemoSettings.checked(out=tmp_path, seed=seed)
