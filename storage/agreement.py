"""Whether files are those that a ledger's entries speak of: by size and time, and by hash only where these differ."""

from pathlib import Path

from storage.errors import WorkspaceError
from storage.ledger import Entry
from storage.object_io import file_digest, file_info


def label_agrees(entry: Entry, path: Path) -> bool:
    """Whether a label file is the one its entry speaks of: size and time, or, where only the time differs, the hash.

    A run that was copied to another disk has other times; it is not labelled again for that.
    """
    return file_agrees(path, entry.bytes, entry.modified_ns, entry.sha256)


def image_agrees(entry: Entry, path: Path) -> bool:
    """Whether an image is the one that its entry was made from, by the same rule."""
    return file_agrees(path, entry.image_bytes, entry.image_modified_ns, entry.image_sha256)


def file_agrees(path: Path, size: int, modified_ns: int, digest: str) -> bool:
    """Whether a file is the one that was recorded, by the same rule."""
    try:
        found = file_info(path)
        return found.size == size and (found.modified_ns == modified_ns or file_digest(path) == digest)
    except WorkspaceError:
        raise  # a store that does not answer says nothing of the file
    except OSError:  # missing, a dangling link, a folder, not readable: nothing that could be believed
        return False
