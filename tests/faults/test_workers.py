"""A bad night on a cluster: workers, hosts and schedulers that die, lie or disagree, and a set that is labelled whole.

Each fault happens to processes of their own, started the way a user starts them. What a worker's own library or
device would do is done by a file that `dask worker --preload` loads into it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from pipeline import dask_workers
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.verification import Verification
from storage.errors import SettingsError, WorkerError
from storage.ledger import Ledger

IMAGES = 16

SLOW = """
import time
from teacher.inference import Teacher
decide = Teacher.decide
def slow(self, images, *args, **kwargs):
    time.sleep({seconds})
    return decide(self, images, *args, **kwargs)
Teacher.decide = slow
"""
"""A device that takes its time, so that something can happen meanwhile."""

Settings = Callable[..., LabelSettings]


@pytest.fixture
def settings(
    tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of a run of noise images."""
    monkeypatch.setattr(dask_workers, "SHARD_SECONDS", 0.5)
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number % 3}/{number:02d}.png", (40, 56), number)

    def make(out: str = "run", **more: Any) -> LabelSettings:
        wanted = {"scales": (0.5, 1.0), "device": "cpu", **more}
        return LabelSettings(images=tmp_path / "images", teacher=str(tiny_teacher), out=tmp_path / out, **wanted)

    return make


def preload(tmp_path: Path, name: str, text: str) -> tuple[str, str]:
    """The options of a worker that loads a text of Python."""
    path = tmp_path / f"{name}.py"
    # dask loads it more than once into a process
    once = f"import sys\nif not hasattr(sys, 'loaded_{name}'):\n    sys.loaded_{name} = True\n"
    path.write_text(once + textwrap.indent(text, "    "))
    return "--preload", str(path)


def check(run: LabelRun, settings: Settings, failed: tuple[str, ...] = ()) -> None:
    """Labels are those of an undisturbed run, each item has one entry, and all that `verify` can prove is proven."""
    with LabelRun(settings("whole")) as whole:
        list(whole)
    found, expected = (
        {path.relative_to(one.workspace.labels).as_posix(): path.read_bytes() for path in _labels(one)}
        for one in (run, whole)
    )
    assert found == {name: content for name, content in expected.items() if name.removesuffix(".png") not in failed}
    with Ledger(run.workspace.ledger, read_only=True) as ledger:
        assert {entry.key: entry.status for entry in ledger} == {
            name.removesuffix(".png"): "failed" if name.removesuffix(".png") in failed else "done" for name in expected
        }
    with Verification(run.workspace.root, workers=1) as verification:
        list(verification)
    assert not [problem for problem in verification.summary.problems if problem.key not in failed]


def _labels(run: LabelRun) -> list[Path]:
    return [path for path in run.workspace.labels.rglob("*") if path.is_file()]


def ready(run: LabelRun) -> list[str]:
    """The workers that are used."""
    return [worker.name for worker in run.workers.view() if worker.state == "ready"]


def refused(run: LabelRun) -> list[str]:
    """Why workers are not."""
    return [worker.state for worker in run.workers.view() if worker.state not in ("ready", "opening")]


def test_a_worker_that_is_killed_costs_nothing(cluster: Any, settings: Settings, tmp_path: Path) -> None:
    """Kill -9 in the middle of a shard: others do its items, none is lost and none is recorded twice."""
    cluster.start_scheduler()
    slow = preload(tmp_path, "slow", SLOW.format(seconds=0.3))
    victims = [cluster.start_worker("--no-nanny", *slow) for _ in range(2)]
    with LabelRun(settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        while len(ready(run)) < 2:
            seen.append(next(entries))
        victims[0].kill()
        assert victims[0].wait() == -signal.SIGKILL
        seen += entries
        assert len({entry.key for entry in seen}) == len(seen) == IMAGES
        assert len(ready(run)) == 1
    check(run, settings)


POISON = """
import os, signal
from teacher.inference import Teacher
decide = Teacher.decide
def die(self, images, *args, **kwargs):
    if any(int(image.max()) == 0 for image in images):
        {end}
    return decide(self, images, *args, **kwargs)
Teacher.decide = die
"""


@pytest.mark.parametrize(
    ("end", "options"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ()),
        ("import time; hold = [bytearray(os.urandom(1 << 20) * 1024) for _ in range(2)]; time.sleep(20)", "2GB"),
    ],
    ids=["killed", "out of memory"],
)
def test_an_image_that_ends_its_worker_each_time_is_a_failed_item(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    end: str,
    options: str,
) -> None:
    """Its shard is halved until it is alone; after the stated number of deaths it fails, and the rest is labelled."""
    Image.new("RGB", (56, 40)).save(tmp_path / "images/0/black.png")
    cluster.start_scheduler()
    poison = preload(tmp_path, "poison", POISON.format(end=end))
    limit = ("--memory-limit", options) if options else ()
    for _ in range(2):
        cluster.start_worker(*poison, *limit)
    with LabelRun(settings(scheduler=cluster.address)) as run:
        failed = [entry for entry in run if entry.status == "failed"]
    assert [entry.key for entry in failed] == ["0/black"]
    assert "died each of 3 times" in failed[0].reason
    assert run.summary.labelled == IMAGES
    (tmp_path / "images/0/black.png").unlink()
    with LabelRun(settings()) as again:  # without the image, its failure is forgotten
        assert list(again) == []
    check(again, settings)


def test_a_scheduler_that_is_killed_is_waited_for(cluster: Any, settings: Settings, tmp_path: Path) -> None:
    """It comes back at the same address, so do the workers, and the run goes on by itself."""
    scheduler = cluster.start_scheduler()
    slow = preload(tmp_path, "slow", SLOW.format(seconds=0.3))
    worker = cluster.start_worker("--no-nanny", *slow)
    with LabelRun(settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        scheduler.kill()
        assert scheduler.wait() == -signal.SIGKILL
        worker.kill()
        worker.wait()

        def restart() -> None:
            cluster.start_scheduler()
            cluster.start_worker("--no-nanny", *slow)

        starter = threading.Timer(2, restart)
        starter.start()
        seen += entries
        starter.join()
        assert len({entry.key for entry in seen}) == len(seen) == IMAGES
    check(run, settings)


class Proxy:
    """A cable between a worker and its scheduler, that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self.is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End every connection; new ones are refused until it is mended."""
        self.is_cut = True
        for one in self._pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        """Give the port back."""
        self.cut()
        self._server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(cluster: Any) -> Iterator[Proxy]:
    """A cable to a scheduler that is started with it."""
    cluster.start_scheduler()
    made = Proxy(cluster.port)
    yield made
    made.close()


def test_a_host_that_is_cut_off_and_comes_back(
    cluster: Any,
    proxy: Proxy,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Its shards are done by others, or by itself again; what it made while nobody heard it does no harm."""
    slow = preload(tmp_path, "slow", SLOW.format(seconds=0.3))
    cluster.start_worker(*slow, address=f"tcp://127.0.0.1:{proxy.port}")
    with LabelRun(settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        proxy.cut()
        cluster.start_worker(*slow)
        mend = threading.Timer(3, setattr, (proxy, "is_cut", False))
        mend.start()
        seen += entries
        mend.join()
        assert len({entry.key for entry in seen}) == len(seen) == IMAGES
    check(run, settings)


def test_a_worker_of_another_version_is_refused_with_both_named(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Alone it ends the run; beside one of the same version it is left out, and the run is whole."""
    other = tmp_path / "other/autocoarse-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: autocoarse\nVersion: 9.9\n")
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 1.0)
    cluster.start_scheduler()
    cluster.start_worker(PYTHONPATH=str(tmp_path / "other"))
    mixed = pytest.raises(WorkerError, match=r"autocoarse 9\.9, this is autocoarse 0\.1")
    with LabelRun(settings(scheduler=cluster.address)) as run, mixed:
        list(run)
    cluster.start_worker()
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 60.0)
    with LabelRun(settings(scheduler=cluster.address)) as run:
        assert len(list(run)) == IMAGES
        assert len(refused(run)) == 1
    check(run, settings)


def hiding(folder: Path) -> tuple[str, ...]:
    """What starts a worker that sees an empty folder there, which it cannot write; skips where that is not allowed."""
    command = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o ro none "{folder}" && exec "$@"', "sh")
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not permitted here")
    return command


def read_only(folder: Path) -> tuple[str, ...]:
    """What starts a worker that sees a folder and cannot write there; skips where that is not allowed."""
    mount = f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && exec "$@"'
    command = ("unshare", "--mount", "sh", "-c", mount, "sh")
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not permitted here")
    return command


@pytest.mark.parametrize("sees", [True, False])
def test_a_worker_that_cannot_write_the_run_is_not_used(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    sees: bool,
) -> None:
    """Read only, or another disk: it is left out before it can fail a single image, and the reason is told."""
    out = tmp_path / "run"
    before = read_only(out) if sees else hiding(out)
    cluster.start_scheduler()
    cluster.start_worker(before=before)
    cluster.start_worker(*preload(tmp_path, "slow", SLOW.format(seconds=0.5)))
    with LabelRun(settings(scheduler=cluster.address)) as run:
        assert len(list(run)) == IMAGES
        (reason,) = refused(run)
        assert ("Read-only" if sees else "does not see the run") in reason
    check(run, settings)


NO_DEVICE = """
import torch
def broken(*args, **kwargs):
    raise RuntimeError("CUDA error: no CUDA-capable device is detected")
torch.nn.Module.to = broken
"""

BREAKS = """
from teacher.inference import Teacher
decide, count = Teacher.decide, [0]
def breaks(self, *args, **kwargs):
    count[0] += 1
    if count[0] > 3:
        raise RuntimeError("CUDA error: unspecified launch failure")
    return decide(self, *args, **kwargs)
Teacher.decide = breaks
"""


@pytest.mark.parametrize("text", [NO_DEVICE, BREAKS], ids=["missing", "breaks later"])
def test_a_worker_without_its_device_fails_no_image(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    text: str,
) -> None:
    """A device that is not there, or falls out, gives errors and not labels: its images are done by others."""
    cluster.start_scheduler()
    cluster.start_worker(*preload(tmp_path, "broken", text))
    cluster.start_worker(*preload(tmp_path, "slow", SLOW.format(seconds=0.4)))
    with LabelRun(settings(scheduler=cluster.address)) as run:
        entries = list(run)
        assert [entry.reason for entry in entries if entry.status == "failed"] == []
        assert len(entries) == IMAGES
        assert len(refused(run)) == 1
    check(run, settings)


SKEWED = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {seconds}
time.time_ns = lambda: now_ns() + {seconds} * 1_000_000_000
"""


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_clock_that_is_a_day_off_changes_nothing(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    seconds: int,
) -> None:
    """Files have the disk's time and durations are measured by a steady clock; the next run finds all of it done."""
    (tmp_path / "skewed").mkdir()
    (tmp_path / "skewed/sitecustomize.py").write_text(SKEWED.format(seconds=seconds))  # off from the start, no jump
    cluster.start_scheduler()
    cluster.start_worker(PYTHONPATH=str(tmp_path / "skewed"))
    with LabelRun(settings(scheduler=cluster.address)) as run:
        assert len(list(run)) == IMAGES
    check(run, settings)
    with LabelRun(settings(scheduler=cluster.address)) as again:
        assert again.plan.done_count == IMAGES


def test_a_worker_that_lacks_the_teachers_file_gets_it_once(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    tiny_teacher: Path,
) -> None:
    """It comes from the scheduler, is known by its hash, and stays for the next run."""
    hidden = tmp_path / "teachers"
    before = hiding(hidden)
    tiny_teacher.rename(hidden / "teacher.pt")
    cluster.start_scheduler()
    cluster.start_worker(before=before)
    wanted = settings(scheduler=cluster.address)
    with LabelRun(wanted.model_copy(update={"teacher": str(hidden / "teacher.pt")})) as run:
        assert len(list(run)) == IMAGES
    (kept,) = cluster.folder.rglob("autocoarse-*")
    assert kept.read_bytes() == (hidden / "teacher.pt").read_bytes()
    (hidden / "teacher.pt").rename(tiny_teacher)
    check(run, settings)


def test_a_late_worker_is_not_waited_for(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle, it has its last shard given to one that has nothing else to do."""
    monkeypatch.setattr(dask_workers, "_LATE", 1.0)
    cluster.start_scheduler()
    slow = preload(tmp_path, "slow", SLOW.format(seconds=0.2))
    late, _ = (cluster.start_worker("--no-nanny", *slow) for _ in range(2))
    with LabelRun(settings(scheduler=cluster.address)) as run:
        entries = iter(run)
        seen = [next(entries)]
        while len(ready(run)) < 2:
            seen.append(next(entries))
        late.send_signal(signal.SIGSTOP)
        seen += entries
        assert len({entry.key for entry in seen}) == len(seen) == IMAGES
        late.send_signal(signal.SIGKILL)
    check(run, settings)


def test_a_driver_that_is_killed_is_started_again(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
    tiny_teacher: Path,
) -> None:
    """Kill -9 of the command itself: the same command goes on, also while the workers still do what it had sent."""
    cluster.start_scheduler()
    slow = preload(tmp_path, "slow", SLOW.format(seconds=0.3))
    for _ in range(2):
        cluster.start_worker(*slow)
    command = [str(Path(sys.executable).with_name("autocoarse")), "label", "--images", str(tmp_path / "images")]
    command += ["--teacher", str(tiny_teacher), "--scales", "0.5,1", "--out", str(tmp_path / "run"), "--device", "cpu"]
    driver = subprocess.Popen([*command, "--scheduler", cluster.address], env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(list((tmp_path / "run").rglob("labels/**/*.png"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    with LabelRun(settings(scheduler=cluster.address)) as run:
        assert run.plan.done_count < IMAGES
        list(run)
        assert run.summary.failed == 0
    check(run, settings)


def test_certificates_are_asked_for_and_used(
    cluster: Any,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """With those of one authority the run is whole; without any it is refused before anything is sent."""
    key, certificate = tmp_path / "node.key", tmp_path / "node.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=node"]
    try:
        subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    cluster.tls = ("--tls-ca-file", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key))
    cluster.start_scheduler()
    cluster.start_worker()
    with pytest.raises(SettingsError, match="needs certificates"):
        LabelRun(settings(scheduler=cluster.address))
    own = {"tls_ca": certificate, "tls_cert": certificate, "tls_key": key}
    with LabelRun(settings(scheduler=cluster.address, **own)) as run:
        assert len(list(run)) == IMAGES
    check(run, settings)


def test_ctrl_c_is_for_the_command_and_nothing_listens_beyond_this_machine(
    settings: Settings, tmp_path: Path, tiny_teacher: Path
) -> None:
    """A terminal sends it to every process; what workers have is finished and recorded, and none of them stays."""
    for number in range(60):
        (tmp_path / f"images/0/more{number}.png").write_bytes((tmp_path / "images/0/00.png").read_bytes())
    command = [str(Path(sys.executable).with_name("autocoarse")), "label", "--images", str(tmp_path / "images")]
    command += ["--teacher", str(tiny_teacher), "--scales", "0.5,1", "--out", str(tmp_path / "run"), "--device", "cpu"]
    driver = subprocess.Popen(
        [*command, "--workers", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background has none
    )
    while len(list((tmp_path / "run").rglob("labels/**/*.png"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    assert len(family) >= 3
    listening = [one for process in family for one in process.net_connections("inet") if one.status == "LISTEN"]
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) == 130
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    with Ledger(tmp_path / "run/ledger.sqlite", read_only=True) as ledger:
        recorded = {f"{entry.key}.png" for entry in ledger}
    labels = tmp_path / "run/labels"
    assert {path.relative_to(labels).as_posix() for path in labels.rglob("*.png")} == recorded
    with LabelRun(settings()) as run:
        assert run.plan.done_count == len(recorded)
        list(run)
    check(run, settings)
