"""A bad night on a cluster: workers that die, break or come late, and disks that fill: the set is labelled whole.

Each fault happens to processes of their own, started the way a user starts them.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline import dask_pool, dask_workers
from pipeline.labelling import LabelRun
from storage.errors import DiskFullError
from storage.label_png import read_label_values


def ready(run: LabelRun) -> list[str]:
    """The workers that are used."""
    return [worker.name for worker in run.workers.view() if worker.state == "ready"]


def refused(run: LabelRun) -> list[str]:
    """Why workers are not."""
    return [worker.state for worker in run.workers.view() if worker.state not in ("ready", "opening")]


def test_a_worker_that_is_killed_costs_nothing(
    cluster: Any, night: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill -9 in the middle of a shard: others do its items, none is lost, and the one left judges a broken image."""
    monkeypatch.setattr(dask_pool, "_ALONE_SECONDS", 1.0)
    (tmp_path / "images/9").mkdir()
    (tmp_path / "images/9/bad.png").write_bytes(b"no image")
    cluster.start_scheduler()
    slow = night.slow(0.3, 0)
    victims = [cluster.start_worker("--no-nanny", *slow) for _ in range(2)]
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        night.go_on_when(lambda: len(ready(run)) == 2)
        entries = iter(run)
        seen = [next(entries)]
        victims[0].kill()
        assert victims[0].wait() == -signal.SIGKILL
        seen += entries
        assert len({entry.key for entry in seen}) == len(seen) == night.images + 1
        assert len(ready(run)) == 1
    night.check(run, failed=("9/bad",))


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
        ("import time; hold = [bytearray(os.urandom(1 << 20) * 1024) for _ in range(2)]; time.sleep(600)", "2GB"),
    ],
    ids=["killed", "out of memory"],
)
def test_an_image_that_ends_its_worker_each_time_is_a_failed_item(
    cluster: Any,
    night: Any,
    tmp_path: Path,
    end: str,
    options: str,
) -> None:
    """Its shard is halved until it is alone; after the stated number of deaths it fails, and the rest is labelled."""
    Image.new("RGB", (56, 40)).save(tmp_path / "images/0/black.png")
    cluster.start_scheduler()
    poison = night.preload("poison", POISON.format(end=end))
    limit = ("--memory-limit", options) if options else ()
    for _ in range(2):
        cluster.start_worker(*poison, *limit)
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        failed = [entry for entry in run if entry.status == "failed"]
    assert [entry.key for entry in failed] == ["0/black"]
    assert "died each of 3 times" in failed[0].reason
    assert run.summary.labelled == night.images
    (tmp_path / "images/0/black.png").unlink()
    with LabelRun(night.settings()) as again:  # without the image, its failure is forgotten
        assert list(again) == []
    night.check(again)


NO_DEVICE = """
import torch
def broken(*args, **kwargs):
    raise RuntimeError("CUDA error: no CUDA-capable device is detected")
torch.nn.Module.to = broken
"""

BREAKS = """
import pathlib
from teacher.inference import Teacher
decide, count = Teacher.decide, [0]
def breaks(self, *args, **kwargs):
    count[0] += 1
    if count[0] > 3:
        if count[0] > 6:
            pathlib.Path({sign!r}).touch()
        raise RuntimeError("CUDA error: unspecified launch failure")
    return decide(self, *args, **kwargs)
Teacher.decide = breaks
"""

OPENS_LATE = """
import os, time
from pipeline.teacher_source import TeacherSource
load = TeacherSource.load
def late(*args, **kwargs):
    while not os.path.exists({sign!r}):
        time.sleep(0.01)
    return load(*args, **kwargs)
TeacherSource.load = late
"""


@pytest.mark.parametrize(
    ("text", "comes_late"),
    [(NO_DEVICE, False), (BREAKS, False), (BREAKS, True)],
    ids=["missing", "breaks while another opens", "breaks before another comes"],
)
def test_a_worker_without_its_device_fails_no_image(
    cluster: Any,
    night: Any,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    comes_late: bool,
) -> None:
    """A device that is not there, or falls out, gives errors and not labels: its images are done by others."""
    monkeypatch.setattr(dask_workers, "_LATE", 1e6)  # what it has failed is heard of it, however late
    sign = str(night.go_on)
    cluster.start_scheduler()
    cluster.start_worker(*night.preload("broken", text.format(sign=sign)))
    if comes_late:
        wait = f"while [ ! -e '{sign}' ]; do sleep 0.05; done; exec \"$@\""
        cluster.start_worker(before=("sh", "-c", wait, "sh"))
    else:
        cluster.start_worker(*night.preload("opens_late", OPENS_LATE.format(sign=sign)))
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        night.go_on_when(lambda: bool(refused(run)))
        entries = list(run)
        assert [entry.reason for entry in entries if entry.status == "failed"] == []
        assert len(entries) == night.images
        assert len(refused(run)) == 1
    night.check(run)


def test_a_late_worker_is_not_waited_for(
    cluster: Any,
    night: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle, it has its last shard given to one that has nothing else to do."""
    monkeypatch.setattr(dask_workers, "_LATE", 1.0)
    cluster.start_scheduler()
    slow = night.slow(0.2, 0)
    late, _ = (cluster.start_worker("--no-nanny", *slow) for _ in range(2))
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        night.go_on_when(lambda: len(ready(run)) == 2)
        entries = iter(run)
        seen = [next(entries)]
        late.send_signal(signal.SIGSTOP)
        seen += entries
        assert len({entry.key for entry in seen}) == len(seen) == night.images
        late.send_signal(signal.SIGKILL)
    night.check(run)


def test_a_disk_that_fills_is_a_clean_stop_and_more_room_goes_on(
    cluster: Any, night: Any, tmp_path: Path, small_disk: Path
) -> None:
    """The workers' writes fail: what is whole is recorded, nothing is torn, and neither image nor worker is blamed."""
    out = str(small_disk / "run")
    for number in range(60):
        (tmp_path / f"images/0/more{number}.png").write_bytes((tmp_path / "images/0/00.png").read_bytes())
    (small_disk / "filling").write_bytes(bytes(480_000))
    cluster.start_scheduler()
    for _ in range(2):
        cluster.start_worker()
    with LabelRun(night.settings(out, scheduler=cluster.address)) as run, pytest.raises(DiskFullError):
        list(run)
    assert run.summary.failed == 0
    made = run.summary.labelled
    assert 0 < made < run.plan.total
    for path in run.workspace.labels.rglob("*.png"):
        read_label_values(path)
    (small_disk / "filling").unlink()
    with LabelRun(night.settings(out, scheduler=cluster.address)) as run:
        assert run.plan.done_count == made
        list(run)
    night.check(run)
