"""The command `verify`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from storage.workspace import Workspace


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def run(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> Path:
    """A run of three images, labelled."""
    for number in range(3):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
    out = tmp_path / "run"
    settings = LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(0.5, 1.0), device="cpu", out=out
    )
    with LabelRun(settings) as label_run:
        for _ in label_run:
            pass
    return out


def test_a_sound_run_is_said_to_be_sound(run: Path) -> None:
    """Exit code 0, in words and as JSON."""
    result = invoke("verify", run)
    assert result.exit_code == 0, result.stderr
    assert "3 items, 3 with a label, compared with the 3 images" in result.stdout
    assert "nothing is damaged" in result.stdout
    assert "verify 3/3" in result.stderr
    result = invoke("verify", run, "--json", "--workers", 1)
    got = json.loads(result.stdout)
    assert (got["items"], got["labels"], got["damaged"], got["left"]) == (3, 3, 0, 0)
    assert (got["counts"], got["problems"], got["problems_total"], got["repaired"]) == ({}, [], 0, None)
    assert got["images"] == str(run.parent / "images")
    assert got["store_compared"] is None


def test_damage_is_named_with_its_key_and_what_to_do_next(run: Path) -> None:
    """Exit code 1, a count a kind, each problem, and the command that repairs."""
    (run / "labels/0.png").unlink()
    (run / "labels/1.png").write_bytes((run / "labels/1.png").read_bytes()[:-20])
    (run / "labels/old.png").write_bytes((run / "labels/2.png").read_bytes())
    result = invoke("verify", run)
    assert result.exit_code == 1
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["missing", "1"] in lines
    assert "missing: 0: there is no label file" in result.stdout
    assert "undecodable: 1: the label is cut off" in result.stdout
    assert "duplicate: labels/old.png: a second label of 2" in result.stdout
    assert f"next: autocoarse verify {run} --repair" in result.stdout
    got = json.loads(invoke("verify", run, "--json").stdout)
    assert got["counts"] == {"missing": 1, "undecodable": 1, "duplicate": 1}
    assert [(p["kind"], p["key"]) for p in got["problems"]] == [
        *(("missing", "0"), ("undecodable", "1"), ("duplicate", "labels/old.png"))
    ]
    assert got["beyond_repair"] == 3


def test_repair_says_what_to_run_next_and_that_command_makes_it_sound(run: Path) -> None:
    """Exit code 3 once all is returned to the plan; the command it names labels it again."""
    whole = (run / "labels/0.png").read_bytes()
    (run / "labels/0.png").write_bytes(whole[:-30])
    result = invoke("verify", run, "--repair")
    assert result.exit_code == 3, result.stderr
    assert "returned to the plan: 1 items" in result.stdout
    (following,) = [line for line in result.stdout.splitlines() if line.startswith("next: ")]
    result = invoke(*following.removeprefix("next: autocoarse ").split())
    assert result.exit_code == 0, result.stderr
    assert (run / "labels/0.png").read_bytes() == whole
    assert invoke("verify", run).exit_code == 0


def test_what_cannot_be_repaired_is_exit_code_1(run: Path) -> None:
    """A label made by hand is kept, and why is said."""
    Image.new("L", (56, 40)).save(run / "labels/0.png")
    result = invoke("verify", run, "--repair")
    assert result.exit_code == 1
    assert "not repaired: 0: " in result.stdout
    assert "was not made by this run" in result.stdout
    got = json.loads(invoke("verify", run, "--repair", "--json").stdout)
    assert [name for name, _ in got["repaired"]["kept"]] == ["0"]


def test_unfinished_items_alone_are_exit_code_3(run: Path, make_image: Callable[..., object]) -> None:
    """The run is sound, and there is work left."""
    make_image(run.parent / "images/3.png", (40, 56), 3)
    result = invoke("verify", run)
    assert result.exit_code == 3
    assert "unfinished: 3: its image has no entry" in result.stdout
    assert f"next: autocoarse label --settings {run / 'settings.toml'}" in result.stdout


def test_many_problems_are_not_all_printed(run: Path) -> None:
    """The first 20, damage before work that is left, and how many there are."""
    for number in range(30):
        (run / f"labels/x{number:02}.txt").write_text("mine")
    (run.parent / "images/3.png").write_bytes((run.parent / "images/0.png").read_bytes())
    result = invoke("verify", run)
    shown = [line for line in result.stdout.splitlines() if line.startswith("stray: ")]
    assert len(shown) == 20
    assert "and 11 more; --json lists them" in result.stdout


def test_absent_images_and_a_run_at_work_are_warned_of(run: Path) -> None:
    """What was not compared is not passed over in silence."""
    (run.parent / "images").rename(run.parent / "elsewhere")
    (run / ".partial").mkdir()
    result = invoke("verify", run)
    assert result.exit_code == 0
    assert "its entries alone are checked" in result.stdout
    assert "no image folder" in result.stdout
    assert "the images are not there" in result.stderr
    assert "a run is at work here, or was killed" in result.stderr


def test_where_the_images_are_gone_what_is_next_asks_for_them(run: Path) -> None:
    """The settings name a folder that is not there: going on with what is left needs --images, and works with it."""
    images, moved = run.parent / "images", run.parent / "moved"
    (images / "bad.png").write_bytes(b"no image")
    settings = ("--settings", run / "settings.toml")
    assert invoke("label", *settings).exit_code == 3
    assert "--images" not in invoke("verify", run).stdout
    images.rename(moved)
    result = invoke("verify", run)
    assert f"the images of its settings are not found at {images}: --images says" in result.stdout
    assert result.stdout.endswith(f"next: autocoarse label --settings {run / 'settings.toml'} --images DIR\n")
    assert invoke("label", *settings).exit_code == 2
    assert invoke("label", *settings, "--images", moved).exit_code == 3


def test_a_folder_that_is_no_run_and_one_in_use_are_errors(tmp_path: Path, run: Path) -> None:
    """Exit code 2 for what is no RUN, 1 where another process has it."""
    result = invoke("verify", tmp_path)
    assert result.exit_code == 2
    assert "no RUN" in result.stderr
    assert invoke("verify", tmp_path / "nowhere").exit_code == 2
    assert invoke("verify", run, "--workers", "0").exit_code == 2
    lock = Workspace(run).lock()
    try:
        result = invoke("verify", run, "--repair")
    finally:
        lock.release()
    assert result.exit_code == 1
    assert "in use by another" in result.stderr
