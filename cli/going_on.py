"""How to go on with a run: the command for it, also where its folder was moved since its settings were written."""

import shlex
import tomllib
from contextlib import suppress
from pathlib import Path

import click
from click.core import ParameterSource

from cli.options import SETTINGS_FILE
from storage.paths import is_remote

_SETTINGS = "settings.toml"
"""Where a run writes its own; what else lies in its folder was put there by somebody."""

_OF_A_RUN = ("ledger.sqlite", "states")
"""Of labels, and of a training."""


def command_to_go_on(command: str, root: Path) -> str:
    """The command that goes on with a run where it is now, quoted for a shell.

    Args:
        command: `label` or another that reads the run's settings.
        root: folder of the run.
    """
    settings = root / _SETTINGS
    text = f"autocoarse {command} --settings {shlex.quote(str(settings))}"
    if is_remote(root):
        return text
    with suppress(OSError, ValueError):  # settings that cannot be read say nothing of a folder
        out = tomllib.loads(settings.read_text("utf-8")).get(command, {}).get("out")
        if isinstance(out, str) and Path(out).resolve() != root.resolve():
            text += f" --out {shlex.quote(str(root))}"
    return text


def refuse_moved_run(ctx: click.Context) -> None:
    """Refuse to begin a run anew in the folder that one had before it was moved.

    Args:
        ctx: of a command with --settings and --out.

    Raises:
        click.UsageError: the settings are a run's own, and --out, which they alone name, is another folder without one.
    """
    settings, out = ctx.meta.get(SETTINGS_FILE), ctx.params["out"]
    if settings is None or ctx.get_parameter_source("out") is not ParameterSource.DEFAULT_MAP:
        return
    if settings.name != _SETTINGS:
        return
    if is_remote(settings) or is_remote(out) or not _holds_run(settings.parent) or _holds_run(out):
        return
    here = shlex.quote(str(settings.parent))
    raise click.UsageError(
        f"{settings} is of a run that was moved or copied: as its --out it names {out}, where there is none. Say --out "
        f"{here} to go on with it, or another --out to begin anew"
    )


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in _OF_A_RUN)
