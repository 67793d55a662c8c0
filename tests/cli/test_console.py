"""What a command prints: figures for people, plain lines where there is no terminal."""

import pytest

from cli import console
from cli.console import Progress, human_bytes


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
