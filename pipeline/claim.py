"""The output folder of a command that runs several stages: claimed by its settings, closed to any other work.

What the stages put into it is theirs; each looks after its own folder below it.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.distributed import launched_from_outside
from pipeline.settings import Settings, settings_difference
from storage.errors import ForeignSettingsError, SettingsError
from storage.workspace import Workspace

AnySettings = TypeVar("AnySettings", bound=Settings)


@contextmanager
def claimed_folder(
    path: Path, table: str, settings: AnySettings, decisive: Callable[[AnySettings], Mapping[str, Any]]
) -> Iterator[None]:
    """Hold a folder for this process while it works there, and leave the settings in it.

    Args:
        path: the TOML file that says whose the folder is; the folder is its parent, and is made where it is missing.
        table: the command, the file's table.
        settings: what it is to do now.
        decisive: those of the settings that must be as they were when the folder is taken up again.

    Raises:
        SettingsError: a launcher has started several processes, which would all run the stages.
        ForeignSettingsError: the folder holds work with other settings, or anything else; it is left unchanged.
        WorkspaceError: the folder cannot be written, or another process has it.
    """
    if launched_from_outside():
        raise SettingsError(
            f"`{table}` was started as one of several processes; start it once, on one machine: where more devices "
            f"are asked for, its training starts the processes itself"
        )
    _refuse_strangers(path, table)
    lock = Workspace(path.parent).lock()
    try:
        stored = _stored(path, table)
        if stored is not None:
            before = _parsed(path, type(settings), stored)
            if difference := settings_difference(decisive(before), decisive(settings)):
                raise ForeignSettingsError(
                    f"{path.parent} holds a run of `{table}` with other settings:\n{difference}\n"
                    f"choose another --out, or repeat the settings that are there"
                )
        settings.write(path, table)
        yield
    finally:
        lock.release()


def _stored(path: Path, table: str) -> dict[str, Any] | None:
    try:
        stored = tomllib.loads(path.read_text("utf-8")).get(table)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return stored if isinstance(stored, dict) else None


def _refuse_strangers(path: Path, table: str) -> None:
    """Never write into a folder that the command did not make; hidden files, such as a lock, do not count."""
    if path.parent.is_dir() and _stored(path, table) is None:
        stranger = next((found for found in path.parent.iterdir() if not found.name.startswith(".")), None)
        if stranger is not None:
            raise ForeignSettingsError(
                f"{path.parent} holds {stranger.name}, and no {path.name} with [{table}] says that it is a run of "
                f"`{table}`; choose a new or an empty folder with --out"
            )


def _parsed(path: Path, kind: type[AnySettings], stored: dict[str, Any]) -> AnySettings:
    try:
        return kind.checked(**stored)
    except SettingsError as error:
        raise ForeignSettingsError(
            f"{path}: these settings cannot be read by this autocoarse: {error}; choose another --out"
        ) from error
