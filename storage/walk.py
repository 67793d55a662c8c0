"""What a walk over a data set finds: files by name, size and time, whatever holds them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a folder."""

    relative: str
    """Posix path below the folder."""
    size: int
    """Bytes."""
    modified_ns: int
    """When it was last written, in ns since 1970."""
