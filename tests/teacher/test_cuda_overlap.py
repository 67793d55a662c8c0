"""What only a CUDA device can show of the overlap: who waits for it, and that nothing is lost where nobody does."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from storage.schema import ClassSchema
from teacher import Teacher
from teacher.decision import DecisionRule, TopClasses, apply_thresholds, find_top, quantise
from teacher.networks.registry import NetworkSpec
from teacher.normalisation import normalise
from teacher.tables import constant, table
from teacher.transfer import Transfers, UploadsAhead

Image = npt.NDArray[np.uint8]
FillNetwork = Callable[[NetworkSpec], nn.Module]

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SCALES = (0.5, 1.0, 2.0)
SIZES = [(64, 96), (45, 61)]
KEPT = [DecisionRule((0.5,)), DecisionRule((0.4,), "top2", 100)]

FAILS_LATER = """
import torch
from teacher.transfer import Transfers

device = torch.device("cuda")
transfers = Transfers(device)
values = torch.zeros(4, dtype=torch.uint8, device=device)
wrong = torch.full((4,), 100, device=device)
transfers.download(values[wrong * 0]).wait()  # so that the pinned memory and the kernel are there
torch.cuda.synchronize()
torch.cuda._sleep(1_000_000_000)
values = values[wrong]  # past the end: the kernel notices, after the sleep
download = transfers.download(values)
print("given")
try:
    download.wait()
except RuntimeError as error:
    print("told:", str(error).splitlines()[0])
"""
"""In a process of its own, as CUDA is of no use after it."""


@pytest.fixture
def device() -> torch.device:
    """The first device."""
    return torch.device("cuda:0")


@pytest.fixture
def teacher(fill_network: FillNetwork, narrow_spec: NetworkSpec, schema: ClassSchema) -> Teacher:
    """A small one on the device."""
    return Teacher.of_network(fill_network(narrow_spec), narrow_spec, schema, "cuda:0")


def _images(count: int, size: tuple[int, int]) -> list[Image]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


@contextmanager
def _busy(device: torch.device) -> Iterator[torch.cuda.Event]:
    """Keep the current stream busy for about a second; the event is passed when it is not any more."""
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        torch.cuda._sleep(2_000_000_000)  # cycles
        event = torch.cuda.current_stream().record_event()
    yield event
    event.synchronize()


@contextmanager
def _waits_are_errors() -> Iterator[None]:
    """Have torch raise where the host is about to wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _waits() -> Iterator[list[warnings.WarningMessage]]:
    """Count where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_expected_arrives_beside_the_devices_work(device: torch.device) -> None:
    """A batch that was expected is on the device while the stream that computes is busy, sent by another thread."""
    ahead = UploadsAhead(Transfers(device))
    images = _images(2, (270, 480))
    ahead.expect(images)
    ahead.upload(images).take()  # so that the pinned memory is there
    with _busy(device) as busy:
        ahead.expect(images)
        upload = ahead.upload(images)
        assert upload.arrived is not None
        upload.arrived.synchronize()
        assert not busy.query()
        taken = upload.take()
    assert np.array_equal(taken.cpu().numpy(), np.stack(images))


def test_memory_of_an_upload_is_not_given_away_while_it_is_read(device: torch.device) -> None:
    """Where the work on a batch is queued and its tensor gone, uploads that follow do not overwrite it."""
    transfers = Transfers(device)
    images = _images(3, (270, 480))
    transfers.upload(images).take()
    with _busy(device):
        doubled = transfers.upload(images).take().to(torch.int32) * 2  # not before the stream is free again
        for _ in range(4):  # into the same memory, if it were free
            transfers.upload([np.zeros_like(image) for image in images]).take()
    assert np.array_equal(doubled.cpu().numpy(), np.stack(images).astype(np.int32) * 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tables_are_sent_without_waiting(device: torch.device, dtype: torch.dtype) -> None:
    """Host values are on their way at once though the stream is busy, may change at once, and arrive as they were."""
    values = np.arange(5000, dtype=np.float64)
    table(values, device, dtype)
    with _busy(device) as busy, _waits_are_errors():
        sent = table(values, device, dtype)
        values[:] = -1
        assert not busy.query()
    assert sent.dtype == dtype
    assert np.array_equal(sent.cpu().numpy(), np.arange(5000))


def test_small_steps_do_not_wait(device: torch.device) -> None:
    """Normalising, finding the top, thresholds by class and codes of confidence, done once before, wait for nothing."""
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8, device=device)
    logits = torch.randn(1, 4, 8, 8, device=device)

    def work() -> TopClasses:
        normalise(images, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
        top = find_top(logits, runner_up=True)
        apply_thresholds(top, (0.5, 0.6, 0.7, 0.8))
        quantise(top.confidence, 100)
        return top

    work()
    with _waits_are_errors():
        work()
    assert constant((0.5, 0.25), device) is constant((0.5, 0.25), device)
    assert constant((0.5, 0.25), device).tolist() == [0.5, 0.25]


def test_transfers_and_the_network_do_not_wait(teacher: Teacher, device: torch.device) -> None:
    """Images to the device, replayed forward passes whole and in tiles, and labels back: none has the host wait."""
    spec = teacher.predictor.spec
    transfers, (image,) = Transfers(device), _images(1, (512, 512))

    def work() -> None:
        batch = normalise(transfers.upload([image]).take(), spec.mean, spec.std)
        for tile in (None, 384):
            prediction = teacher.predictor.network(tile)(batch, attend=True)
            transfers.download(prediction.logits.argmax(1).to(torch.uint8))

    with torch.inference_mode():
        for _ in range(3):  # run, recorded, replayed
            work()
        with _waits_are_errors():
            work()
    torch.cuda.synchronize(device)


@pytest.mark.parametrize("rule", KEPT, ids=["label", "kept"])
def test_the_host_waits_as_rarely_as_is_said(teacher: Teacher, rule: DecisionRule) -> None:
    """An image that was expected is decided with five waits of the host at most, as `teacher.joint_decision` has it."""
    (image,) = _images(1, (256, 512))
    for _ in range(3):
        decisions = teacher.decide([image], SCALES, rule)
    teacher.expect([image])
    with _waits() as waits:
        decisions += teacher.decide([image], SCALES, rule)
    assert 1 <= len(waits) <= 5
    assert all(np.array_equal(one.label, decisions[0].label) for one in decisions)


@pytest.mark.parametrize("rule", KEPT, ids=["label", "kept"])
def test_decisions_may_be_read_late_and_by_any_thread(teacher: Teacher, rule: DecisionRule) -> None:
    """Batches decided one after the other, each while the next is sent, are to the bit those that are decided alone."""
    batches = [_images(count, size) for count in (1, 2, 3) for size in SIZES] * 3
    batches = [[image.copy() for image in batch] for batch in batches]
    alone = [[(one.label, one.soft) for one in teacher.decide(batch, SCALES, rule)] for batch in batches]
    with ThreadPoolExecutor(4) as readers:
        read = []
        teacher.expect(batches[0])
        for batch, following in pairwise([*batches, None]):
            assert batch is not None
            if following is not None:
                teacher.expect(following)
            decided = teacher.decide(batch, SCALES, rule)
            read.append([readers.submit(lambda one=one: (one.label, one.soft)) for one in decided])
        for expected, futures in zip(alone, read, strict=True):
            for (label, soft), future in zip(expected, futures, strict=True):
                got = future.result()
                assert np.array_equal(got[0], label)
                assert (got[1] is None) == (soft is None)
                assert soft is None or np.array_equal(got[1], soft)


def test_memory_may_be_released_while_the_device_is_at_work(teacher: Teacher) -> None:
    """What was given to the device before graphs and expected images are let go of is decided as ever."""
    batches = [_images(2, size) for size in SIZES]
    expected = [[one.label for one in teacher.decide(batch, SCALES, KEPT[0])] for batch in batches]
    for _ in range(3):
        decided = []
        for batch, following in zip(batches, reversed(batches), strict=True):
            teacher.expect(following)
            decided.append(teacher.decide(batch, SCALES, KEPT[0]))
            teacher.release_memory()
        for labels, decisions in zip(expected, decided, strict=True):
            assert all(np.array_equal(one.label, label) for one, label in zip(decisions, labels, strict=True))
    assert teacher.problems == ()


def test_threads_may_share_a_teacher_in_turn(teacher: Teacher) -> None:
    """Two threads that decide under a lock, each expecting its own images, both have the labels of one."""
    batches = {name: [_images(1, size) for size in SIZES * 4] for name in ("one", "other")}
    expected = {name: [teacher.decide(b, SCALES, KEPT[0])[0].label for b in own] for name, own in batches.items()}
    lock, made = threading.Lock(), {}

    def work(name: str) -> None:
        decided = []
        for batch, following in pairwise([*batches[name], []]):
            with lock:
                if following:
                    teacher.expect(following)
                decided += teacher.decide(batch, SCALES, KEPT[0])
        made[name] = [one.label for one in decided]

    threads = [threading.Thread(target=work, args=(name,)) for name in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, labels in expected.items():
        assert all(np.array_equal(got, label) for got, label in zip(made[name], labels, strict=True))


def test_an_error_of_the_device_is_told_to_who_waits() -> None:
    """A kernel that fails after it was launched is a RuntimeError of who waits for what comes after it, and no earlier.

    The labeller catches those.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", FAILS_LATER], env=environment, capture_output=True, text=True, check=False
    )
    assert "given\ntold: CUDA error: device-side assert" in done.stdout, done.stderr
