"""A store that speaks S3, in a process of its own, and a proxy before it that spoils requests on the way."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest


class Request(NamedTuple):
    """A request that the proxy has seen."""

    number: int
    method: str
    path: str


Fault = Callable[[Request], str]
"""What becomes of a request: "", "cut", "late", "torn" or a status."""

_ERRORS = {
    "503": "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    "403": "<Error><Code>InvalidAccessKeyId</Code><Message>The access key is not known.</Message></Error>",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: "Proxy"

    def handle_one_request(self) -> None:
        """Take one request, whatever its method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.count(self.command, self.path)
        if fault == "cut":
            self._hang_up()
        elif fault in _ERRORS:
            self._answer(int(fault), {"Content-Type": "application/xml"}, _ERRORS[fault].encode())
        else:
            status, headers, content = self._ask(body)
            if fault == "late":
                self._hang_up()
            else:
                self._answer(status, headers, content, torn=fault == "torn")

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)) as store:
            store.request(self.command, self.path, body, dict(self.headers.items()))
            answer = store.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, torn: bool = False) -> None:
        self.send_response_only(status)
        length = headers.pop("Content-Length", str(len(content)))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if torn else content)
        if torn:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Passes requests on to the store over real sockets, and counts them.

    A request may be cut before it is passed on, `late`: after it was and before the answer, or `torn`: in the middle of
    the answer; or it is answered with an error of the store's.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen: list[Request] = []
        self.spoilt = 0
        self.fault: Fault = lambda _: ""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def count(self, method: str, path: str) -> str:
        """Note a request, and say what becomes of it."""
        with self._lock:
            request = Request(len(self.seen), method, path)
            self.seen.append(request)
        fault = self.fault(request)
        self.spoilt += bool(fault)
        return fault

    def paths(self, method: str, part: str) -> list[str]:
        """Of the requests with a method those whose path has a part in it."""
        return [request.path for request in self.seen if request.method == method and part in request.path]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def store_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a store that was started for the tests."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path_factory.mktemp("store") / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the store has ended"
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def proxy(store_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before an empty bucket `data`, where the environment leads to; and a state folder of its own."""
    import s3fs

    one = Proxy(store_port)
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", one.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hardly a secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no_config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no_credentials"))
    monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "state"))
    s3fs.S3FileSystem.clear_instance_cache()
    store = http.client.HTTPConnection("127.0.0.1", store_port, timeout=30)
    store.request("POST", "/moto-api/reset")
    store.getresponse().read()
    store.close()
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket="data")
    one.seen.clear()
    yield one
    s3fs.S3FileSystem.clear_instance_cache()
    one.close()
