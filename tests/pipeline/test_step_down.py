"""Out of memory: a smaller way is taken once, remembered, recorded, and the run goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from pipeline.decider import ForesightedDecider, TilingDecider
from pipeline.labeller import LabelJob, Labeller
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.step_down import StepDown, Way
from storage.label_png import LabelFormat, read_label_png, read_provenance
from storage.layouts import Item, list_images
from storage.ledger import Entry, Ledger
from storage.out_of_memory import is_out_of_memory
from storage.schema import ClassSchema
from storage.workspace import Workspace
from teacher import Teacher

Image = npt.NDArray[np.uint8]


@dataclass
class Made:
    """A label that is there."""

    label: Image
    soft: Image | None = None


@dataclass
class Late:
    """A label that comes later, or the error that comes in its stead."""

    image: Image
    error: Exception | None = None
    soft: Image | None = None

    @property
    def label(self) -> Image:
        """Wait for it."""
        if self.error is not None:
            raise self.error
        return brightness([self.image])[0].label


def brightness(images: Sequence[Image]) -> list[Made]:
    """A label that is known beforehand: two classes, by the red channel."""
    return [Made((image[..., 0] > 127).astype(np.uint8)) for image in images]


@dataclass
class SmallDevice:
    """A device with room for so many pixels; as torch does, it raises an error of torch's own beyond."""

    room: int
    attempts: list[tuple[int, int, int]] = field(default_factory=list)
    """Images, height and width of each attempt."""
    problems: tuple[str, ...] = ()

    def decide(self, images: Sequence[Image]) -> Sequence[Made | Late]:
        """Label, where there is room for all images together."""
        self.attempts.append((len(images), *images[0].shape[:2]))
        if sum(image[..., 0].size for image in images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return brightness(images)


@dataclass
class SmallTilingDevice(SmallDevice):
    """One that has tiles of 32 and of 16 pixels, too."""

    tiles: list[int] = field(default_factory=list)
    freed: int = 0
    first_tile: int | None = None

    def first_way(self, size: tuple[int, int], batch: int) -> Way:  # noqa: ARG002 - the protocol's
        """As it was told."""
        return Way(batch, self.first_tile)

    def next_tile(self, size: tuple[int, int], tile: int | None) -> int | None:  # noqa: ARG002 - the protocol's
        """32, then 16."""
        return next((side for side in (32, 16) if tile is None or side < tile), None)

    def decide_in_tiles(self, images: Sequence[Image], tile: int) -> Sequence[Made | Late]:
        """Label, where there is room for a tile of each image."""
        self.tiles.append(tile)
        if len(images) * tile**2 > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return brightness(images)

    def free_memory(self) -> None:
        """Count."""
        self.freed += 1


@pytest.fixture
def items(tmp_path: Path, make_image: Callable[..., object]) -> list[Item]:
    """Six images of 40x50 pixels (height x width), then two of 20x30."""
    for number in range(8):
        make_image(tmp_path / f"images/{number}.png", (40, 50) if number < 6 else (20, 30), number)
    return list(list_images(tmp_path / "images", "folder").items)


@pytest.fixture
def label(tmp_path: Path, schema: ClassSchema, items: list[Item]) -> Callable[..., list[Entry]]:
    """Label the items with a device."""

    def work(device: SmallDevice, batch: int = 4) -> list[Entry]:
        workspace = Workspace(tmp_path / "run")
        workspace.prepare()
        job = LabelJob(workspace, schema, "digest", {"settings": "digest"}, LabelFormat(), 0, batch)
        entries = list(Labeller(job, device).label(items, lambda new: new))
        for entry in entries:
            if entry.status == "done":
                image = next(item.image for item in items if item.key == entry.key)
                expected = brightness([np.array(Pillow.open(image))])[0].label
                np.testing.assert_array_equal(read_label_png(workspace.label_path(entry.key), schema).values, expected)
        return entries

    return work


def test_a_smaller_batch_is_taken_once_and_kept(label: Callable[..., list[Entry]]) -> None:
    """The first batch that does not fit is halved; what follows of that size is not tried the large way again."""
    device = SmallDevice(room=2 * 40 * 50)
    entries = label(device)
    assert [entry.status for entry in entries] == ["done"] * 8
    assert [images for images, *_ in device.attempts] == [4, 2, 2, 2, 2]
    assert [entry.reason for entry in entries] == ["for want of memory labelled 2 images at a time"] * 6 + [""] * 2


def test_tiles_come_after_single_images_and_are_kept(label: Callable[..., list[Entry]], tmp_path: Path) -> None:
    """An image that does not fit is labelled in tiles, in smaller ones if those do not fit, and so are the rest."""
    device = SmallTilingDevice(room=16 * 16 + 20 * 30)
    entries = label(device)
    assert [entry.status for entry in entries] == ["done"] * 8
    assert device.attempts == [(4, 40, 50), (2, 40, 50), (1, 40, 50), (2, 20, 30), (1, 20, 30), (1, 20, 30)]
    assert device.tiles == [32] + [16] * 6
    assert device.freed == 5, "once after each attempt that failed"
    reasons = [entry.reason for entry in entries]
    assert reasons[:6] == ["for want of memory labelled one image at a time, in tiles of 16 pixels"] * 6
    assert reasons[6:] == ["for want of memory labelled one image at a time"] * 2
    labels = Workspace(tmp_path / "run").label_path
    assert read_provenance(labels("0"))["tile"] == 16
    assert "tile" not in read_provenance(labels("7"))


def test_what_does_not_fit_in_any_way_is_a_failed_item(label: Callable[..., list[Entry]]) -> None:
    """Without tiles, or where the smallest does not fit, the image fails with the device's reason; others do not."""
    for device in (SmallDevice(room=20 * 30), SmallTilingDevice(room=10)):
        entries = label(device)
        failed = [entry for entry in entries if entry.status == "failed"]
        assert len(failed) == (6 if type(device) is SmallDevice else 8)
        assert all("CUDA out of memory" in entry.reason for entry in failed)


def test_a_planned_way_is_the_first_that_is_tried(label: Callable[..., list[Entry]]) -> None:
    """What the plan says does not fit is not tried."""
    device = SmallTilingDevice(room=4 * 32 * 32, first_tile=32)
    entries = label(device)
    assert not device.attempts
    assert device.tiles == [32, 32, 32]
    assert {entry.reason for entry in entries} == {
        "for want of memory labelled 4 images at a time, in tiles of 32 pixels"
    }


def test_another_error_costs_its_image_alone_and_no_smaller_way(label: Callable[..., list[Entry]]) -> None:
    """An error that is not about memory is narrowed down to its image; the next batch is as large as before."""

    class Fragile(SmallDevice):
        def decide(self, images: Sequence[Image]) -> Sequence[Made | Late]:
            decided = super().decide(images)
            if any(image[0, 0, 0] == self.poison for image in images):
                raise RuntimeError("the driver has gone")
            return decided

        poison = -1

    device = Fragile(room=10**6)
    device.poison = int(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)[0, 0, 0])
    entries = label(device)
    assert [entry.key for entry in entries if entry.status == "failed"] == ["1"]
    assert [images for images, *_ in device.attempts] == [4, 1, 1, 1, 1, 2, 2]
    assert not any(entry.reason for entry in entries if entry.status == "done")


@dataclass
class LateDevice(SmallTilingDevice):
    """One that, like CUDA, is given work without being waited for, and tells only later that it has failed."""

    poison: int = -1
    """Value of the first pixel of an image that it cannot do."""

    def _later(self, images: Sequence[Image], needed: int) -> list[Late]:
        error: Exception | None = None
        if needed > self.room:
            error = torch.OutOfMemoryError("CUDA error: out of memory")
        elif any(image[0, 0, 0] == self.poison for image in images):
            error = RuntimeError("CUDA error: an illegal memory access was encountered")
        return [Late(image, error) for image in images]

    def decide(self, images: Sequence[Image]) -> Sequence[Made | Late]:
        """Label, some time."""
        self.attempts.append((len(images), *images[0].shape[:2]))
        return self._later(images, sum(image[..., 0].size for image in images))

    def decide_in_tiles(self, images: Sequence[Image], tile: int) -> Sequence[Made | Late]:
        """Label, some time."""
        self.tiles.append(tile)
        return self._later(images, len(images) * tile**2)


def test_memory_that_runs_out_later_costs_no_image(label: Callable[..., list[Entry]]) -> None:
    """Where only a label shows that a batch did not fit, one step is taken, and its images are labelled and say so."""
    device = LateDevice(room=2 * 40 * 50)
    entries = label(device)
    assert [entry.status for entry in entries] == ["done"] * 8
    # how much of the next batch is given to the device before that shows depends on threads
    assert [images for images, height, _ in device.attempts if height == 40].count(4) == 1
    assert {entry.reason for entry in entries[:4]} == {"for want of memory labelled 2 images at a time"}
    assert not device.tiles


def test_tiles_are_taken_when_memory_runs_out_later(label: Callable[..., list[Entry]]) -> None:
    """An image that turns out not to fit is labelled in tiles, as small as they must be."""
    device = LateDevice(room=16 * 16 + 20 * 30)
    entries = label(device, batch=1)
    assert [entry.status for entry in entries] == ["done"] * 8
    assert {entry.reason for entry in entries[:6]} == {
        "for want of memory labelled one image at a time, in tiles of 16 pixels"
    }
    assert [entry.reason for entry in entries[6:]] == [""] * 2


def test_an_error_that_shows_later_costs_its_image_alone(label: Callable[..., list[Entry]]) -> None:
    """A batch of which the device says later that it has failed is labelled again, image by image."""
    device = LateDevice(room=10**6)
    device.poison = int(np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)[0, 0, 0])
    entries = label(device)
    failed = [entry for entry in entries if entry.status == "failed"]
    assert [entry.key for entry in failed] == ["1"]
    assert "1.png: CUDA error: an illegal memory access" in failed[0].reason
    assert not any(entry.reason for entry in entries if entry.status == "done")


@dataclass
class ForesightedDevice(SmallTilingDevice):
    """One that is told what comes next."""

    looks_ahead: bool = True
    events: list[tuple[str, list[int]]] = field(default_factory=list)
    """What it was told and given: the identities of the images."""
    held: dict[int, Image] = field(default_factory=dict)
    """The images by their identities, so that no two have the same."""

    def _note(self, event: str, images: Sequence[Image]) -> None:
        self.held |= {id(image): image for image in images}
        self.events.append((event, [id(image) for image in images]))

    def expect(self, images: Sequence[Image]) -> None:
        """Remember it."""
        self._note("expect", images)

    def decide(self, images: Sequence[Image]) -> Sequence[Made | Late]:
        """Remember it, and label."""
        self._note("decide", images)
        return super().decide(images)


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
@pytest.mark.parametrize("room", [10**6, 40 * 50])
def test_the_device_is_told_what_comes_next(label: Callable[..., list[Entry]], batch: int, room: int) -> None:
    """Right before each batch a decider that looks ahead is told the next one, and gets it, unless memory runs out."""
    device = ForesightedDevice(room=room)
    assert isinstance(device, ForesightedDecider)
    assert [entry.status for entry in label(device, batch)] == ["done"] * 8
    for place, (event, told) in enumerate(device.events):
        if event == "expect":
            (now, given), *later = device.events[place + 1 :]
            assert now == "decide"
            if sum(device.held[one][..., 0].size for one in given) <= room:  # else these are tried again before
                assert next(images for kind, images in later if kind == "decide") == told
    assert [event for event, _ in device.events].count("expect") == len(device.attempts) - 1


def test_a_device_that_does_not_look_ahead_is_not_told(label: Callable[..., list[Entry]]) -> None:
    """Where foresight is of no use, as on the CPU, images are not kept for it."""
    device = ForesightedDevice(room=10**6, looks_ahead=False)
    label(device, 2)
    assert {event for event, _ in device.events} == {"decide"}


def test_the_ledger_says_how_each_image_was_labelled(
    tmp_path: Path, tiny_teacher: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run, an item that was labelled in a smaller way is done, with the same label, and its entry says so."""
    settings = LabelSettings(
        images=items[0].image.parent, teacher=str(tiny_teacher), scales=(1.0,), device="cpu", out=tmp_path / "usual"
    )
    real, attempts = Teacher.decide, []

    def decide(self: Teacher, images: list[Image], *args: object, **kwargs: object) -> object:
        attempts.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return real(self, images, *args, **kwargs)  # type: ignore[arg-type] # passed through as they came

    with LabelRun(settings) as run:
        usual = list(run)
    monkeypatch.setattr(Teacher, "decide", decide)
    with LabelRun(settings.model_copy(update={"batch": 2, "out": tmp_path / "small"})) as run:
        entries = list(run)
        assert (run.summary.labelled, run.summary.failed) == (8, 0)
    assert attempts == [2, *[1] * 6, 2, 1, 1]
    assert [entry.sha256 for entry in entries] == [entry.sha256 for entry in usual]
    with Ledger(tmp_path / "small/ledger.sqlite", read_only=True) as ledger:
        assert {entry.reason for entry in ledger} == {"for want of memory labelled one image at a time"}


def test_larger_images_start_where_smaller_ones_have_come_to() -> None:
    """A size for which memory ran out is not tried anew for each larger size; smaller ones start afresh."""
    steps = StepDown(lambda _: Way(8), lambda _, tile: 512 if tile is None else None)
    assert steps.step_down((100, 100), together=8)
    assert steps.way((100, 101)) == Way(4)
    assert steps.way((100, 99)) == Way(8)
    assert steps.step_down((200, 200), together=1), "a group's rest may be fewer than the way allows"
    assert steps.way((200, 200)) == Way(1, 512)
    assert steps.way((300, 300)) == Way(1, 512)
    assert steps.way((100, 100)) == Way(4)
    assert not steps.step_down((300, 300), together=1)


@given(batch=st.integers(1, 300), sides=st.lists(st.integers(1, 5000), max_size=5))
def test_steps_are_few_and_each_is_smaller(batch: int, sides: list[int]) -> None:
    """Whatever the batch and the tiles are, each step takes less than the one before, and they come to an end."""

    def next_tile(_: tuple[int, int], tile: int | None) -> int | None:
        return max((side for side in sides if tile is None or side < tile), default=None)

    steps = StepDown(lambda _: Way(batch), next_tile)
    ways = [steps.way((9, 9))]
    while steps.step_down((9, 9), ways[-1].batch):
        ways.append(steps.way((9, 9)))
    needs = [way.need for way in ways]
    assert needs == sorted(set(needs), reverse=True)
    assert len(ways) == batch.bit_length() + len(set(sides))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 40 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("upsample_bilinear2d_nhwc only supports tensors with less than INT_MAX elements"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, expected: bool) -> None:
    """The errors with which torch and its libraries ask for less are known, others are not taken for them."""
    assert is_out_of_memory(error) is expected


def test_the_cpus_allocator_has_the_error_that_is_expected_of_it() -> None:
    """Torch, asked for more than any machine has, raises an error that is known to be of memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_device_without_tiles_is_none_with_them() -> None:
    """What a decider can do is told by its methods."""
    assert isinstance(SmallTilingDevice(1), TilingDecider)
    assert not isinstance(SmallDevice(1), TilingDecider)
