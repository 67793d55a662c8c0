"""A walk over the objects of a store, page by page: neither the whole listing nor a stale one is ever in memory."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from storage.object_io import filesystem, find_file, info_of, location, patiently
from storage.paths import is_remote, path_text
from storage.walk import FoundFile, walk_files

PAGE = 1000
"""Objects a request; S3 gives no more."""


def walk_objects(root: Path) -> Iterator[FoundFile]:
    """The objects below a place in a store; those with a hidden name, or below one, are left out.

    Args:
        root: the place; nothing there is no objects.

    Raises:
        WorkspaceError: the store cannot be read.
    """
    store = filesystem(root)
    walk = _walk_s3 if hasattr(store, "call_s3") else _walk_folders
    for relative, facts in walk(store, root):
        if not any(part.startswith(".") for part in relative.split("/")):
            found = info_of(facts)
            yield FoundFile(relative, found.size, found.modified_ns)


def walk(root: Path, exclude: Sequence[Path] = (), strange: list[str] | None = None) -> Iterator[FoundFile]:
    """As `walk_files`, on the disk or in a store."""
    if not is_remote(root):
        yield from walk_files(root, [path for path in exclude if not is_remote(path)], strange)
        return
    left_out = [f"{path_text(path)}/" for path in exclude if is_remote(path)]
    runs: dict[str, bool] = {}
    for file in walk_objects(root):
        if f"{path_text(root)}/{file.relative}".startswith(tuple(left_out)):
            continue
        before, labels, _ = f"/{file.relative}".partition("/labels/")
        if labels and before not in runs:
            runs[before] = find_file(root / f"{before}/ledger.sqlite".lstrip("/")) is not None
        if not (labels and runs[before] and before):
            yield file


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; in a store, whether anything is below it."""
    return next(walk_objects(path), None) is not None if is_remote(path) else path.is_dir()


def _walk_s3(store: Any, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - s3fs has no types
    """All keys with a prefix, in the order of the keys."""
    bucket, _, key = location(root).strip("/").partition("/")
    prefix = f"{key}/" if key else ""
    more: dict[str, str] = {}
    while True:
        ask = partial(store.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **more)
        page = patiently("cannot list", root, ask)
        for facts in page.get("Contents", ()):
            if not facts["Key"].endswith("/"):  # a folder that a console has made
                yield facts["Key"].removeprefix(prefix), facts
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _walk_folders(store: Any, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - as above
    """Folder by folder, as the other stores list; what is gone meanwhile is left out."""
    start = location(root).rstrip("/")
    folders = [start]
    while folders:
        folder = folders.pop()
        try:
            found = patiently("cannot list", root, partial(store.ls, folder, detail=True))
        except FileNotFoundError:
            continue
        by_name = sorted(found, key=lambda facts: str(facts["name"]))
        folders += [facts["name"] for facts in reversed(by_name) if facts["type"] == "directory"]
        for facts in by_name:
            if facts["type"] != "directory":
                yield str(facts["name"]).removeprefix(start).lstrip("/"), facts
