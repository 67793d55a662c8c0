"""The command `run` and its settings file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from cli.run import _tables, read_run_settings
from pipeline.stages_settings import MergeStage, RunSettings
from storage.schema import ClassSchema

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "run.toml"


def invoke(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


@pytest.fixture
def data(tmp_path: Path, schema: ClassSchema, make_image: Callable[..., object], tiny_teacher: Path) -> Path:
    """Noise with labels of three classes: to learn from, to label, and to validate on; and a settings file."""
    for name, count in (("fine", 3), ("extra", 2), ("val", 1)):
        for number in range(count):
            make_image(tmp_path / name / f"{number}.png", (40, 48), 10 * len(name) + number)
            values = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (40, 48))
            (tmp_path / f"{name}_labels").mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / f"{name}_labels/{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    folders = [f'{name}_images = "{tmp_path / name}"' for name in ("fine", "extra", "val")]
    folders += [f'{name}_labels = "{tmp_path / name}_labels"' for name in ("fine", "val")]
    rest = f"""
        classes = "{tmp_path / "classes.json"}"
        workers = 0
        device = "cpu"
        out = "{tmp_path / "out"}"
        [teacher]
        checkpoint = "{tiny_teacher}"
        [label]
        threshold = 0.4
        scales = "1"
        [student]
        encoder = "resnet10t"
        steps = 2
        crop = "40x32"
        batch = 2
        [evaluate]
        scales = [1]
    """
    (tmp_path / "s.toml").write_text("[run]\n" + "\n".join(folders) + rest)
    return tmp_path


def test_run_ends_with_its_summary_and_then_skips_all(data: Path) -> None:
    """Tables, JSON and file hold the same figures; the settings left behind repeat the run, which then does nothing."""
    (data / "extra/2.png").write_bytes(b"no image")
    result = invoke(data / "s.toml", "--json")
    assert result.exit_code == 3, result.stderr
    found = json.loads(result.stdout)
    assert (found.pop("skipped"), found.pop("out")) == (["teacher"], str(data / "out"))
    assert found == json.loads((data / "out/summary.json").read_text())
    assert (found["labels"]["auto"]["images"], found["labels"]["auto"]["failed"]) == (2, 1)
    assert "IoU on 1 validation images" in result.stderr
    assert "warning: label: 1 images have no label" in result.stderr
    assert "2 steps of 2 crops" in result.stderr

    (data / "extra/2.png").unlink()
    again = invoke(data / "out/settings.toml")
    assert again.exit_code == 0, again.stderr
    assert "skipped, since their outputs are current: teacher, label, student, evaluate" in again.stdout
    assert f"{data / 'out/auto'}: 2 labels, " in again.stdout
    assert read_run_settings(data / "out/settings.toml") == read_run_settings(data / "s.toml")


def test_the_example_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented file is read as it stands, and with the lines in it that are commented out."""
    monkeypatch.chdir(tmp_path)
    for name in ("images/train", "images/train_extra", "images/val", "labels_fine/train", "labels_fine/val"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data/labels_coarse/train_extra").mkdir(parents=True)
    settings = read_run_settings(EXAMPLE)
    settings.check()
    assert settings.teacher.crop == (512, 512)
    assert settings.student.scales == (1.0,)
    assert settings.merge is not None
    assert settings.merge.union_classes == ("truck", "bus", "train")
    assert settings.out == Path("runs/street"), "paths are those that the file says, from the working directory"
    settings.write(tmp_path / "resolved.toml", "run")
    assert read_run_settings(tmp_path / "resolved.toml") == settings

    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/encoder.pth").touch()
    text, lines = re.subn(r"(?m)^# (?!checkpoint|thresholds)(\w+ = )", r"\1", EXAMPLE.read_text())
    assert lines == 5
    (tmp_path / "all.toml").write_text(text)
    assert read_run_settings(tmp_path / "all.toml").teacher.encoder_weights == Path("weights/encoder.pth")


def test_a_given_teacher_labels_by_its_calibration(data: Path, tiny_teacher: Path) -> None:
    """[label] takes the thresholds of a calibration, and refuses them for a teacher that is still to be trained."""
    how = ["--scales", "1", "--min-images", "2", "--min-pixels", "1", "--target-precision", "0.3", "--block", "1"]
    paths = ["--teacher", tiny_teacher, "--images", data / "fine", "--truth", data / "fine_labels"]
    calibrate = ["calibrate", *paths, *how, "--classes", data / "classes.json", "--out", data / "calibration.json"]
    assert CliRunner().invoke(main, list(map(str, calibrate))).exit_code == 0
    text = (data / "s.toml").read_text().replace("threshold = 0.4", f'thresholds = "{data / "calibration.json"}"')
    (data / "c.toml").write_text(text)
    result = invoke(data / "c.toml")
    assert result.exit_code == 0, result.output
    assert (data / "out/auto/calibration.json").read_bytes() == (data / "calibration.json").read_bytes()
    again = invoke(data / "out/settings.toml")
    assert "skipped, since their outputs are current: teacher, label, student, evaluate" in again.stdout
    (data / "n.toml").write_text(text.replace(f'checkpoint = "{tiny_teacher}"', "steps = 2").replace("/out", "/new"))
    refused = invoke(data / "n.toml")
    assert refused.exit_code == 2
    assert "not trained yet" in refused.stderr
    assert not (data / "new").exists()


def test_every_setting_is_a_key_of_its_table() -> None:
    """What the library knows of a stage can be said in the file, and nothing else."""
    tables = _tables()
    stages = {name: RunSettings.model_fields[name].annotation for name in tables.keys() - {"run", "merge"}}
    stages["merge"] = MergeStage
    keys = {name: {parameter.name for parameter in command.params} for name, command in tables.items()}
    assert keys.pop("run") == RunSettings.model_fields.keys() - tables.keys()
    assert keys == {name: set(stage.model_fields) for name, stage in stages.items() if stage is not None}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("[student]", "[studnet]", "[studnet] is no table of settings; did you mean [student]?"),
        ("[student]", "[something]", "expected tables run, teacher, label, merge, student, evaluate"),
        ("steps = 2", "stesp = 2", "'stesp' is no setting of student; did you mean steps"),
        ("threshold = 0.4", "treshold = 0.4", "did you mean threshold"),
        ("steps = 2", "steps = 2.5", "steps of [student] is 2.5, expected an integer"),
        ("steps = 2", "steps = 0", "student.steps: "),
        ('crop = "40x32"', 'crop = "wide"', "[student]: Invalid value for '--crop'"),
        ("scales = [1]", "scales = [0.5]", "1.0 must be among"),
        ("checkpoint = ", "epochs = 3\ncheckpoint = ", "leave out epochs, or the checkpoint"),
        ("[run]", "[label]", "no TOML"),
        ("device = ", "devices = ", "did you mean device"),
    ],
)
def test_mistakes_in_the_file_are_usage_errors(data: Path, before: str, after: str, says: str) -> None:
    """Unknown tables and keys, broken TOML and bad values are exit code 2 with a hint, and nothing is written."""
    text = (data / "s.toml").read_text()
    assert before in text
    (data / "s.toml").write_text(text.replace(before, after))
    result = invoke(data / "s.toml")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (data / "out").exists()


def test_data_that_are_missing_are_named(data: Path) -> None:
    """A folder that is not there, a key that is left out and a file without data are usage errors."""
    text = (data / "s.toml").read_text()
    (data / "s.toml").write_text(text.replace(str(data / "extra"), str(data / "nowhere")))
    result = invoke(data / "s.toml")
    assert (result.exit_code, "[run]: " in result.stderr, "nowhere' does not exist" in result.stderr) == (2, True, True)
    (data / "s.toml").write_text(text.replace("extra_images", "# extra_images"))
    assert "--extra-images" in invoke(data / "s.toml").stderr
    (data / "s.toml").write_text("[student]\n")
    assert "there is no table [run]" in invoke(data / "s.toml").stderr
