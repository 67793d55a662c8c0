"""A device that works by itself: it is given batch after batch, whatever its surroundings are at; none is lost."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline import labeller as labeller_module
from pipeline.labeller import LabelJob, Labeller
from storage.label_png import LabelFormat
from storage.layouts import Item, list_images
from storage.ledger import Entry
from storage.schema import ClassSchema
from storage.workspace import Workspace

Image = npt.NDArray[np.uint8]
IMAGES = 12


@dataclass
class Made:
    """A label that is there."""

    label: Image
    soft: Image | None = None


@dataclass
class Device:
    """It labels by the red channel, and says how far it has come."""

    looks_ahead: bool = True
    problems: tuple[str, ...] = ()
    given: int = 0
    more: threading.Condition = field(default_factory=threading.Condition)
    fails_at: int | None = None

    def expect(self, images: Sequence[Image]) -> None:
        """It needs no time to prepare."""

    def decide(self, images: Sequence[Image]) -> list[Made]:
        """Label, and tell who waits."""
        with self.more:
            self.given += len(images)
            self.more.notify_all()
        if self.given == self.fails_at:
            raise KeyError("no error that a device has")
        return [Made((image[..., 0] > 127).astype(np.uint8)) for image in images]

    def wait(self, count: int) -> bool:
        """Wait until it was given so many images."""
        with self.more:
            return self.more.wait_for(lambda: self.given >= count, timeout=300)


@pytest.fixture
def items(tmp_path: Path, make_image: Callable[..., object]) -> list[Item]:
    """Twelve images of one size."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number:02}.png", (20, 30), number)
    return list(list_images(tmp_path / "images", "folder").items)


@pytest.fixture
def labeller(tmp_path: Path, schema: ClassSchema) -> Callable[[Device], Labeller]:
    """A labeller with a device, for single images."""

    def make(device: Device) -> Labeller:
        workspace = Workspace(tmp_path / "run")
        workspace.prepare()
        return Labeller(LabelJob(workspace, schema, "digest", {"settings": "digest"}, LabelFormat()), device)

    return make


@pytest.mark.parametrize("recorder", ["as it comes", "slower than the device"])
def test_the_device_has_its_next_batch_while_one_is_recorded(
    labeller: Callable[[Device], Labeller], items: list[Item], monkeypatch: pytest.MonkeyPatch, recorder: str
) -> None:
    """Whoever records may take as long as it likes: until it has, the device was given another image."""
    device, late, taken = Device(), [], 0
    recorded, rounds = labeller_module._Writing.recorded, count(2)

    def recorded_late(writing: labeller_module._Writing, keep: int) -> list[Entry]:
        nonlocal taken
        begun = min(next(rounds), IMAGES)
        while taken + len(writing.entries) < begun:  # also what was begun meanwhile is labelled, and written
            time.sleep(0.01)
        wait(list(writing.entries))
        entries = recorded(writing, keep)
        taken += len(entries)
        return entries

    if recorder == "slower than the device":
        monkeypatch.setattr(labeller_module._Writing, "recorded", recorded_late)

    def record(entries: list[Entry]) -> list[Entry]:
        done = len(late) + len(entries)
        late.extend(not device.wait(min(done + 1, IMAGES)) for _ in entries)
        return entries

    entries = list(labeller(device).label(items, record))
    assert [entry.key for entry in entries] == [item.key for item in items]
    assert late == [False] * IMAGES


def test_after_a_stop_nothing_is_begun_and_what_was_is_recorded(
    labeller: Callable[[Device], Labeller], items: list[Item]
) -> None:
    """What the device was given before the stop was seen has its entry; there are two batches of it at most."""
    device, stop = Device(), threading.Event()

    def record(entries: list[Entry]) -> list[Entry]:
        if entries:
            stop.set()
        return entries

    entries = list(labeller(device).label(items, record, stop=stop))
    assert len(entries) == device.given < IMAGES
    stopped = Device()
    assert list(labeller(stopped).label(items, record, stop=stop)) == []
    assert stopped.given == 0


def test_what_was_given_is_recorded_when_nobody_listens_any_more(
    labeller: Callable[[Device], Labeller], items: list[Item]
) -> None:
    """The consumer leaves after the first entry: every label that was made has its entry."""
    device, recorded = Device(), []

    def record(entries: list[Entry]) -> list[Entry]:
        recorded.extend(entries)
        return entries

    labelling = labeller(device)
    entries = labelling.label(items, record)
    next(entries)
    entries.close()  # type: ignore[attr-defined] # a generator
    made = {path.stem for path in labelling.job.workspace.labels.rglob("*.png")}
    assert {entry.key for entry in recorded} == made
    assert len(made) == device.given


def test_an_error_that_is_not_the_devices_ends_the_work(
    labeller: Callable[[Device], Labeller], items: list[Item]
) -> None:
    """What is no failure of an image is raised where the entries are asked for, with the entries before it recorded."""
    recorded: list[Entry] = []

    def record(entries: list[Entry]) -> list[Entry]:
        recorded.extend(entries)
        return entries

    with pytest.raises(KeyError, match="no error that a device has"):
        list(labeller(Device(fails_at=5)).label(items, record))
    assert {"00", "01", "02", "03"} <= {entry.key for entry in recorded}
