"""Files of another run: taken together and whole, as links or as copies, or not at all."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from storage.adoption import Adopted
from storage.errors import LabelError, WorkspaceError
from storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A folder that takes files from beside it: `one` and `two`."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    workspace = Workspace(tmp_path / "run")
    workspace.prepare()
    return workspace


def wanted(workspace: Workspace, name: str, content: bytes) -> Adopted:
    """A file that is to hold a content."""
    return Adopted(workspace.root.parent / name, workspace.labels / f"a/{name}", sha256(content).hexdigest())


def refuse(*_: object) -> None:
    """What linking across disks does."""
    raise OSError(18, "Invalid cross-device link")


@pytest.mark.parametrize("links", [True, False])
def test_files_are_taken_whole_by_link_or_by_copy(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Either way they are there, once or twice, and nothing is left over; a copy is readable as any file is."""
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    files = [wanted(workspace, name, name.encode()) for name in ("one", "two")]
    for _ in range(2):
        assert workspace.adopt_together(files) is links
        assert [file.path.read_bytes() for file in files] == [b"one", b"two"]
        assert files[0].path.samefile(files[0].source) is links
        assert files[0].path.stat().st_mode == files[0].source.stat().st_mode
        assert not list(workspace.scratch.iterdir())


@pytest.mark.parametrize("second", ["two", "three"])
def test_where_one_is_not_as_it_should_be_none_is_taken(workspace: Workspace, second: str) -> None:
    """A wrong hash or a missing file is an error that names the file, and what was there before stays."""
    first = wanted(workspace, "one", b"one")
    first.path.parent.mkdir()
    first.path.write_bytes(b"before")
    with pytest.raises(LabelError, match=second):
        workspace.adopt_together([first, wanted(workspace, second, b"otherwise")])
    assert first.path.read_bytes() == b"before"
    assert sorted(workspace.labels.rglob("*")) == [workspace.labels / "a", first.path]
    assert not list(workspace.scratch.iterdir())


def test_what_cannot_be_written_is_the_workspaces_error(workspace: Workspace) -> None:
    """It is no fault of the file, and ends the work."""
    (workspace.labels / "a").write_bytes(b"no folder")
    with pytest.raises(WorkspaceError, match="cannot make folder"):
        workspace.adopt_together([wanted(workspace, "one", b"one")])
    workspace.tidy()
    with pytest.raises(WorkspaceError, match="cannot write to"):
        workspace.adopt_together([wanted(workspace, "one", b"one")])
