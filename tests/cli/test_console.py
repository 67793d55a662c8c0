"""What a command prints: figures for people, plain lines where there is no terminal, messages where it fails."""

import json
import signal
from pathlib import Path
from typing import NoReturn

import click
import pytest
import torch
from click.testing import CliRunner, Result

from cli import console
from cli.console import Progress, Stages, human_bytes
from cli.main import Commands, main


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (39_900, "39.9 KB"), (600e6, "600 MB"), (3.1519e12, "3.15 TB")],
)
def test_bytes_are_decimal(count: float, text: str) -> None:
    """600 MB is 600,000,000 bytes."""
    assert human_bytes(count) == text


def test_without_a_terminal_progress_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log file gets whole lines with count, rate and time left, and nothing on stdout."""
    monkeypatch.setattr(console, "_PLAIN_LINE_SECONDS", 0.0)
    with Progress("label", 4) as progress:
        progress.advance(2, "1 failed")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("label 2/4, ")
    assert "images/s" in captured.err
    assert "1 failed" in captured.err
    assert "\r" not in captured.err


def test_what_an_earlier_run_did_is_in_the_count_and_not_in_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 100 steps, 90 of them done before, 2 in 4 s are half a step a second, with 16 s left."""
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Stages() as stages:
        stages.show("training", 90, 100, unit="steps")
        now = 4.0
        stages.show("training", 92, 100, unit="steps")
    assert capsys.readouterr().err == "training 92/100, 0.50 steps/s, 00:16 left\n"


def test_a_stage_that_was_finished_before_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is left to do the count stands alone."""
    with Stages() as stages:
        stages.show("training", 2, 2, unit="steps")
    assert capsys.readouterr().err == "training 2/2\n"


def test_a_second_part_of_a_stage_starts_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 12 labels that were there, the reading of 6 others has a line of its own, and no rate below zero."""
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Stages() as stages:
        stages.show("reading", 0, 12, unit="labels")
        stages.show("reading", 12, 12, unit="labels")
        for done in range(1, 7):
            now += 1.0
            stages.show("reading", done, 6, unit="labels")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["reading 12/12", "reading 6/6"]
    assert "-" not in "".join(lines)


def test_the_last_line_of_a_stage_tells_the_rate_of_its_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What happens between the end of a stage and the next one is not counted as its time."""
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Stages() as stages:
        stages.show("reading", 0, 10, unit="labels")
        now = 5.0
        stages.show("reading", 10, 10, unit="labels")
        now = 95.0
        stages.show("training", 0, 3, unit="steps")
    assert capsys.readouterr().err == "reading 10/10, 2.00 labels/s, 00:00 left\n"


def test_a_bar_starts_where_the_work_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal too, what was done before does not count in the rate."""
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    with Progress("training", 100, "steps", initial=90) as progress:
        progress.advance(0, "resumed")
    assert "90/100" in capsys.readouterr().err
    assert progress._bar is not None
    assert progress._bar.format_dict["initial"] == 90


def run_command_that_raises(error: BaseException) -> Result:
    """Run a command that fails."""
    group = Commands("autocoarse")

    @group.command("work")
    def work() -> NoReturn:
        raise error

    return CliRunner().invoke(group, ["work"])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(13, "Permission denied", "secret.png"), 1, "autocoarse work: secret.png: Permission denied\n"),
        (OSError(28, "No space left on device"), 4, "autocoarse work: No space left on device\n"),
        (TimeoutError("timed out"), 1, "autocoarse work: timed out\n"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "autocoarse work: CUDA out of memory.\nuse smaller batches"),
        (
            RuntimeError("CUDA error: out of memory\nSearch for it"),
            1,
            "autocoarse work: CUDA error: out of memory\nSearch for it\nuse",
        ),
        (
            RuntimeError("CPU: not enough memory: you tried"),
            1,
            "autocoarse work: CPU: not enough memory: you tried\nuse",
        ),
        (MemoryError(), 1, "autocoarse work: out of memory\nuse smaller batches"),
        (
            RuntimeError("CUDA error: no kernel image\nFor"),
            1,
            "autocoarse work: CUDA error: no kernel image\nthe GPU has",
        ),
    ],
)
def test_what_the_machine_refuses_is_a_message(error: Exception, code: int, says: str) -> None:
    """A forbidden file and too little memory are exit code 1, a full disk is 4; the file is named, if there is one."""
    result = run_command_that_raises(error)
    assert result.exit_code == code
    assert result.stderr.startswith(says)
    assert isinstance(result.exception, SystemExit), "an error that reaches the top is a traceback"


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), KeyError("a mistake of ours")])
def test_mistakes_of_the_code_keep_their_traceback(error: Exception) -> None:
    """Only what the machine causes becomes a message."""
    assert run_command_that_raises(error).exception is error


def test_a_reader_that_has_gone_ends_the_command_quietly() -> None:
    """Output into a closed pipe, as with head, is no failure to speak of."""
    result = run_command_that_raises(BrokenPipeError(32, "Broken pipe"))
    assert "autocoarse" not in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_an_interrupted_command_says_how_to_go_on() -> None:
    """Ctrl-C is exit code 130."""
    result = run_command_that_raises(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr
    assert "130 interrupted" in str(click.unstyle(CliRunner().invoke(main, ["--help"]).stdout))


def test_a_batch_system_stops_a_command_as_ctrl_c_does() -> None:
    """SIGTERM is exit code 130 and a word on how to go on; afterwards the signal does what it did before."""
    group = Commands("autocoarse")

    @group.command("work")
    def work() -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    """A program that reads the last line of stdout finds the message and the exit code there."""
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "none.png"), "--json"])
    assert result.exit_code == 2
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["exit_code"] == 2
    assert told["error"] in result.stderr
    assert not CliRunner().invoke(main, ["inspect", str(tmp_path / "none.png")]).stdout


def test_a_demo_in_a_place_that_cannot_be_is_a_message(tmp_path: Path) -> None:
    """A file in the way of --out, and a seed that is too large, are messages of the right exit code."""
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "x")])
    assert result.exit_code == 1
    assert str(tmp_path / "file" / "x") in result.stderr
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "y"), "--seed", str(2**31)])
    assert result.exit_code == 2
    assert "seed" in result.stderr
