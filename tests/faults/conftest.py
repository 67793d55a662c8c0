"""What faults need: a store that speaks S3 with a proxy that spoils requests, and a set to label in a bad night."""

import http.client
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import dask_cluster, dask_pool, dask_workers
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.verification import Verification
from storage.ledger import Ledger
from tests.ports import reserved_port


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
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        with self.proxy.passing():
            # of a request whose sender was killed within it there is half
            self._pass(body, "cut" if len(body) < length else self.proxy.count(self.command, self.path))

    def _pass(self, body: bytes, fault: str) -> None:
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
        with closing(http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=600)) as store:
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
        self._passing = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def count(self, method: str, path: str) -> str:
        """Note a request, and say what becomes of it."""
        with self._lock:
            request = Request(len(self.seen), method, path)
            self.seen.append(request)
        fault = self.fault(request)  # may make requests itself
        with self._lock:
            self.spoilt += bool(fault)
        return fault

    @contextmanager
    def passing(self) -> Iterator[None]:
        """While a request is seen to."""
        with self._lock:
            self._passing += 1
        try:
            yield
        finally:
            with self._lock:
                self._passing -= 1

    def another(self) -> "Proxy":
        """Another way to the same store."""
        return Proxy(self.port)

    def cut_off(self) -> None:
        """Let nothing through any more, and what is on its way arrive."""
        self.fault = lambda _: "cut"
        while self._passing:
            time.sleep(0.01)

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
    with reserved_port() as port:
        command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
        with (tmp_path_factory.mktemp("store") / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for _ in range(3000):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, "the store has ended"
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()
            server.wait(120)


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
    for name in ("connect_timeout", "read_timeout"):  # on a busy machine an answer is long in coming, and no fault
        monkeypatch.setattr(s3fs.S3FileSystem, name, 600)
    s3fs.S3FileSystem.clear_instance_cache()
    store = http.client.HTTPConnection("127.0.0.1", store_port, timeout=600)
    store.request("POST", "/moto-api/reset")
    store.getresponse().read()
    store.close()
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket="data")
    one.seen.clear()
    yield one
    s3fs.S3FileSystem.clear_instance_cache()
    one.close()


_DEVICE = """
import itertools, os, time
def slow(module):
    decide, numbers = module.Teacher.decide, itertools.count()
    def wait(*args, **kwargs):
        number = next(numbers)
        while number >= {most} and not os.path.exists({sign!r}):
            time.sleep(0.01)
        time.sleep({seconds})
        return decide(*args, **kwargs)
    module.Teacher.decide = wait
"""

_SLOW = f"""{_DEVICE}
import teacher.inference
slow(teacher.inference)
"""

_SLOW_PROCESS = f"""{_DEVICE}
import importlib.util, sys
def patient(module):
    module._END_SECONDS = 600.0
changes = {{{{"teacher.inference": slow, "pipeline.dask_workers": patient}}}}
class Finder:
    def find_spec(self, name, path, target=None):
        if name not in changes:
            return None
        change = changes.pop(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""
"""Python runs it as it starts: nothing is imported before its time."""


@pytest.fixture
def go_on(tmp_path: Path) -> Iterator[Path]:
    """A file for which devices that stand still are waiting; nothing of a test that fails stands still for ever."""
    yield tmp_path / "go on"
    (tmp_path / "go on").touch()


@pytest.fixture
def slowly(tmp_path: Path, go_on: Path) -> Callable[[float, int], dict[str, str]]:
    """The environment of a command whose device takes so many seconds a batch, whatever processes it starts.

    After so many batches the device of each process stands still until `go_on` is there: whoever is to stop it in the
    middle has all the time for that.
    """

    def environment(seconds: float, most: int) -> dict[str, str]:
        folder = tmp_path / "slow-process"
        folder.mkdir()
        text = _SLOW_PROCESS.format(seconds=seconds, most=most, sign=str(go_on))
        (folder / "sitecustomize.py").write_text(text)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    return environment


@dataclass
class Night:
    """A set of noise images to label while things go wrong, and what must hold in the morning."""

    folder: Path
    teacher: Path
    go_on: Path
    """As `slow` says."""
    images: int = 16

    def settings(self, out: str = "run", **more: Any) -> LabelSettings:
        """Settings of a run."""
        wanted = {"scales": (0.5, 1.0), "device": "cpu", **more}
        return LabelSettings(images=self.folder / "images", teacher=str(self.teacher), out=self.folder / out, **wanted)

    def command(self, *options: str) -> list[str]:
        """The command with the same settings."""
        program = str(Path(sys.executable).with_name("autocoarse"))
        return [
            *(program, "label", "--images", str(self.folder / "images"), "--teacher", str(self.teacher)),
            *("--scales", "0.5,1", "--out", str(self.folder / "run"), "--device", "cpu", *options),
        ]

    def preload(self, name: str, text: str) -> tuple[str, str]:
        """The options of a worker that loads a text of Python: what its own library or device would do."""
        path = self.folder / f"{name}.py"
        # dask loads it more than once into a process
        once = f"import sys\nif not hasattr(sys, 'loaded_{name}'):\n    sys.loaded_{name} = True\n"
        path.write_text(once + textwrap.indent(text, "    "))
        return "--preload", str(path)

    def slow(self, seconds: float, most: int | None = None) -> tuple[str, str]:
        """The options of a worker whose device takes its time, so that something can happen meanwhile.

        Args:
            seconds: of a batch.
            most: batches after which it stands still until `go_on` is there.
        """
        limit = "float('inf')" if most is None else most
        return self.preload("slow", _SLOW.format(seconds=seconds, most=limit, sign=str(self.go_on)))

    def go_on_when(self, holds: Callable[[], bool]) -> None:
        """Have devices go on once something holds."""

        def look() -> None:
            while not holds() and not self.go_on.exists():
                time.sleep(0.05)
            self.go_on.touch()

        threading.Thread(target=look, daemon=True).start()

    def check(self, run: LabelRun, failed: tuple[str, ...] = ()) -> None:
        """Labels are those of an undisturbed run, each item has one entry, and what `verify` can prove is proven."""
        with LabelRun(self.settings("whole")) as whole:
            list(whole)
        found, expected = (
            {path.relative_to(one.workspace.labels).as_posix(): path.read_bytes() for path in _labels(one)}
            for one in (run, whole)
        )
        assert found == {name: made for name, made in expected.items() if name.removesuffix(".png") not in failed}
        with Ledger(run.workspace.ledger, read_only=True) as ledger:
            made = {name.removesuffix(".png"): "done" for name in expected}
            assert {entry.key: entry.status for entry in ledger} == made | dict.fromkeys(failed, "failed")
        with Verification(run.workspace.root, workers=1) as verification:
            list(verification)
        assert not [problem for problem in verification.summary.problems if problem.key not in failed]


def _labels(run: LabelRun) -> list[Path]:
    return [path for path in run.workspace.labels.rglob("*") if path.is_file()]


@pytest.fixture
def night(
    tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], go_on: Path, monkeypatch: pytest.MonkeyPatch
) -> Night:
    """A set to label, in shards that take no time."""
    monkeypatch.setattr(dask_workers, "SHARD_SECONDS", 0.5)
    # on a busy machine workers are long in coming, and schedulers in answering
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 600.0)
    monkeypatch.setattr(dask_pool, "_ALONE_SECONDS", 600.0)
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 120)
    one = Night(tmp_path, tiny_teacher, go_on)
    for number in range(one.images):
        make_image(tmp_path / f"images/{number % 3}/{number:02d}.png", (40, 56), number)
    return one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(disk)],  # noqa: S607 - where the system has it
        capture_output=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)  # noqa: S607
