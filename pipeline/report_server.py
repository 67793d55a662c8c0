"""A report served on loopback, for machines whose browser opens no files: this folder alone, to this machine alone.

It listens and answers; who starts it, and says where, is the command line.
"""

from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from storage.errors import WorkspaceError

HOST = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """Listens on loopback."""

    @property
    def url(self) -> str:
        """Where the report is."""
        return f"http://{HOST}:{self.server_port}/"


def serve(folder: Path, port: int = 0) -> Server:
    """Listen for browsers of this machine; `serve_forever` answers them until it is interrupted.

    Args:
        folder: of the report.
        port: to listen on; 0: any that is free.

    Raises:
        WorkspaceError: the port is taken, or not allowed.
    """
    try:
        return Server((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise WorkspaceError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}; choose another --port, or 0 for any free one"
        ) from error


class _Handler(SimpleHTTPRequestHandler):
    """Answers with the folder's files, and says nothing of it."""

    def send_head(self) -> Any:  # noqa: ANN401 - as in the base
        # a page from elsewhere may have its own name resolved to this machine, and must not read the images
        assert isinstance(self.server, Server), "nobody else has this handler"
        names = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        if self.headers.get("Host") not in names:
            self.send_error(HTTPStatus.FORBIDDEN, "another host's name")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> IO[bytes] | None:  # type: ignore[override] # noqa: ANN401, ARG002 - as in the base
        self.send_error(HTTPStatus.NOT_FOUND, "no list of files")
        return None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - as in the base
        pass
