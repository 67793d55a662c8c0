"""The command `report`."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def run(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> Path:
    """Two labelled images."""
    for number in range(2):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
    result = invoke(
        *("label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--scales", "1", "--out", tmp_path / "r")
    )
    assert result.exit_code == 0, result.output
    return tmp_path / "r"


def test_report_makes_a_page_and_says_where(run: Path) -> None:
    """For people and for programs; what would bring the missing parts is said, and a second call replaces the page."""
    result = invoke("report", run)
    assert result.exit_code == 0, result.output
    assert "2 labelled, 0 failed, 0 left; 2 thumbnails" in result.stdout
    assert "note: Errors are not known without a ground truth: --truth DIR." in result.stdout
    page = run.with_name("r-report") / "index.html"
    assert f"open {page.resolve()}" in result.stdout
    assert page.read_text("utf-8").startswith("<!")
    got = json.loads(invoke("report", run, "--thumb-bytes", "0", "--json").stdout)
    assert (got["done"], got["thumbs"], got["url"], got["index"]) == (2, 0, None, str(page.resolve()))


def test_what_cannot_be_reported_on_is_a_usage_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, with the reason."""
    monkeypatch.chdir(run.parent)
    for arguments, words in (
        (("images",), "is no RUN"),
        (("r", "--truth", "images/0.png"), "is a file"),
        (("r", "--thumb-size", "5"), "32<=x<=2048"),
        (("r", "--port", "8000"), "--port is where --serve listens"),
        (("s3://bucket/run",), "is in a store"),
        (("r", "--out", "images"), "choose another --out"),
    ):
        result = invoke("report", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_report_is_served_until_it_is_interrupted(run: Path) -> None:
    """On loopback, at the URL that is printed; Ctrl-C ends it as done."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "report", str(run), "--serve", "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        # where the tests run as a script's background job, a process would be deaf to Ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    got = json.loads(process.stdout.readline())
    assert got["url"].startswith("http://127.0.0.1:")
    with urllib.request.urlopen(got["url"]) as answer:  # noqa: S310 - the address is checked above
        assert answer.read() == Path(got["index"]).read_bytes()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
