"""What a command prints: text for people, one JSON object for programs, and progress while it works."""

import json
import sys
import time
from types import TracebackType
from typing import Any, Self

import click
from tqdm import tqdm

_PLAIN_LINE_SECONDS = 10.0
"""Without a terminal (a log file, a batch system) a plain line appears at most this often."""

_SHOWN_FAILURES = 20


class Console:
    """Where a command's words go: stdout, or stderr where stdout is kept for JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        click.echo(text, err=self._as_json)

    def warn(self, text: str) -> None:
        """Print a warning, always to stderr."""
        click.echo(f"warning: {text}", err=True)

    def wait(self, what: str) -> None:
        """Tell someone at a terminal what is loaded before the first line: torch alone may take seconds to import."""
        if sys.stderr.isatty() and not self._as_json:
            click.echo(f"loading {what} ...", err=True)

    def finish(self, result: dict[str, Any]) -> None:
        """Print the result as JSON, if it was asked for; must be the last thing printed."""
        if self._as_json:
            click.echo(json.dumps(result))


class Progress:
    """A bar on a terminal, plain lines elsewhere; both with rate and time left, both to stderr.

    Args:
        what: the work's name.
        total: all of it.
        unit: what is counted.
        initial: how much was done before the clock starts, now; it does not count in the rate.
    """

    def __init__(self, what: str, total: int, unit: str = "images", initial: int = 0) -> None:
        self._what, self._total, self._unit, self._initial = what, total, unit, initial
        self._done = initial
        self._started = self._last_line = self._last_done = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=what, unit=f" {unit}", initial=initial, dynamic_ncols=True, smoothing=0.1)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._done:
            self._line("", self._last_done)  # what came after the work, before the next, is not its time

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count work done.

        Args:
            count: how much more.
            note: a few words on the state, shown behind the figures.
        """
        now = time.monotonic()
        self._done += count
        if count:
            self._last_done = now
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif now - self._last_line >= _PLAIN_LINE_SECONDS:
            self._line(note, now)

    def _line(self, note: str, now: float) -> None:
        self._last_line = now
        text = f"{self._what} {self._done}/{self._total}"
        if rate := (self._done - self._initial) / max(now - self._started, 1e-9):
            left = tqdm.format_interval((self._total - self._done) / rate)
            text += f", {rate:.2f} {self._unit}/s, {left} left"
        click.echo(f"{text}, {note}" if note else text, err=True)


class Failures:
    """The reasons of what failed: the first as they come, and on leaving how many there are more; to stderr."""

    def __init__(self) -> None:
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._count > _SHOWN_FAILURES:
            click.echo(f"failed: {self._count - _SHOWN_FAILURES} more", err=True)

    def add(self, reason: str) -> None:
        """Count one, and show it where it is among the first."""
        self._count += 1
        if self._count <= _SHOWN_FAILURES:
            click.echo(f"failed: {reason}", err=True)


class Stages:
    """Progress of work that goes through stages: one `Progress` after the other.

    A stage's clock starts when it is first shown. What is done by then, its first step or all that an earlier run did,
    does not count in the rate.
    """

    def __init__(self) -> None:
        self._shown = ("", 0)
        self._done = 0
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, trace)

    def show(self, stage: str, done: int, total: int, note: str = "", unit: str = "images") -> None:
        """Show how far a stage is; another stage's name, or another total, ends the one before.

        Args:
            stage: its name.
            done: how much of it is done, of `total`.
            total: all of it.
            note: a few words on the state.
            unit: what is counted.
        """
        if (stage, total) != self._shown or done < self._done or self._progress is None:
            if self._progress is not None:
                self._progress.__exit__(None, None, None)
            self._shown, self._done, self._progress = (stage, total), done, Progress(stage, total, unit, initial=done)
        self._progress.advance(done - self._done, note)
        self._done = done


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 for people; - for None."""
    return "-" if share is None else f"{share:.{digits}%}"


def human_bytes(count: float) -> str:
    """A number of bytes for people, decimal units: 600 MB is 600,000,000."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def human_seconds(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length, next_one in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 2 * 86400)):
        if seconds < next_one:
            return f"{seconds / length:.0f} {unit}" if seconds >= 10 * length else f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"
