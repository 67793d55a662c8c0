"""The commands `label --keep` and `rethreshold`, and what else `label` writes when it is asked to."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from storage.label_png import read_label_values, read_provenance


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def labelling(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> list[str | Path]:
    """A labelling of two images."""
    for number in range(2):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
    return ["label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--scales", "1"]


def test_another_threshold_comes_without_the_teacher(
    labelling: list[str | Path], tmp_path: Path, tiny_teacher: Path
) -> None:
    """The teacher may be gone; the new run says what it was made with, and a second call does nothing."""
    result = invoke(*labelling, "--keep", "confidence", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "`autocoarse rethreshold` applies other thresholds" in result.stdout
    refused = invoke(*labelling, "--keep", "confidence", "--threshold", "0.8", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert f"`autocoarse rethreshold {tmp_path / 'run'}` applies other thresholds" in refused.stderr
    refused = invoke(*labelling, "--keep", "confidence", "--flip", "--out", tmp_path / "run")
    assert "rethreshold" not in refused.stderr
    tiny_teacher.unlink()
    again = ("rethreshold", tmp_path / "run", "--threshold", "0.8", "--class-thresholds", "pole=0.3")
    result = invoke(*again, "--out", tmp_path / "again", "--json")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert (got["total"], got["labelled"], got["skipped"], got["failed"]) == (2, 2, 0, 0)
    provenance = read_provenance(tmp_path / "again/labels/0.png")
    assert (provenance["threshold"], provenance["class_thresholds"]) == (0.8, "pole=0.3")
    assert provenance["settings"] == got["settings_digest"]
    assert json.loads(invoke(*again, "--out", tmp_path / "again", "--json").stdout)["skipped"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--threshold", "0.805"), "the nearest are 0.8 and 0.81"),
        (("--threshold", "1.5"), "threshold"),
        (("--class-thresholds", "tree=0.5"), "tree is no class"),
        (("--class-thresholds", "pole"), "pole=0.4,sign=0.6"),
    ],
)
def test_thresholds_that_cannot_be_applied_are_usage_errors(
    labelling: list[str | Path], tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    """Exit code 2, with what would do."""
    invoke(*labelling, "--keep", "confidence", "--out", tmp_path / "run")
    result = invoke("rethreshold", tmp_path / "run", *arguments, "--out", tmp_path / "again")
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_run_without_kept_confidence_is_a_usage_error(labelling: list[str | Path], tmp_path: Path) -> None:
    """It says which option of `label` would have helped."""
    invoke(*labelling, "--out", tmp_path / "run")
    result = invoke("rethreshold", tmp_path / "run", "--threshold", "0.8", "--out", tmp_path / "again")
    assert result.exit_code == 2
    assert "--keep confidence" in result.stderr


def test_label_writes_source_ids_palettes_and_smaller_files(labelling: list[str | Path], tmp_path: Path) -> None:
    """The pixels' classes are the same in every form; a palette is warned of."""
    forms: dict[str, tuple[str, ...]] = {
        "plain": (),
        "source": ("--ids", "source"),
        "palette": ("--palette",),
        "small": ("--png", "smallest"),
    }
    values = {}
    for name, more in forms.items():
        result = invoke(*labelling, *more, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert ("OpenCV" in result.stderr) == (name == "palette")
        values[name] = read_label_values(tmp_path / name / "labels/0.png")
    to_source = np.full(256, 0, np.uint8)  # ignore is the lowest id that is no class
    to_source[[0, 1, 2]] = (7, 17, 23)
    np.testing.assert_array_equal(values["source"], to_source[values["plain"]])
    np.testing.assert_array_equal(values["palette"], values["plain"])
    np.testing.assert_array_equal(values["small"], values["plain"])
    assert Image.open(tmp_path / "palette/labels/0.png").mode == "P"
    assert Image.open(tmp_path / "source/labels/0.png").mode == "L"


def test_a_run_of_source_ids_is_read_as_what_it_is(labelling: list[str | Path], tmp_path: Path) -> None:
    """Other commands read a run by what its ledger says: evaluated against a run of class indices it is all right."""
    for name in ("class", "source"):
        assert invoke(*labelling, "--ids", name, "--out", tmp_path / name).exit_code == 0
    arguments = ("--labels", tmp_path / "source", "--truth", tmp_path / "class")
    result = invoke("evaluate", *arguments, "--classes", tmp_path / "class/classes.json", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["pixel_accuracy"] == 1.0


def test_settings_files_hold_thresholds_as_a_table(labelling: list[str | Path], tmp_path: Path) -> None:
    """What a run wrote as its settings is taken as settings again."""
    first = invoke(*labelling, "--class-thresholds", "pole=0.3,sky=0.9", "--out", tmp_path / "run", "--json")
    assert first.exit_code == 0, first.output
    again = invoke("label", "--settings", tmp_path / "run/settings.toml", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["skipped"] == 2


@pytest.mark.parametrize("command", ["evaluate", "merge"])
def test_source_ids_of_other_classes_are_refused(labelling: list[str | Path], tmp_path: Path, command: str) -> None:
    """The same names with other ids would give nonsense; the message names the schema that fits."""
    assert invoke(*labelling, "--ids", "source", "--out", tmp_path / "run").exit_code == 0
    assert invoke(*labelling, "--out", tmp_path / "truth").exit_code == 0
    classes = json.loads((tmp_path / "run/classes.json").read_text())
    for one in classes["classes"]:
        one["source_ids"] = [one["index"]]
    (tmp_path / "other.json").write_text(json.dumps(classes))
    arguments = {
        "evaluate": ("--labels", tmp_path / "run", "--truth", tmp_path / "truth"),
        "merge": ("--coarse", tmp_path / "truth", "--auto", tmp_path / "run", "--out", tmp_path / "merged"),
    }[command]
    result = invoke(command, *arguments, "--classes", tmp_path / "other.json")
    assert result.exit_code == 1, result.output
    assert "give that as --classes" in result.stderr
