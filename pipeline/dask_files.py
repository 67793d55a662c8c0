"""A file that workers lack: given to the scheduler once, kept there under its hash, and fetched by those who need it.

It goes in pieces, so that neither the scheduler nor a worker holds it in memory.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from distributed import Client, Scheduler, Worker
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.utils import sync

from storage.errors import WorkerError
from storage.object_io import file_digest

_PIECE = 8 << 20

PLUGIN = "autocoarse-files"


class FileKeeper(SchedulerPlugin):
    """Keeps files in the scheduler's temporary folder, by hash, until the run is over."""

    name = PLUGIN
    idempotent = True  # one serves all runs

    async def start(self, scheduler: Scheduler) -> None:
        """Answer those who give and those who fetch."""
        self._folder = Path(tempfile.mkdtemp(prefix="autocoarse-"))
        scheduler.handlers["autocoarse_put"] = self.put
        scheduler.handlers["autocoarse_get"] = self.get

    async def before_close(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, digest: str, offset: int, piece: bytes, *, is_last: bool) -> None:
        """Take a piece of a file; with the last one the file is there."""
        partial = self._path(digest).with_suffix(".partial")
        with partial.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)
        if is_last:
            partial.replace(self._path(digest))

    def get(self, digest: str, offset: int) -> bytes | None:
        """Give a piece of a file, empty at its end; None: there is no such file."""
        try:
            with self._path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(_PIECE)
        except FileNotFoundError:
            return None

    def _path(self, digest: str) -> Path:
        if not (len(digest) == 64 and digest.isalnum()):
            raise ValueError(f"{digest!r} is no sha256")
        return self._folder / digest


def give_file(client: Client, path: Path, digest: str) -> None:
    """Give a file to the scheduler, for workers to fetch.

    Raises:
        OSError: the file cannot be read.
    """
    client.register_plugin(FileKeeper())
    put = client.scheduler.autocoarse_put  # type: ignore[union-attr] # a connected client has one
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset in range(0, max(1, size), _PIECE):
            piece = file.read(_PIECE)
            is_last = offset + len(piece) >= size
            client.sync(put, digest=digest, offset=offset, piece=piece, is_last=is_last)


def fetch_file(worker: Worker, path: Path, digest: str, folder: Path) -> Path | None:
    """Find a file where it is said to be, or among those fetched before, or fetch it.

    Args:
        worker: that needs it; called in one of its threads.
        path: where the driver has it.
        digest: its sha256.
        folder: of the worker, for what it fetches.

    Returns:
        The file; None: the scheduler does not have it.

    Raises:
        WorkerError: what came is not the file.
    """
    kept = folder / f"autocoarse-{digest}"
    for candidate in (path, kept):
        if candidate.is_file() and file_digest(candidate) == digest:
            return candidate
    partial = kept.with_suffix(".partial")
    hashed = hashlib.sha256()
    with partial.open("wb") as file:
        while True:
            # a scheduler that was never given a file has nothing that answers, which dask makes None of too
            piece = sync(worker.loop, worker.scheduler.autocoarse_get, digest=digest, offset=file.tell())
            if piece is None:
                partial.unlink()
                return None
            if not piece:
                break
            hashed.update(piece)
            file.write(piece)
    if hashed.hexdigest() != digest:
        partial.unlink()
        raise WorkerError(f"{path}: what the scheduler has sent is another file, by its hash")
    partial.replace(kept)
    return kept
