"""The commands `label --shard` and `gather`."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/cluster.md"


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def labelling(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> list[str | Path]:
    """A labelling of six images, of which two are of each of three shards."""
    for name in ("a/0", "b/1", "c/2", "b/7", "c/5", "a/6"):
        make_image(tmp_path / f"images/{name}.png", (16, 24), int(name[-1]))
    return ["label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--scales", "1"]


@pytest.fixture
def shards(labelling: list[str | Path], tmp_path: Path) -> list[Path]:
    """The three shards' runs."""
    runs = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    for number, run in enumerate(runs, 1):
        result = invoke(*labelling, "--shard", f"{number}/3", "--out", run)
        assert result.exit_code == 0, result.output
        assert f"2 images of shard {number}/3: 0 done before" in result.stdout
        assert "`autocoarse gather` joins" in result.stdout
    return runs


def test_shards_become_a_run_that_is_complete_and_sound(
    labelling: list[str | Path], shards: list[Path], tmp_path: Path
) -> None:
    """Exit code 0 for all commands; `verify` finds nothing, and `label` nothing to do."""
    result = invoke("gather", *shards, "--out", tmp_path / "all")
    assert result.exit_code == 0, result.output
    assert "3 runs, 6 items: 0 gathered before, 6 to gather" in result.stdout
    assert "gathered 6 (6 as links)" in result.stdout
    assert "complete: each of the 6 images in" in result.stdout
    assert invoke("verify", tmp_path / "all").exit_code == 0
    status = invoke("status", tmp_path / "all", "--json")
    assert status.exit_code == 0, status.output
    assert json.loads(status.stdout)["done"] == 6
    again = invoke("label", "--settings", tmp_path / "all/settings.toml", "--json")
    assert json.loads(again.stdout)["skipped"] == 6
    assert json.loads(again.stdout)["shard"] is None
    assert invoke(*labelling, "--out", tmp_path / "all").exit_code == 0


def test_the_last_line_is_one_json_object(shards: list[Path], tmp_path: Path) -> None:
    """It has the counts, and says what was proven."""
    result = invoke("gather", *shards, "--out", tmp_path / "all", "--workers", "1", "--json")
    got = json.loads(result.stdout)
    assert (got["total"], got["gathered"], got["skipped"], got["failed"], got["missing"]) == (6, 6, 0, 0, 0)
    assert (got["proven"], got["complete"], got["linked"], got["absent_shards"]) == (True, True, 6, [])
    assert got["runs"] == [str(run) for run in shards]


def test_missing_and_failed_items_make_exit_code_3(shards: list[Path], tmp_path: Path) -> None:
    """Both are listed, with what to do next; in JSON, too."""
    (shards[0] / "labels/c/2.png").write_bytes(b"damaged")
    result = invoke("gather", *shards[:2], "--out", tmp_path / "all")
    assert result.exit_code == 3
    assert "missing: a/6\nmissing: c/5\n" in result.stderr
    assert re.search(r"failed: .*shard-1/labels/c/2\.png: .*hash", result.stderr)
    assert "2 of the missing images are of shard 3/3: run its `label` command again" in result.stdout
    assert "failed.txt" in result.stdout
    assert "complete" not in result.stdout
    got = json.loads(invoke("gather", *shards[:2], "--out", tmp_path / "all", "--json").stdout)
    assert (got["skipped"], got["failed"], got["missing"], got["complete"]) == (3, 1, 2, False)
    assert (got["missing_items"], got["missing_by_shard"]) == (["a/6", "c/5"], {"3/3": 2})
    assert got["absent_shards"] == ["3/3"]


def test_where_nothing_is_whole_the_exit_code_is_1(shards: list[Path], tmp_path: Path) -> None:
    """As with other commands, a run in which everything failed has failed."""
    for path in (tmp_path / "images").rglob("*.png"):
        if not (shards[0] / "labels" / path.relative_to(tmp_path / "images")).is_file():
            path.unlink()
    for path in (shards[0] / "labels").rglob("*.png"):
        path.unlink()
    assert invoke("gather", shards[0], "--out", tmp_path / "all").exit_code == 1


def test_duplicates_and_images_that_are_gone_are_told(
    labelling: list[str | Path], shards: list[Path], tmp_path: Path
) -> None:
    """Neither is an error."""
    assert invoke(*labelling, "--out", tmp_path / "whole").exit_code == 0
    (tmp_path / "images/a/6.png").unlink()
    result = invoke("gather", *shards, tmp_path / "whole", "--out", tmp_path / "all")
    assert result.exit_code == 0, result.output
    assert "6 are in more than one run with the same label, and count once: a/0," in result.stdout
    assert "1 labels are of images that are gone" in result.stderr
    assert "complete: each of the 5 images in" in result.stdout


def test_what_cannot_be_proven_is_said(shards: list[Path], tmp_path: Path) -> None:
    """Without the images exit code 0 with a warning; where a shard is known to be absent, 3."""
    (tmp_path / "images").rename(tmp_path / "moved")
    result = invoke("gather", *shards, "--out", tmp_path / "all")
    assert result.exit_code == 0, result.output
    assert "could not be proven: no image folder" in result.stderr
    assert "say with --images" in result.stderr
    assert "complete" not in result.stdout
    result = invoke("gather", *shards[:2], "--out", tmp_path / "two")
    assert result.exit_code == 3
    assert "none of the runs is of shard 3/3" in result.stderr
    result = invoke("gather", *shards, "--images", tmp_path / "moved", "--out", tmp_path / "all")
    assert "complete: each of the 6 images in" in result.stdout


def test_misuse_is_a_usage_error(labelling: list[str | Path], shards: list[Path], tmp_path: Path) -> None:
    """No runs, no such shard, another shard's run, folders in each other: exit code 2, with what would do."""
    cases = {
        ("gather", "--out", tmp_path / "all"): "RUNS",
        ("gather", *shards, "--out", shards[0] / "all"): "lie in each other",
        ("gather", *shards, shards[0], "--out", tmp_path / "all"): "is given twice",
        (*labelling, "--shard", "4/3", "--out", tmp_path / "four"): "expected a number from 1 to 3",
        (*labelling, "--shard", "4", "--out", tmp_path / "four"): "expected I/N such as 2/8",
        (*labelling, "--shard", "2/3", "--out", shards[0]): "shard: 1/3 -> 2/3",
        (*labelling, "--out", shards[0]): "shard: 1/3 -> (none)",
    }
    for arguments, words in cases.items():
        result = invoke(*arguments)
        assert result.exit_code == 2, arguments
        assert words in result.stderr
    assert not (tmp_path / "all").exists()


def test_different_labels_of_one_image_make_exit_code_1(
    labelling: list[str | Path], shards: list[Path], tmp_path: Path
) -> None:
    """The same pixels in other bytes are another file, too: both are named."""
    assert invoke(*labelling, "--png", "smallest", "--out", tmp_path / "small").exit_code == 0
    result = invoke("gather", *shards, tmp_path / "small", "--out", tmp_path / "all")
    assert result.exit_code == 1
    assert "shard-1/labels/b/7.png and " in result.stderr
    assert "small/labels/b/7.png" in result.stderr


@pytest.mark.slow
def test_the_documented_array_job_labels_and_gathers(tmp_path: Path, tiny_teacher: Path, labelling: object) -> None:
    """The SLURM scripts of docs/cluster.md, with a `sbatch` that runs each task at once."""
    assert labelling
    (tmp_path / "data").mkdir()
    (tmp_path / "images").rename(tmp_path / "data/images")
    tiny_teacher.rename(tmp_path / "teacher.pt")
    section = DOCUMENT.read_text("utf-8").partition("### SLURM")[2]
    script, submission = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[:2]
    script = script.replace("1-8", "1-2").replace("SHARDS=8", "SHARDS=2")
    (tmp_path / "label.sh").write_text(script)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    fake = {
        "sbatch": 'if [ "$1" = --parsable ]; then for i in 1 2; do SLURM_ARRAY_TASK_ID=$i bash "$2" >&2 || exit; done; '
        'echo 17; else [ "$1" = --dependency=afterany:17 ] && [ "$2" = --wrap ] && bash -c "$3"; fi',
        "autocoarse": f'exec {sys.executable} -c "from cli.main import main; main()" "$@"',
    }
    for name, body in fake.items():
        (binaries / name).write_text(f"#!/bin/bash\n{body}\n")
        (binaries / name).chmod(stat.S_IRWXU)
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/bash", "-ec", submission], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "complete: each of the 6 images in data/images" in done.stdout
    assert (tmp_path / "runs/auto/soft/zarr.json").is_file()
