"""The workspace: whole files or none, nothing outside it, one writer at a time."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import WorkspaceError
from storage.workspace import Workspace, remove_partial_files, write_atomically


@given(st.text(min_size=1))
def test_no_key_leads_out_of_the_workspace(key: str) -> None:
    """A label path lies below labels/, or the key is refused."""
    workspace = Workspace(Path("/nowhere/run"))
    try:
        path = workspace.label_path(key)
    except (WorkspaceError, ValueError):  # ValueError: a NUL byte, which no file name can hold
        return
    assert Path(os.path.normpath(path)).is_relative_to(workspace.labels)


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", ""])
def test_keys_that_climb_are_refused(key: str) -> None:
    """Absolute keys, parents and nothing at all are errors."""
    with pytest.raises(WorkspaceError, match="no relative path"):
        Workspace(Path("run")).label_path(key)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    """A folder that is a link to elsewhere is not written through."""
    workspace = Workspace(tmp_path / "run")
    workspace.prepare()
    (tmp_path / "elsewhere").mkdir()
    (workspace.labels / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError, match="leads out"):
        workspace.label_path("a/x")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills while a file is replaced, the old content stays and the temporary file goes."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match=r"No space left.*run the same command again"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    """A temporary name does not grow with the file's, which may be as long as the file system allows."""
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


def test_files_are_readable_like_any_other(tmp_path: Path) -> None:
    """A published file has the usual permissions, not those of a temporary file."""
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "ours", b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_was_left_half_written_is_thrown_away(tmp_path: Path) -> None:
    """A killed process's temporary files are gone after the next start."""
    workspace = Workspace(tmp_path / "run")
    workspace.prepare()
    (workspace.scratch / ".a.png.123.partial").write_bytes(b"half")
    workspace.prepare()
    assert list(workspace.scratch.iterdir()) == []


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Two runs never write one workspace at the same time."""
    workspace = Workspace(tmp_path / "run")
    lock = workspace.lock()
    with pytest.raises(WorkspaceError, match="in use by another"):
        workspace.lock()
    lock.release()
    workspace.lock().release()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A file in the way of the output folder is one clear error."""
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="cannot use"):
        Workspace(tmp_path / "file" / "run").lock()


def test_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a write leaves the old file and no other."""
    write_atomically(tmp_path / "a", b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Half-written files of a killed process go, and nothing else does."""
    for name in (".abc.partial", "step.pt", ".lock", "x.partial"):
        (tmp_path / name).write_bytes(b"")
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step.pt", "x.partial"]
