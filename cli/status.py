"""`autocoarse status`: how runs of labels stand, from another terminal, at work or afterwards."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.console import Console
from cli.exit_codes import ExitCode
from cli.folders import FOLDER_OR_URL
from cli.options import json_option, settings_option

if TYPE_CHECKING:
    from cli.status_view import Look

_READING_SHARE = 5
"""Watching pauses for so many times as long as a look took, so that it costs a large run little."""


@click.command()
@settings_option
@click.argument("runs", type=FOLDER_OR_URL, nargs=-1, required=True, metavar="RUN...")
@click.option("--watch", is_flag=True, help="Look again and again, until no RUN is at work.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=5.0,
    show_default=True,
    help="Seconds between two looks of --watch; more where a look takes long.",
)
@json_option
def status(*, runs: tuple[Path, ...], watch: bool, interval: float, as_json: bool) -> None:
    """Tell how a RUN (what `label`, `merge` or `rethreshold` made) stands, while it works or afterwards.

    Nothing is written, and no run is disturbed. Several RUNs are a line each, and one for all. With --watch and --json
    each look is a line of JSON. Exit 0: all is done, or a RUN is at work; 3: images are failed or left, and nobody is
    at work on them; 1: a RUN cannot be read.
    """
    console = Console(as_json=as_json)
    screen = _Screen(console, redraws=watch and not as_json and sys.stdout.isatty())
    code = ExitCode.DONE
    try:
        for look in _looks(runs, interval) if watch else [_look(runs)]:
            screen.show(_lines(look, in_short=watch and look.at_work and not screen.redraws))
            console.finish(look.as_json())
            code = look.exit_code
    except KeyboardInterrupt:
        click.echo(err=True)  # ends the line in which the terminal shows ^C; there is nothing to go on with
        code = ExitCode.INTERRUPTED
    if code is not ExitCode.DONE:
        raise SystemExit(code)


def _looks(runs: tuple[Path, ...], interval: float) -> Iterator["Look"]:
    """Look until no run is at work."""
    while True:
        started = time.monotonic()
        look = _look(runs)
        took = time.monotonic() - started
        yield look
        if not look.at_work:
            return
        time.sleep(max(interval - took, _READING_SHARE * took))


def _look(runs: tuple[Path, ...]) -> "Look":
    """Look at each run; one of several that cannot be read does not hide the others."""
    from cli.status_view import Look
    from pipeline.status import read_status
    from storage.errors import MissingFileError, WorkspaceError
    from storage.paths import path_text
    from storage.workspace import Workspace

    found, unreadable = [], []
    for run in runs:
        try:
            found.append(read_status(Workspace.holding(run) or Workspace(run)))
        except (WorkspaceError, MissingFileError) as error:
            if len(runs) == 1:
                raise
            unreadable.append((path_text(run), str(error)))
    return Look(tuple(found), tuple(unreadable))


def _lines(look: "Look", *, in_short: bool) -> list[str]:
    from cli.status_view import block

    return look.lines() if in_short or len(look.runs) != 1 or look.unreadable else block(look.runs[0])


class _Screen:
    """Where looks are shown: one over the other on a terminal, one below the other elsewhere."""

    def __init__(self, console: Console, *, redraws: bool) -> None:
        self.redraws = redraws
        self._console = console
        self._rows = 0

    def show(self, lines: list[str]) -> None:
        """Show a look."""
        from cli.status_view import cut

        if self.redraws:
            lines = cut(lines, shutil.get_terminal_size().columns)
            if self._rows:
                click.echo(f"\x1b[{self._rows}F\x1b[J", nl=False)
            self._rows = len(lines)
        for line in lines:
            self._console.say(line)
