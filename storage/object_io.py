"""Files read and written wherever they are: at once on the disk, with patience in a store.

A store's object is written by one request, whole or not at all. What passes (a connection that is cut, a time-out, a
server that is out of breath) is tried again, what does not (no permission, no bucket) is said at once.
"""

import errno
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import AutocoarseError, MissingFileError, WorkspaceError
from storage.paths import is_remote, path_text

ATTEMPTS = 7
"""How often a request is tried, all in all."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds before the second attempt at most; they double from there. In all some 16 s, and the time-outs."""

_PASSING_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted"}
)
_PASSING_ERRNOS = frozenset(
    {errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
# by name, as the packages that define them are only there where their store is used
_PASSING_NAMES = frozenset(
    {
        "HTTPClientError",
        "ClientPayloadError",
        "ClientConnectionError",
        "FSTimeoutError",
        "IncompleteRead",
        "ResponseParserError",
    }
)
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
    }
)
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")

_SECOND = 1_000_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file without reading it."""

    size: int
    modified_ns: int
    """When it was written, in ns since 1970; of an object in whole seconds, as HEAD tells no more."""
    tag: str = ""
    """Of an object, another for another content."""


def filesystem(path: Path) -> Any:  # noqa: ANN401 - fsspec has no types
    """The fsspec file system of a path in a store."""
    store = path.fs  # type: ignore[attr-defined] # a UPath
    if hasattr(store, "retries"):
        store.retries = 1  # as in `storage.paths`: one place tries again
    return store


def location(path: Path) -> str:
    """What a path in a store is called there, without its scheme."""
    return str(path.path)  # type: ignore[attr-defined] # a UPath


def patiently(what: str, path: Path, call: Callable[[], T]) -> T:
    """Make a request to a store, again where it fails for a reason that passes.

    Args:
        what: is done, for the message: "cannot write".
        path: that it is about, for the message.
        call: the request.

    Raises:
        MissingFileError: there is no such object.
        WorkspaceError: no permission, no bucket, no credentials, or still a failure at the last attempt.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except AutocoarseError:
            raise
        except Exception as error:
            if not _passes(error) or attempt + 1 == ATTEMPTS:
                raise _explained(what, path, error, attempt + 1) from error
        # between half of the time and all of it, so that many who failed together do not come back together
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311 - no secret
    raise AssertionError("the last attempt returns or raises")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__  # its context may be an earlier answer, to another request


def _answer(error: BaseException) -> tuple[int, str]:
    """Status and code of the store's answer; 0 and nothing where there was none."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            found = response.get("Error", {})
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), str(found.get("Code", ""))
        status = getattr(one, "status", getattr(one, "code", None))
        if isinstance(status, int):
            return status, ""
    return 0, ""


def _passes(error: Exception) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if any(kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__):
        return True  # first of all, as what is half an answer may have a status as well
    status, code = _answer(error)
    if status:
        return (status >= 500 and status != 501) or status in (408, 429) or code in _PASSING_CODES
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def _explained(what: str, path: Path, error: Exception, attempts: int) -> AutocoarseError:
    status, code = _answer(error)
    said = f"{what} {path_text(path)}: {error}"
    if code == "NoSuchBucket":
        return WorkspaceError(f"{said}; there is no such bucket: make it first, or correct the URL")
    if isinstance(error, PermissionError) or status in (401, 403):
        return WorkspaceError(
            f"{said}; the store refuses these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
            f"AWS_PROFILE, AWS_ENDPOINT_URL, and that they may list, read and write there"
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingFileError(f"{said}; there is no such object")
    if any(type(one).__name__ in _NO_CREDENTIALS for one in _chain(error)):
        return WorkspaceError(
            f"{said}; give credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    tries = f"tried {attempts} times; " if attempts > 1 else ""
    return WorkspaceError(
        f"{said or type(error).__name__}; {tries}check that the store is there (AWS_ENDPOINT_URL for one that is not "
        f"Amazon's), and run the same command again: it goes on where it stopped"
    )


def file_info(path: Path) -> FileInfo:
    """Size and time of a file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be looked at.
        WorkspaceError: as `patiently`.
    """
    if not is_remote(path):
        found = path.stat()
        return FileInfo(found.st_size, found.st_mtime_ns)
    store = filesystem(path)
    if hasattr(store, "call_s3"):  # `info` lists what is not there as well, to see whether it is a folder
        bucket, _, key = location(path).partition("/")
        look = partial(store.call_s3, "head_object", Bucket=bucket, Key=key)
    else:
        look = partial(store.info, location(path))
    facts = patiently("cannot look at", path, look)
    if facts.get("type") == "directory":
        raise MissingFileError(f"{path_text(path)}: there is no such object")
    return info_of(facts)


def find_file(path: Path) -> FileInfo | None:
    """Size and time of a file, None where there is none.

    Raises:
        WorkspaceError: as `patiently`.
    """
    try:
        return file_info(path)
    except FileNotFoundError:
        return None


def info_of(facts: dict[str, Any]) -> FileInfo:
    """What fsspec, or S3 itself, tells of an object."""
    moment = next((facts[name] for name in _TIMES if facts.get(name)), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    size = next((int(facts[name]) for name in ("size", "Size", "ContentLength") if facts.get(name)), 0)
    tag = next((str(facts[name]) for name in ("ETag", "etag", "md5Hash") if facts.get(name)), f"{size}-{moment}")
    return FileInfo(size, int(moment) * _SECOND, tag)


def read_file(path: Path) -> bytes:
    """The content of a file, in one request.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        WorkspaceError: as `patiently`.
    """
    if not is_remote(path):
        return path.read_bytes()
    store = filesystem(path)
    # s3fs looks at an object first, to read a large one in parts at a time
    how = {"max_concurrency": 1} if hasattr(store, "call_s3") else {}
    content: bytes = patiently("cannot read", path, lambda: store.cat_file(location(path), **how))
    return content


def read_head(path: Path, count: int) -> bytes:
    """The first bytes of an object, or all of a smaller one; nothing of one that is missing or empty.

    Raises:
        WorkspaceError: as `patiently`.
    """
    store = filesystem(path)
    try:
        content: bytes = patiently("cannot read", path, lambda: store.cat_file(location(path), start=0, end=count))
    except FileNotFoundError:
        return b""
    except WorkspaceError as error:
        if error.__cause__ is not None and _answer(error.__cause__)[0] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        raise
    return content


def file_digest(path: Path) -> str:
    """Hash of a file, sha256 in hexadecimal.

    Raises:
        OSError, WorkspaceError: as `read_file`.
    """
    if is_remote(path):
        return hashlib.sha256(read_file(path)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_object(path: Path, content: bytes) -> None:
    """Write an object, in one request: whole or not at all.

    Raises:
        WorkspaceError: as `patiently`.
    """
    store = filesystem(path)
    patiently("cannot write", path, lambda: store.pipe_file(location(path), content))


def put_file(path: Path, local: Path) -> None:
    """Write an object from a file of the disk; it appears whole, also where a large one is sent in parts.

    Raises:
        WorkspaceError: as `patiently`.
    """
    store = filesystem(path)
    patiently("cannot write", path, lambda: store.put_file(str(local), location(path)))


def get_file(path: Path, local: Path) -> None:
    """Copy an object to the disk.

    Raises:
        WorkspaceError, MissingFileError: as `patiently`.
    """
    store = filesystem(path)
    patiently("cannot read", path, lambda: store.get_file(location(path), str(local)))


def remove_file(path: Path) -> None:
    """Remove a file, where there is one.

    Raises:
        WorkspaceError: as `patiently`.
    """
    if not is_remote(path):
        path.unlink(missing_ok=True)
    elif find_file(path) is not None:  # who may not delete is not troubled where there is nothing to delete
        patiently("cannot delete", path, lambda: filesystem(path).rm_file(location(path)))
