"""The command `status`."""

import contextlib
import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from storage.account import MARGIN
from storage.ledger import Ledger

IMAGES = 3
PROGRAM = str(Path(sys.executable).with_name("autocoarse"))


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, ["status", *(str(a) for a in arguments)])


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Three images to label."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
    return LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(1.0,), device="cpu", out=tmp_path / "run"
    )


def label(settings: LabelSettings, out: str = "run") -> Path:
    """Label to the end; the run."""
    settings = settings.model_copy(update={"out": settings.out.parent / out})
    with LabelRun(settings) as run:
        for _ in run:
            pass
    return settings.out


def test_a_finished_run_is_done(settings: LabelSettings) -> None:
    """Exit code 0, the counts, the bytes, and what to do next; its folder of labels stands for it."""
    run = label(settings)
    result = invoke(run)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{run}: done\n  3 of 3 done, 0 failed, 0 left\n")
    assert "of the pixels ignored" in result.stdout
    assert "last label " in result.stdout
    assert f"next: autocoarse verify {run}" in result.stdout
    assert invoke(run / "labels").exit_code == 0
    got = json.loads(invoke(run, "--json").stdout)
    assert (got["total"], got["done"], got["failed"], got["left"]) == (3, 3, 0, 0)
    assert (got["complete"], got["at_work"], got["images_per_second"]) == (True, False, None)
    assert (got["runs"][0]["run"], got["runs"][0]["state"]) == (str(run), "done")


def test_a_moved_run_goes_on_where_it_is(settings: LabelSettings, make_image: Callable[..., object]) -> None:
    """What is next names its folder, quoted; the settings alone would begin it anew where it was, and are refused."""
    run = label(settings)
    make_image(settings.images / "more.png", (40, 56), IMAGES)
    (settings.images / "bad.png").write_text("no image")
    moved = run.rename(run.with_name("moved run"))
    command = f"autocoarse label --settings '{moved}/settings.toml' --out '{moved}'"
    assert invoke(moved, "--json").exit_code == 0, "nobody has looked at the images since"
    assert f"next: {command}\n" in CliRunner().invoke(main, ["verify", str(moved)]).stdout
    refused = CliRunner().invoke(main, ["label", "--settings", str(moved / "settings.toml")])
    assert refused.exit_code == 2
    assert f"Say --out '{moved}' to go on with it" in refused.stderr
    assert not run.exists()
    went_on = CliRunner().invoke(main, shlex.split(command)[1:])
    assert "labelled 1, skipped 3, failed 1 of 5" in went_on.stdout
    assert CliRunner().invoke(main, ["label", "--settings", str(moved / "settings.toml")]).exit_code == 3, (
        "it knows now"
    )


def test_settings_that_somebody_put_into_a_run_begin_another(settings: LabelSettings) -> None:
    """Only a run's own file says where the run was; any other in its folder may name a folder that is not there yet."""
    run = label(settings)
    by_hand = run / "other.toml"
    by_hand.write_text((run / "settings.toml").read_text().replace(f'"{run}"', f'"{run}2"'))
    result = CliRunner().invoke(main, ["label", "--settings", str(by_hand)])
    assert result.exit_code == 0, result.stderr
    assert len(list((run.with_name("run2") / "labels").rglob("*.png"))) == IMAGES


def test_failures_are_exit_code_3_and_what_is_next_makes_them(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """The latest five reasons, where all of them are, and the command that tries again."""
    for number in range(6):
        (settings.images / f"bad{number}.png").write_text("no image")
    run = label(settings)
    result = invoke(run)
    assert result.exit_code == 3
    assert "finished, some failed\n  3 of 9 done, 6 failed, 0 left" in result.stdout
    assert sum(line.startswith("  failed: bad") for line in result.stdout.splitlines()) == 5
    assert "failed.txt" in result.stdout
    for number in range(6):
        make_image(settings.images / f"bad{number}.png", (40, 56), number)
    (step,) = [line for line in result.stdout.splitlines() if line.startswith("next: ")]
    again = CliRunner().invoke(main, step.removeprefix("next: autocoarse ").split())
    assert again.exit_code == 0, again.stderr
    assert invoke(run).exit_code == 0


def test_a_run_without_room_is_told_a_budget_that_will_do(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """A run that its budget stopped: exit code 3, what is left, and the next command finishes it."""
    for number in range(3, 40):
        make_image(settings.images / f"{number}.png", (96, 128), number)
    whole = label(settings, "whole")
    limit = json.loads(invoke(whole, "--json").stdout)["used_bytes"] * 3 // 4 + MARGIN
    arguments = ["label", "--images", settings.images, "--teacher", settings.teacher, "--scales", "1"]
    arguments += ["--device", "cpu", "--budget", limit, "--out", settings.out]
    assert CliRunner().invoke(main, [str(a) for a in arguments]).exit_code == 4
    result = invoke(settings.out)
    assert result.exit_code == 3
    assert f"{settings.out}: stopped\n" in result.stdout
    assert ", about " in result.stdout
    got = json.loads(invoke(settings.out, "--json").stdout)
    assert got["runs"][0]["lacks_room"]
    assert got["runs"][0]["used_bytes"] <= got["runs"][0]["budget"] == limit < got["forecast_bytes"] + MARGIN
    (step,) = got["runs"][0]["next"]
    assert " --budget " in step
    assert CliRunner().invoke(main, step.removeprefix("autocoarse ").split()).exit_code == 0
    assert invoke(settings.out).exit_code == 0


def test_a_run_at_work_is_exit_code_0(settings: LabelSettings) -> None:
    """How fast it is and how long it will take, while the run goes on undisturbed."""
    with LabelRun(settings) as run:
        for _ in run:
            result = invoke(settings.out)
            assert result.exit_code == 0, result.stderr
            assert f"{settings.out}: at work, for " in result.stdout
            assert " images/s" in result.stdout
            assert "next:" not in result.stdout
    assert run.summary.labelled == IMAGES


def test_several_runs_are_a_line_each_and_one_for_all(settings: LabelSettings) -> None:
    """Sums over all of them; one that cannot be read does not hide the others, and is exit code 1."""
    first, second = label(settings), label(settings, "second")
    with Ledger(second / "ledger.sqlite") as ledger:
        ledger.forget(["1"])
    result = invoke(first, second)
    assert result.exit_code == 3
    one, two, total = result.stdout.splitlines()
    assert one.startswith(f"{first}: done; 3 of 3 done")
    assert two.startswith(f"{second}: stopped; 2 of 3 done, 0 failed, 1 left")
    assert total.startswith("total: 0 of 2 at work; 5 of 6 done, 0 failed, 1 left; ")
    got = json.loads(invoke(first, second, "--json").stdout)
    assert (got["total"], got["done"], got["left"], got["complete"], len(got["runs"])) == (6, 5, 1, False, 2)
    (second / "ledger.sqlite").write_bytes(b"no database " * 100)
    result = invoke(first, second)
    assert result.exit_code == 1
    assert "total: 0 of 1 at work; 1 not readable; 3 of 3 done" in result.stdout
    assert invoke(second).exit_code == 1


def test_an_older_ledger_is_told_without_a_total(settings: LabelSettings) -> None:
    """What is not known is said, also in sums."""
    run = label(settings)
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite", isolation_level=None)) as connection:
        connection.execute("DELETE FROM run WHERE name = 'plan'")
    other = label(settings, "other")
    result = invoke(run)
    assert (result.exit_code, "3 done, 0 failed, of how many is not known" in result.stdout) == (0, True)
    assert json.loads(invoke(run, other, "--json").stdout)["total"] is None


def test_what_is_no_run_is_a_usage_error(tmp_path: Path) -> None:
    """An empty folder, no folder, no RUN at all, and an interval of nothing."""
    result = invoke(tmp_path)
    assert (result.exit_code, "is no RUN" in result.stderr) == (2, True)
    assert invoke(tmp_path / "nowhere").exit_code == 2
    assert invoke().exit_code == 2
    assert invoke(tmp_path, "--watch", "--interval", "0").exit_code == 2


def watch(run: Path, *more: str) -> subprocess.Popen[str]:
    """Watch a run in another process, ten times a second at most."""
    return subprocess.Popen(
        [PROGRAM, "status", str(run), "--watch", "--interval", "0.1", *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # where the tests run as a script's background job, a process would be deaf to Ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_watching_ends_with_the_run(settings: LabelSettings) -> None:
    """A line of JSON a look, or a plain line and at the end the whole status; both while the run commits."""
    with LabelRun(settings) as run:
        watchers = [watch(settings.out, "--json"), watch(settings.out)]
        first = [_first_line(watcher) for watcher in watchers]
        for _ in run:
            pass
    assert run.summary.labelled == IMAGES
    as_json, plain = ((watcher.communicate(timeout=300), watcher.returncode) for watcher in watchers)
    assert (as_json[1], plain[1]) == (0, 0)
    looks = [json.loads(line) for line in [first[0], *as_json[0][0].splitlines()]]
    assert [look["at_work"] for look in looks] == [True] * (len(looks) - 1) + [False]
    assert [look["done"] for look in looks] == sorted(look["done"] for look in looks)
    assert looks[-1]["complete"]
    assert first[1].startswith(f"{settings.out}: at work; 0 of 3 done, 0 failed, 3 left; 0.00 images/s; ")
    assert f"{settings.out}: done\n  3 of 3 done" in plain[0][0]


def test_watching_a_run_that_ends_with_work_left_is_exit_code_3(settings: LabelSettings) -> None:
    """As without --watch, once nobody is at work."""
    with LabelRun(settings):
        watcher = watch(settings.out)
        _first_line(watcher)
    out, _ = watcher.communicate(timeout=300)
    assert watcher.returncode == 3
    assert "stopped\n  0 of 3 done" in out


def test_ctrl_c_ends_watching_quietly(settings: LabelSettings) -> None:
    """Exit code 130 and not a word; the run goes on."""
    with LabelRun(settings) as run:
        watcher = watch(settings.out)
        _first_line(watcher)
        watcher.send_signal(signal.SIGINT)
        _, told = watcher.communicate(timeout=300)
        assert (watcher.returncode, told.strip()) == (130, "")
        for _ in run:
            pass
    assert run.summary.labelled == IMAGES


def test_a_terminal_shows_one_look_over_the_other(settings: LabelSettings) -> None:
    """Each look but the first goes up by the rows of the one before and clears them; rows are not broken."""
    terminal, theirs = pty.openpty()
    with LabelRun(settings):
        watcher = subprocess.Popen(
            [PROGRAM, "status", str(settings.out), "--watch", "--interval", "0.1"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "40"},
            stdout=theirs,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        shown = b""
        while shown.count(b"\x1b[J") < 2:
            shown += os.read(terminal, 4096)
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while more := os.read(terminal, 4096):
            shown += more
    os.close(terminal)
    assert watcher.wait(timeout=300) == 3
    first, second, *_ = shown.decode().split("\x1b[J")
    rows = first.replace("\r", "").splitlines()
    assert rows.pop() == f"\x1b[{len(rows)}F"
    assert len(rows) == 4
    assert all(len(row) < 40 for row in rows)
    assert second.startswith(rows[0])


def _first_line(watcher: subprocess.Popen[str]) -> str:
    assert watcher.stdout is not None
    return watcher.stdout.readline()


def test_a_folder_that_is_no_run_does_not_hide_the_others(settings: LabelSettings, tmp_path: Path) -> None:
    """Among several it is told, and the exit code is 1."""
    run = label(settings)
    (tmp_path / "none").mkdir()
    result = invoke(run, tmp_path / "none")
    assert result.exit_code == 1, result.output
    assert f"{run}: done" in result.stdout
    assert "no RUN" in result.output
