"""Paths and URLs: a text becomes a path on this machine's disk, or one in an object store that looks the same.

What is in a store is reached through fsspec, whose schemes, settings and credentials hold. Nothing is read here.
"""

import re
from pathlib import Path
from typing import Any, cast

from storage.errors import SettingsError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:// is a drive

_EXTRAS = {
    "s3": "autocoarse[s3]",
    "s3a": "autocoarse[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""What is to be installed for a scheme."""


def is_url(text: str) -> bool:
    """Whether a text names a place by a URL, such as s3://bucket/images or file:///data."""
    return _URL.match(text) is not None


def as_path(text: str | Path) -> Path:
    """The path that a text names.

    Args:
        text: a path, or a URL that fsspec knows; what is a path already stays as it is.

    Returns:
        A path of this machine's disk, also for file://. For other URLs a `UPath`, which is no `Path` but has the
        methods of one that are used here: a place in a store, never listed from a cache.

    Raises:
        SettingsError: the scheme is unknown, or what speaks it is not installed.
    """
    if not isinstance(text, str):
        return text
    if not is_url(text):
        return Path(text)
    scheme = text.partition("://")[0].lower()
    if scheme in ("file", "local"):
        from fsspec.implementations.local import LocalFileSystem

        return Path(LocalFileSystem._strip_protocol(text))  # noqa: SLF001 - fsspec has no other name for it
    return cast(Path, _remote(scheme, text))


def _remote(scheme: str, text: str) -> object:
    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        needed = _EXTRAS.get(scheme, "the package that the error names")
        raise SettingsError(
            f"{text}: {scheme}:// needs a package that is not here ({error}); install {needed}"
        ) from error
    except ValueError as error:
        raise SettingsError(
            f"{text}: {scheme}:// is no scheme that fsspec knows; give a folder, or s3://..."
        ) from error
    # a listing that is cached grows stale while others write
    return UPath(text.rstrip("/"), use_listings_cache=False, **_options(scheme))


def _options(scheme: str) -> dict[str, Any]:
    """Options of a store's client on top of those that fsspec's own configuration has."""
    if scheme not in ("s3", "s3a"):
        return {}
    import fsspec.config

    given = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    # one place tries again: with the client's own five tries in each of ours, a store that is out of breath gets 25
    return {"config_kwargs": {**given, "retries": {"total_max_attempts": 1}}}


def is_remote(path: Path) -> bool:
    """Whether a path is in a store and not on this machine's disk."""
    return not isinstance(path, Path)


def path_text(path: Path) -> str:
    """A path as `as_path` reads it: of a place in a store its URL."""
    return str(path).rstrip("/") if is_remote(path) else str(path)  # only of a whole bucket there is a slash


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or below it; links on the disk are followed."""
    if is_remote(path) != is_remote(folder):
        return False
    if is_remote(path):
        return f"{path_text(path)}/".startswith(f"{path_text(folder)}/")
    return path.resolve().is_relative_to(folder.resolve())
