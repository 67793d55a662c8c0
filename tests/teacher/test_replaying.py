"""Which sizes get a graph; the recording itself needs CUDA, and is tested there."""

import torch
from torch import Tensor

from teacher.networks.prediction import ScalePrediction
from teacher.replaying import Replay, Replays


class _Device:
    """Runs and records by doubling; keeps what it was asked for."""

    def __init__(self, *, records: bool = True) -> None:
        self.ran: list[tuple[int, ...]] = []
        self.recorded: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []
        self._records = records

    def run(self, images: Tensor, attend: bool) -> ScalePrediction:
        self.ran.append(tuple(images.shape))
        return ScalePrediction(2 * images, images if attend else None, None)

    def record(self, images: Tensor, attend: bool) -> Replay:
        if not self._records:
            raise RuntimeError("operation not permitted when stream is capturing")
        size = tuple(images.shape)
        self.recorded.append(size)

        def replay(others: Tensor) -> ScalePrediction:
            assert tuple(others.shape) == size
            self.replayed.append(size)
            return ScalePrediction(2 * others, others if attend else None, None)

        return replay


def _images(width: int) -> Tensor:
    return torch.full((1, 3, 2, width), float(width))


def test_a_size_is_recorded_when_it_comes_again() -> None:
    """A size is run the first time, recorded the second, replayed from then on, always with the same result."""
    device = _Device()
    replays = Replays(device.run, device.record)
    for _ in range(4):
        assert torch.equal(replays(_images(4), False).logits, 2 * _images(4))
    assert len(device.ran) == len(device.recorded) == 1
    assert len(device.replayed) == 3


def test_sizes_that_never_come_again_are_only_run() -> None:
    """Where each image has a size of its own, nothing is recorded."""
    device = _Device()
    replays = Replays(device.run, device.record)
    for width in range(4, 200):
        replays(_images(width), False)
    assert device.recorded == []


def test_attention_is_a_graph_of_its_own() -> None:
    """A size with attention is not answered by its graph without."""
    device = _Device()
    replays = Replays(device.run, device.record)
    for attend in (False, True) * 3:
        assert (replays(_images(4), attend).attention is not None) == attend
    assert len(device.recorded) == 2


def test_the_graph_used_least_recently_goes() -> None:
    """No more graphs are kept than the limit, and those in use stay."""
    device = _Device()
    replays = Replays(device.run, device.record, limit=2)
    for width in (4, 4, 5, 5, 4, 6, 6):  # the third graph drops that of 5
        replays(_images(width), False)
    before = len(device.ran)
    replays(_images(4), False)
    replays(_images(6), False)
    assert len(device.ran) == before
    replays(_images(5), False)
    assert len(device.ran) == before + 1


def test_a_failed_recording_costs_no_image() -> None:
    """Where nothing can be recorded, every image is run, recording is not tried again, and it is said why."""
    device = _Device(records=False)
    replays = Replays(device.run, device.record)
    for _ in range(3):
        assert torch.equal(replays(_images(4), True).logits, 2 * _images(4))
    assert len(device.ran) == 3
    assert replays.problem is not None
    assert "not permitted" in replays.problem
