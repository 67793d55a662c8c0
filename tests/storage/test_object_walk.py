"""Objects listed, read and tried again, in a store that lives in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import object_io
from storage.errors import MissingFileError, WorkspaceError
from storage.layouts import list_images
from storage.object_io import file_info, find_file, patiently, put_object, read_file, remove_file
from storage.object_walk import is_folder, walk_objects
from storage.paths import as_path
from storage.walk import FoundFile


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty place in memory."""
    import fsspec

    yield as_path("memory://walked/data")
    if (store := fsspec.filesystem("memory")).exists("/walked"):
        store.rm("/walked", recursive=True)


def test_a_walk_finds_files_with_size_and_time(place: Path) -> None:
    """Each visible file once, as `file_info` tells it; hidden files and what lies in hidden folders are left out."""
    for name in ("b.png", "a/2.png", "a/1/x.png", ".hidden.png", "a/.cache/y.png", "c d/ä#.png"):
        put_object(place / name, name.encode())
    found = list(walk_objects(place))
    assert {one.relative for one in found} == {"b.png", "a/2.png", "a/1/x.png", "c d/ä#.png"}
    for one in found:
        info = file_info(place / one.relative)
        assert one == FoundFile(one.relative, info.size, info.modified_ns)
        assert one.size == len(one.relative.encode())


def test_a_walk_is_never_stale(place: Path) -> None:
    """What is written, replaced or deleted between two walks is seen by the second."""
    assert list(walk_objects(place)) == []
    assert not is_folder(place)
    put_object(place / "a.png", b"1")
    put_object(place / "b.png", b"1")
    assert is_folder(place)
    assert len(list(walk_objects(place))) == 2
    put_object(place / "a.png", b"longer")
    remove_file(place / "b.png")
    remove_file(place / "b.png")
    assert [(one.relative, one.size) for one in walk_objects(place)] == [("a.png", 6)]


def test_images_in_a_store_are_listed_as_on_a_disk(place: Path) -> None:
    """Keys, suffixes, clashes and Cityscapes' folders as on a disk; runs among the images are left out."""
    for name in (
        "a/1.jpg",
        "a/1.png",
        "b.PNG",
        "notes.txt",
        "old/labels/b.png",
        "old/ledger.sqlite",
        "new/labels/b.png",
    ):
        put_object(place / name, b"")
    listing = list_images(place, exclude=[place / "new"])
    assert [(item.key, item.image) for item in listing.items] == [("b", place / "b.PNG")]
    assert [name for name, _ in listing.problems] == ["a/1.jpg", "a/1.png"]
    put_object(place / "leftImg8bit/train/x_leftImg8bit.png", b"")
    (item,) = list_images(place, "cityscapes").items
    assert item.key == "train/x_leftImg8bit"


def test_what_is_missing_is_none_or_an_error(place: Path) -> None:
    """Looking for a file gives None where there is none; reading it, and looking at it, are errors."""
    put_object(place / "folder/a.png", b"1")
    assert find_file(place / "b.png") is None
    assert find_file(place / "folder") is None
    for call in (file_info, read_file):
        with pytest.raises(MissingFileError, match="there is no such object"):
            call(place / "b.png")


class _Store(Exception):  # noqa: N818 - stands for a store's own
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def _failing(error: Exception, times: int) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return call, calls


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(16, "busy"),
        _Store(503, "SlowDown"),
        _Store(500, ""),
        _Store(429, ""),
    ],
)
def test_what_passes_is_tried_again(place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A failure that passes costs a pause that doubles with each attempt, up to the stated number of them."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    call, calls = _failing(error, 3)
    assert (patiently("cannot try", place, call), len(calls)) == ("done", 4)
    for number, pause in enumerate(pauses):
        assert 0.5 <= pause / (object_io.FIRST_PAUSE * 2**number) <= 1
    call, calls = _failing(error, 99)
    with pytest.raises(WorkspaceError, match=f"tried {object_io.ATTEMPTS} times"):
        patiently("cannot try", place, call)
    assert len(calls) == object_io.ATTEMPTS


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_Store(403, "AccessDenied"), "refuses these credentials"),
        (PermissionError(13, "no"), "refuses these credentials"),
        (_Store(404, "NoSuchBucket"), "no such bucket"),
        (_Store(400, "InvalidRequest"), "check that the store is there"),
    ],
)
def test_what_stays_is_said_at_once(place: Path, error: Exception, told: str) -> None:
    """No permission, no bucket or a request that is wrong is one attempt and a message that says what to do."""
    call, calls = _failing(error, 99)
    with pytest.raises(WorkspaceError, match=told):
        patiently("cannot try", place, call)
    assert len(calls) == 1
