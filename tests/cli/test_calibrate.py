"""The command `calibrate`, and labels made by its thresholds."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline import calibration_file
from pipeline.calibration_file import read_calibration
from storage.label_png import read_label_values, read_provenance
from storage.schema import ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def command(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> list[str | Path]:
    """Calibrates on four images, with so little asked of the evidence that they are enough."""
    for number in range(4):
        make_image(tmp_path / f"held_out/{number}.png", (40, 56), number)
        truth = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (5, 7))
        (tmp_path / "truth").mkdir(exist_ok=True)
        Image.fromarray(truth.repeat(8, 0).repeat(8, 1)).save(tmp_path / f"truth/{number}.png")
        make_image(tmp_path / f"images/{number}.png", (40, 56), 100 + number)
    options = ["--scales", "1", "--min-images", "2", "--min-pixels", "1", "--target-precision", "0.3", "--block", "1"]
    paths = ["--teacher", tiny_teacher, "--images", tmp_path / "held_out", "--truth", tmp_path / "truth"]
    return ["calibrate", *paths, *options, "--out", tmp_path / "calibration.json"]


@pytest.fixture
def labelling(command: list[str | Path], tmp_path: Path, tiny_teacher: Path) -> list[str | Path]:
    """Labels four images by the thresholds of a calibration that is there."""
    assert invoke(*command).exit_code == 0
    thresholds = ["--thresholds", tmp_path / "calibration.json"]
    return ["label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--scales", "1", *thresholds]


def test_the_table_and_the_json_tell_the_same(command: list[str | Path], tmp_path: Path) -> None:
    """People get a row for each class, programs everything; a second call counts nothing again."""
    result = invoke(*command, "--json")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    found = read_calibration(tmp_path / "calibration.json")
    assert {one["name"]: one["threshold"] for one in got["classes"]} == found.thresholds
    assert (got["images"], got["counted_before"], got["block"], got["target"]) == (4, 0, 1, {"precision": 0.3})
    assert len(got["curves"]["pole"]) == 100
    assert got["ece"] == found.ece
    assert sum(map(sum, got["confusion"])) == found.counts.pixels.truth.sum()
    again = invoke(*command)
    assert "counted before; only the thresholds are chosen" in again.stdout
    for name, status in zip(found.classes, (choice.status for choice in found.choices), strict=True):
        row = next(line for line in again.stdout.splitlines() if line.startswith(name))
        assert row.endswith(status)
    assert "expected calibration error" in again.stdout


def test_a_truth_without_some_class_is_warned_of(command: list[str | Path], tmp_path: Path) -> None:
    """Masks of 0 and 255 that are read as class indices: one line names what is absent and the likely cause."""
    for path in (tmp_path / "truth").iterdir():
        values = np.array(Image.open(path))
        Image.fromarray(np.where(values == 0, values, np.uint8(255))).save(path)
    warned = invoke(*command)
    assert "warning: the truth has no pixel of pole, sky: " in warned.stderr
    assert "Only road has any: 255 is ignored" in warned.stderr


def test_curves_are_computed_once_however_many_classes_there_are(
    command: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the file, the table and the JSON, and once for all of the curves: not for each class those of all."""
    made: list[object] = []
    point = calibration_file.CurvePoint
    monkeypatch.setattr(calibration_file, "CurvePoint", lambda *values: (made.append(0), point(*values))[1])
    assert invoke(*command, "--json").exit_code == 0
    classes, steps = 3, 100
    assert len(made) <= 4 * classes * steps


def test_failed_images_are_told_and_have_an_exit_code(command: list[str | Path], tmp_path: Path) -> None:
    """What could not be counted is no silence: exit code 3, and the reason."""
    (tmp_path / "held_out/1.png").write_bytes(b"torn")
    result = invoke(*command)
    assert result.exit_code == 3
    assert "held_out/1.png" in result.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--target-coverage", "0.5"), "either target_precision or target_coverage"),
        (("--target-precision", "95"), "target_precision: Input should be less than 1, got 95"),
        (("--min-images", "1"), "min_images"),
        (("--default-threshold", "0.505"), "not on the grid"),
        (("--keep-steps", "300"), "keep_steps"),
        (("--classes", "camvid"), "classes"),
    ],
)
def test_contradictions_are_usage_errors(command: list[str | Path], more: tuple[str, ...], words: str) -> None:
    """Exit code 2 with the option's name, and nothing is left behind."""
    result = invoke(*command, *more)
    assert result.exit_code != 0, result.output
    assert words in result.stderr
    assert not list(Path(command[-1]).parent.glob("calibration.json*"))


def test_labels_are_made_by_the_calibrations_thresholds(labelling: list[str | Path], tmp_path: Path) -> None:
    """They are those of the same class thresholds given by hand; the file lies beside them, and `verify` knows it."""
    assert invoke(*labelling, "--out", tmp_path / "run").exit_code == 0
    found = read_calibration(tmp_path / "calibration.json")
    by_hand = ",".join(f"{name}={value}" for name, value in found.thresholds.items())
    plain = [*labelling[:-2], "--class-thresholds", by_hand]
    assert invoke(*plain, "--out", tmp_path / "plain").exit_code == 0
    for number in range(4):
        labels = [read_label_values(tmp_path / run / f"labels/{number}.png") for run in ("run", "plain")]
        assert np.array_equal(*labels)
    assert "pole=" in str(read_provenance(tmp_path / "run/labels/0.png")["class_thresholds"])
    assert (tmp_path / "run/calibration.json").read_bytes() == (tmp_path / "calibration.json").read_bytes()
    assert not (tmp_path / "plain/calibration.json").exists()
    verified = invoke("verify", tmp_path / "run", "--json")
    assert (verified.exit_code, json.loads(verified.stdout)["problems"]) == (0, [])


def test_the_settings_of_such_a_run_make_it_again(labelling: list[str | Path], tmp_path: Path) -> None:
    """They hold the thresholds and not the file's path: also without that file everything is found done."""
    invoke(*labelling, "--out", tmp_path / "run")
    (tmp_path / "calibration.json").unlink()
    result = invoke("label", "--settings", tmp_path / "run/settings.toml", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["skipped"] == 4
    assert (tmp_path / "run/calibration.json").is_file()
    # a run that is begun anew by other thresholds does not keep the calibration of the old ones
    for name in ("ledger.sqlite", "labels"):
        path = tmp_path / "run" / name
        path.unlink() if path.is_file() else [file.unlink() for file in path.iterdir()]
    plain = [*labelling[:-2], "--threshold", "0.4", "--out", tmp_path / "run"]
    assert invoke(*plain).exit_code == 0
    assert not (tmp_path / "run/calibration.json").exists()


def test_other_thresholds_come_from_a_calibration(labelling: list[str | Path], tmp_path: Path) -> None:
    """`rethreshold` makes the labels that `label` makes by the same calibration; gathered runs keep it."""
    assert invoke(*labelling, "--out", tmp_path / "wanted").exit_code == 0
    kept = [*labelling[:-2], "--keep", "confidence", "--out", tmp_path / "kept"]
    assert invoke(*kept).exit_code == 0
    again = ["rethreshold", tmp_path / "kept", "--thresholds", tmp_path / "calibration.json"]
    result = invoke(*again, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert invoke("gather", tmp_path / "again", "--out", tmp_path / "gathered").exit_code == 0
    for run in ("again", "gathered"):
        for number in range(4):
            path = f"labels/{number}.png"
            assert read_provenance(tmp_path / run / path) == read_provenance(tmp_path / "wanted" / path)
            assert np.array_equal(*(read_label_values(tmp_path / one / path) for one in (run, "wanted")))
        assert (tmp_path / run / "calibration.json").read_bytes() == (tmp_path / "calibration.json").read_bytes()
    result = invoke(*again, "--threshold", "0.5", "--out", tmp_path / "both")
    assert (result.exit_code, "leave one out" in result.stderr) == (2, True)


def test_a_calibration_of_other_confidences_is_refused(
    labelling: list[str | Path], tmp_path: Path, schema: ClassSchema
) -> None:
    """Of another teacher, other scales or a mirrored image, its thresholds promise nothing; the message says why."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    torch.manual_seed(4)
    save_checkpoint(tmp_path / "other.pt", build_network(spec), spec, schema, {})
    for more, words in (
        (("--teacher", tmp_path / "other.pt"), "teacher: "),
        (("--scales", "0.5,1"), "scales: [1.0] -> [0.5, 1.0]"),
        (("--flip",), "flip: False -> True"),
        (("--precision", "bf16"), "precision: fp32 -> bf16"),
        (("--threshold", "0.7"), "leave out it or --threshold"),
        (("--class-thresholds", "pole=0.7"), "leave one of them out"),
    ):
        result = invoke(*labelling, *more, "--out", tmp_path / "refused")
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert not (tmp_path / "refused/settings.toml").exists()
    kept = [*labelling[:-2], "--keep", "confidence", "--flip", "--out", tmp_path / "kept"]
    assert invoke(*kept).exit_code == 0
    again = ("rethreshold", tmp_path / "kept", "--thresholds", tmp_path / "calibration.json", "--out", tmp_path / "x")
    result = invoke(*again)
    assert (result.exit_code, "flip: False -> True" in result.stderr) == (2, True)


def test_a_calibrations_temperature_comes_with_its_thresholds(
    command: list[str | Path], tmp_path: Path, tiny_teacher: Path
) -> None:
    """`label` divides the logits by it, says so, and refuses another; `rethreshold` needs confidence kept at it."""
    result = invoke(*command, "--fit-temperature", "--json")
    assert result.exit_code == 0, result.output
    temperature = json.loads(result.stdout)["temperature"]
    assert temperature != 1
    assert read_calibration(tmp_path / "calibration.json").temperature == temperature
    plain = ["label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--scales", "1"]
    by_it = [*plain, "--thresholds", tmp_path / "calibration.json"]
    assert invoke(*by_it, "--out", tmp_path / "run").exit_code == 0
    assert read_provenance(tmp_path / "run/labels/0.png")["temperature"] == temperature
    assert json.loads(invoke("label", "--settings", tmp_path / "run/settings.toml", "--json").stdout)["skipped"] == 4
    result = invoke(*by_it, "--temperature", "3", "--out", tmp_path / "other")
    assert (result.exit_code, f"temperature: {temperature} -> 3.0" in result.stderr) == (2, True)
    for given, code in ((str(temperature), 0), ("1", 2)):
        kept = tmp_path / f"kept-{code}"
        assert invoke(*plain, "--keep", "confidence", "--temperature", given, "--out", kept).exit_code == 0
        again = ("rethreshold", kept, "--thresholds", tmp_path / "calibration.json")
        result = invoke(*again, "--out", tmp_path / f"again-{code}")
        assert (result.exit_code, "temperature: " in result.stderr) == (code, code == 2)
    labels = [read_label_values(tmp_path / run / "labels/0.png") for run in ("run", "again-0")]
    assert np.array_equal(*labels)


def test_a_budget_that_has_no_room_for_the_calibration_is_told(labelling: list[str | Path], tmp_path: Path) -> None:
    """The calibration's bytes are the run's: exit code 4 before any label; with room, the account has them."""
    result = invoke(*labelling, "--budget", "100KB", "--out", tmp_path / "run")
    assert result.exit_code == 4, result.output
    result = invoke(*labelling, "--budget", "1MB", "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    files = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert json.loads(result.stdout)["used_bytes"] == pytest.approx(files, abs=5000)


def test_an_estimate_takes_the_thresholds(labelling: list[str | Path], tmp_path: Path) -> None:
    """A sample is measured as it would be labelled by the calibration."""
    result = invoke("estimate", *labelling[1:], "--sample", "2", "--json")
    assert result.exit_code == 0, result.output
    by_hand = ",".join(f"{n}={v}" for n, v in read_calibration(tmp_path / "calibration.json").thresholds.items())
    other = invoke("estimate", *labelling[1:-2], "--class-thresholds", by_hand, "--sample", "2", "--json")
    coverage = [json.loads(one.stdout)["coverage"] for one in (result, other)]
    assert coverage[0] == coverage[1]
