"""Fixtures that every floor's tests share."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as settings_of_hypothesis
from PIL import Image

from pipeline.machine import sees_gpu_files
from pipeline.publishing import publish_label
from storage.label_map import LabelMap
from storage.ledger import Ledger
from storage.object_io import file_digest
from storage.schema import ClassInfo, ClassSchema
from storage.workspace import Workspace
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec
from tests.ports import reserved_port


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from tests that are not of them: what those compare and fork is of the CPU, on every machine."""
    if "cuda" not in config.option.markexpr.replace("not cuda", "") and sees_gpu_files():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


MakeImage = Callable[..., npt.NDArray[np.uint8]]

# how long an example takes says something of the machine and what else it does, and nothing of the code
settings_of_hypothesis.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings_of_hypothesis.load_profile("patient")


@pytest.fixture
def schema() -> ClassSchema:
    """Three classes whose source ids are not their indices."""
    return ClassSchema(
        "three",
        (
            ClassInfo("road", (128, 64, 128), (7,)),
            ClassInfo("pole", (153, 153, 153), (17, 18)),
            ClassInfo("sky", (70, 130, 180), (23,)),
        ),
        frozenset({0, 1}),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def make_run(schema: ClassSchema) -> Callable[..., Path]:
    """Write a RUN with these label values by key, of images in a folder, as `label` would, and return its folder."""

    def make(root: Path, images: Path, labels: Mapping[str, object]) -> Path:
        run = Workspace(root)
        run.prepare()
        run.publish(run.classes, json.dumps(schema.to_dict()).encode())
        with Ledger(run.ledger) as ledger:
            ledger.claim({"classes": list(schema.names)})
            for key, values in labels.items():
                label = LabelMap(np.array(values, np.uint8), len(schema))
                image = next(images.glob(f"{key}.*"))
                found = {"image_bytes": image.stat().st_size, "image_sha256": file_digest(image)}
                found["image_modified_ns"] = image.stat().st_mtime_ns
                ledger.commit([publish_label(run, key, label, {"settings": "made"}, settings_digest="made", **found)])
        run.tidy()
        return root

    return make


@pytest.fixture
def make_image() -> MakeImage:
    """Write a noise image of (height, width), the same for the same seed, and return its pixels."""

    def make(path: Path, size: tuple[int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return make


@pytest.fixture
def tiny_teacher(tmp_path: Path, schema: ClassSchema) -> Path:
    """A checkpoint of a small network with random weights, sharp enough to be sure of some pixels and not of others."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    torch.manual_seed(3)
    network = build_network(spec)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("classifier"):
                parameter.mul_(20)
    path = tmp_path / "tiny_teacher.pt"
    save_checkpoint(path, network, spec, schema, {})
    return path


@dataclass
class DaskCluster:
    """A scheduler and workers in processes of their own, started on loopback the way a user starts them."""

    folder: Path
    port: int = 0
    tls: tuple[str, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """The port, for as long as a scheduler may come there."""

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return f"{'tls' if self.tls else 'tcp'}://127.0.0.1:{self.port}"

    def start_scheduler(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start `dask scheduler`, on the port that an earlier one had if there was one, and wait until it listens."""
        if not self.port:
            self.port = self.held.enter_context(reserved_port())
        protocol = ("--protocol", "tls") if self.tls else ()
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", *protocol, *self.tls)
        process = self._start("scheduler", options, environment)
        self._wait_for_port(process)
        return process

    def start_worker(
        self, *options: str, address: str = "", before: tuple[str, ...] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start `dask worker` with one process of one thread.

        Args:
            options: more of its options.
            address: where it finds the scheduler; the scheduler's own by default.
            before: a command that starts it.
            environment: more of its environment.
        """
        one = ("--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
        return self._start("worker", (address or self.address, *one, *self.tls, *options), environment, before)

    def _start(
        self, what: str, options: tuple[str, ...], environment: dict[str, str], before: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        program = str(Path(sys.executable).with_name("dask"))
        log = (self.folder / f"{what}-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [*before, program, what, *options],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,  # a nanny and its worker are ended together
        )
        self.processes.append(process)
        return process

    def _wait_for_port(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(6000):
            assert process.poll() is None, "the scheduler has ended"
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", self.port)):
                    return
            time.sleep(0.05)
        raise AssertionError("the scheduler does not listen")

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.held.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """A cluster without anything in it yet."""
    folder = tmp_path / "dask"
    folder.mkdir()
    started = DaskCluster(folder)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def standing_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A cluster of two workers that stays for all tests of a module, none of which harms it: a start takes seconds."""
    started = DaskCluster(tmp_path_factory.mktemp("dask"))
    started.start_scheduler()
    for _ in range(2):
        started.start_worker("--no-nanny")
    yield started
    started.stop()
