"""Folders that appear whole: of two processes one builds, whenever the other has ended."""

import fcntl
import shutil
from pathlib import Path

import pytest

from storage.errors import WorkspaceError
from storage.lock_look import is_taken
from storage.new_folder import locked, new_folder


def test_a_lock_whose_file_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who had the lock removes its folder just before letting go: whoever waits holds the file that others find."""
    folder, flock = tmp_path / "scratch", fcntl.flock
    folder.mkdir()
    removed: list[Path] = []

    def late(descriptor: int, operation: int) -> None:
        if not removed:
            removed.append(folder)
            shutil.rmtree(folder)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(folder / ".lock", tmp_path / "out"):
        assert removed
        assert is_taken(folder / ".lock")


def test_only_one_builds_at_a_time(tmp_path: Path) -> None:
    """While a folder is built, another attempt is told so; then it may take the place."""
    out = tmp_path / "out"
    with new_folder(out, lambda _: None) as new:
        (new / "a").touch()
        with pytest.raises(WorkspaceError, match="another autocoarse process makes"), new_folder(out, lambda _: None):
            pass
    with new_folder(out, lambda _: None) as new:
        (new / "b").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["b"]
