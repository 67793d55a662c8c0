"""The storage budget on the command line: before a run and after it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_mission_in_figures() -> None:
    """20,000 images of 1920x1080 with 19 classes: 3.15 TB and 1.58 TB of soft labels against hard ones."""
    result = invoke("estimate", "--count", "20000", "--size", "1920x1080", "--classes", "19")
    assert result.exit_code == 0
    assert "3.15 TB" in result.stdout
    assert "1.58 TB" in result.stdout
    assert "rests on" in result.stdout


def test_estimate_speaks_json_last() -> None:
    """With --json stdout holds one object with the documented keys, the text goes to stderr."""
    result = invoke("estimate", "--count", 10, "--size", "200x100", "--classes", "camvid", "--budget", "1GB", "--json")
    got = json.loads(result.stdout)
    assert got["soft_fp32_bytes"] == 10 * 200 * 100 * 11 * 4
    assert (got["height"], got["width"], got["classes"], got["basis"]) == (100, 200, 11, "model")
    assert got["within_budget"] is True
    assert "hard labels" in result.stderr


def test_an_estimate_over_budget_has_an_exit_code_of_its_own() -> None:
    """Exit code 4 when the labels would not fit."""
    arguments = ("estimate", "--count", "20000", "--size", "1920x1080", "--classes", "19", "--budget")
    assert invoke(*arguments, "1MB").exit_code == 4
    assert invoke(*arguments, "10GB").exit_code == 0


def test_an_estimate_of_real_images_reads_their_sizes(tmp_path: Path, make_image: Callable[..., object]) -> None:
    """With --images the sizes are sampled; files that are no images are passed over."""
    make_image(tmp_path / "a.png", (30, 40))
    make_image(tmp_path / "b/b.png", (30, 40))
    make_image(tmp_path / "c.png", (50, 40))
    (tmp_path / "d.png").write_text("no image")
    got = json.loads(invoke("estimate", "--images", tmp_path, "--classes", "2", "--json").stdout)
    assert (got["count"], got["height"], got["width"], got["basis"]) == (4, 30, 40, "sample")
    assert got["soft_fp16_bytes"] == pytest.approx(4 * (2 * 1200 + 2000) / 3 * 2 * 2, rel=1e-3)
    assert got["within_budget"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--count", "3"),
        ("--size", "3x3"),
        ("--count", "3", "--size", "3by3"),
        ("--count", "3", "--size", "3x3", "--budget", "lots"),
        ("--count", "3", "--size", "3x3", "--images", "."),
    ],
)
def test_half_an_estimate_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """What cannot be estimated is exit code 2."""
    assert invoke("estimate", "--classes", "19", *arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("--classes", "0"),
        ("--classes", "256"),
        ("--classes", "1" * 5000),
        ("--classes", "19", "--size", "1" * 5000 + "x3"),
        ("--classes", "19", "--budget", "1" * 5000 + "MB"),
    ],
)
def test_numbers_out_of_all_bounds_are_usage_errors(arguments: tuple[str, ...]) -> None:
    """No or too many classes, and numbers too long to be read, are exit code 2."""
    result = invoke("estimate", "--count", "3", "--size", "3x3", *arguments)
    assert result.exit_code == 2, result.exception


def test_budget_measures_a_folder_and_checks_the_limit(tmp_path: Path) -> None:
    """Labels and bytes are counted; over the limit is exit code 4."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"x" * 1500)
    (tmp_path / "y.png").write_bytes(b"x" * 500)
    result = invoke("budget", tmp_path, "--limit", "2KB", "--json")
    got = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (got["labels"], got["bytes"], got["bytes_per_label"]) == (2, 2000, 1000)
    assert (got["limit"], got["within"]) == (2000, True)
    over = invoke("budget", tmp_path, "--limit", "1.9KB", "--json")
    assert over.exit_code == 4
    assert json.loads(over.stdout)["within"] is False
    assert json.loads(invoke("budget", tmp_path, "--json").stdout)["within"] is None


def test_an_empty_folder_has_no_average(tmp_path: Path) -> None:
    """No labels: zero bytes, no division by zero, and a word on it, as the folder may be a wrong one."""
    result = invoke("budget", tmp_path, "--json")
    got = json.loads(result.stdout)
    assert (got["labels"], got["bytes"], got["bytes_per_label"]) == (0, 0, None)
    assert f"warning: {tmp_path} holds no label" in result.stderr


def test_the_limit_is_on_all_files(tmp_path: Path) -> None:
    """What the disk holds counts: ledger and settings break the limit as labels do, and are told by kind."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.png").write_bytes(b"x" * 1500)
    (tmp_path / "ledger.sqlite").write_bytes(b"x" * 5000)
    result = invoke("budget", tmp_path, "--limit", "7KB", "--json")
    got = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (got["bytes"], got["total_bytes"], got["within"]) == (1500, 6500, True)
    assert got["kinds"] == {"labels": 1500, "store": 0, "ledger": 5000, "other": 0}
    over = invoke("budget", tmp_path, "--limit", "6KB")
    assert over.exit_code == 4
    assert "all files together are OVER" in over.stdout


def test_budget_tells_sizes_folders_and_the_largest(tmp_path: Path) -> None:
    """The distribution over the labels, the folders with the most bytes, and the largest labels by name."""
    for i in range(25):
        (tmp_path / f"f{i:02d}").mkdir()
        (tmp_path / f"f{i:02d}" / "x.png").write_bytes(b"x" * (i + 1))
    result = invoke("budget", tmp_path, "--json")
    got = json.loads(result.stdout)
    assert got["distribution"] == {"count": 25, "mean": 13, "median": 13, "p90": 23, "max": 25}
    assert got["largest"][0] == {"label": "f24/x.png", "bytes": 25}
    assert len(got["largest"]) == 5
    assert len(got["folders"]) == 20
    assert got["folders"][0] == {"folder": "f24", "labels": 1, "bytes": 25}
    assert got["folders"][-1] == {"folder": "(6 others)", "labels": 6, "bytes": 21}
    assert "f24/x.png" in result.stderr


def test_budget_of_a_plain_folder_tells_soft_labels_where_the_classes_are_given(tmp_path: Path) -> None:
    """Pixels are read from the files; without --classes, or with a damaged file, the reason is told."""
    Image.new("L", (30, 20)).save(tmp_path / "x.png")
    got = json.loads(invoke("budget", tmp_path, "--classes", "camvid", "--json").stdout)
    assert got["soft"] == {"pixels": 600, "classes": 11, "fp32": 26400, "fp16": 13200, "uint8": 6600}
    got = json.loads(invoke("budget", tmp_path, "--json").stdout)
    assert got["soft"] is None
    assert "give --classes" in got["soft_reason"]
    assert got["projection"] is None
    (tmp_path / "y.png").write_text("no image")
    result = invoke("budget", tmp_path, "--classes", "11", "--json")
    assert result.exit_code == 0
    assert "y.png" in json.loads(result.stdout)["soft_reason"]
