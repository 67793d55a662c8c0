"""The command `merge`."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write(path: Path, values: object) -> None:
    """Write a label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A human and an automatic label of one image, one more of each, and their classes."""
    for name in ("1", "human"):
        write(tmp_path / f"coarse/{name}.png", [[0, 255, 1, 1]])
    for name in ("1", "auto"):
        write(tmp_path / f"auto/{name}.png", [[0, 2, 2, 255]])
    classes = {"classes": [{"name": n} for n in ("road", "pole", "sky")]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


def merging(data: Path) -> list[str | Path]:
    """A merge of the two sets."""
    return [
        *("merge", "--coarse", data / "coarse", "--auto", data / "auto"),
        *("--classes", data / "classes.json", "--out", data / "run"),
    ]


def test_merge_tells_what_it_did_by_class(data: Path) -> None:
    """The text holds a table, the JSON every figure of it, and a second run repeats them with nothing done."""
    result = invoke(*merging(data))
    assert result.exit_code == 0, result.stderr
    assert "3 images, policy fill: 1 in both sets, 1 with the human label only, 1 with the auto" in result.stdout
    assert "merged 3, skipped 0, failed 0 of 3" in result.stdout
    (pole,) = [line.split() for line in result.stdout.splitlines() if line.startswith("pole")]
    assert pole == ["pole", "100.00%", "25.00%", "0.00%", "33.33%"]
    again = invoke(*merging(data), "--json")
    assert again.exit_code == 0, again.stderr
    assert "nothing to do: all labels are current" in again.stderr
    got = json.loads(again.stdout)
    assert (got["total"], got["merged"], got["skipped"], got["failed"]) == (3, 0, 3, 0)
    assert (got["coarse_only"], got["auto_only"], got["left_out"], got["policy"]) == (1, 1, 0, "fill")
    assert got["classes"] == {
        "road": {"human": 2, "kept": 2, "filled": 1, "conflicts": 0},
        "pole": {"human": 4, "kept": 4, "filled": 0, "conflicts": 1},
        "sky": {"human": 0, "kept": 0, "filled": 3, "conflicts": 0},
    }
    assert (got["pixels"], got["kept"], got["filled"], got["conflicts"], got["ignored"]) == (12, 6, 4, 1, 2)
    assert got["bytes"] == sum(p.stat().st_size for p in (data / "run/labels").rglob("*.png"))


def test_every_option_reaches_the_merge(data: Path) -> None:
    """Policy, union and border decide the pixels; what is left out is said."""
    result = invoke(*merging(data), "--policy", "auto", "--union-classes", "pole,road", "--border-ignore", "0,0,2,0")
    assert result.exit_code == 0, result.stderr
    assert "1 human labels without an auto label are left out" in result.stderr
    assert np.array(Image.open(data / "run/labels/1.png")).tolist() == [[0, 255, 1, 1]]
    assert np.array(Image.open(data / "run/labels/auto.png")).tolist() == [[255, 255, 2, 255]]
    assert not (data / "run/labels/human.png").exists()


def test_the_settings_of_a_run_repeat_it(data: Path) -> None:
    """The settings.toml that a merge leaves behind is read by --settings, lists and all."""
    options = ("--policy", "agree", "--union-classes", "pole,sky", "--border-ignore", "0,0,1,0")
    assert invoke(*merging(data), *options).exit_code == 0
    result = invoke("merge", "--settings", data / "run/settings.toml", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["skipped"] == 3
    assert invoke(*merging(data), *options, "--policy", "fill").exit_code == 2


def test_a_bad_pair_is_a_failed_item_with_its_reason(data: Path) -> None:
    """Exit code 3, or 1 where nothing could be merged; the reason is told and kept."""
    write(data / "auto/1.png", [[0, 2]])
    result = invoke(*merging(data), "--json")
    assert result.exit_code == 3
    assert "failed: " in result.stderr
    assert "the auto label 2x1" in result.stderr
    assert json.loads(result.stdout)["failed"] == 1
    assert "2x1" in (data / "run/failed.txt").read_text("utf-8")
    for name in ("coarse/human", "auto/auto"):
        (data / f"{name}.png").unlink()
    assert invoke(*merging(data)).exit_code == 1


def test_sets_without_an_image_in_common_are_warned_of(data: Path) -> None:
    """The likely reason is trees that do not mirror each other."""
    (data / "auto/1.png").rename(data / "auto/2.png")
    result = invoke(*merging(data))
    assert result.exit_code == 0
    assert "no image is in both sets" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "vote"),
        ("--union-classes", "truck"),
        ("--union-classes", "road,,sky"),
        ("--border-ignore", "1,2,3"),
        ("--border-ignore", "1,2,3,-4"),
        ("--border-ignore", "1,2,3,0.5"),
        ("--border-ignore", "1,2,3,inf"),
        ("--classes", "nowhere.json"),
        ("--coarse", "nowhere"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(data: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and nothing is written."""
    result = invoke(*merging(data), *arguments)
    assert result.exit_code == 2, result.exception
    assert not (data / "run").exists()
