import gc
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from teacher.transfer import Transfers, Upload, UploadsAhead

Image = npt.NDArray[np.uint8]


class CountingTransfers(Transfers):
    """Those of the CPU; it counts uploads, and can be kept from beginning any."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.threads: list[str] = []
        self.may_begin = threading.Event()
        self.may_begin.set()

    def upload(self, images: Sequence[Image]) -> Upload:
        """Count it."""
        assert self.may_begin.wait(300)
        self.threads.append(threading.current_thread().name)
        return super().upload(images)


def make_images(*values: int) -> list[Image]:
    """One image of 4x6 pixels for each value."""
    return [np.full((4, 6, 3), value, np.uint8) for value in values]


def test_on_the_cpu_nothing_is_copied_but_into_the_batch() -> None:
    """What is sent arrives as it was, and what is brought back shares the memory it was computed in."""
    images = make_images(3, 5)
    transfers = Transfers(torch.device("cpu"))
    batch = transfers.upload(images).take()
    assert batch.shape == (2, 4, 6, 3)
    assert np.array_equal(batch.numpy(), np.stack(images))
    assert np.shares_memory(transfers.download(batch).wait(), batch.numpy())


def test_what_was_expected_is_sent_once_and_by_another_thread() -> None:
    """Images that were expected, however often, are sent once, before they are asked for; others when they are."""
    transfers = CountingTransfers()
    ahead = UploadsAhead(transfers)
    first, second = make_images(1, 2), make_images(3, 4)
    for images in (first, first, second):
        ahead.expect(images)
    assert np.array_equal(ahead.upload(first).take().numpy(), np.stack(first))
    assert np.array_equal(ahead.upload(second).take().numpy(), np.stack(second))
    assert len(transfers.threads) == 2
    assert threading.current_thread().name not in transfers.threads
    assert np.array_equal(ahead.upload(first).take().numpy(), np.stack(first)), "it was given away: sent again"
    assert transfers.threads[2:] == [threading.current_thread().name]


def test_other_images_than_expected_are_sent_as_they_are() -> None:
    """A part of what was expected, or images of the same values, are another batch."""
    transfers = CountingTransfers()
    ahead = UploadsAhead(transfers)
    images = make_images(1, 2)
    ahead.expect(images)
    assert np.array_equal(ahead.upload(images[:1]).take().numpy(), np.stack(images[:1]))
    assert np.array_equal(ahead.upload(make_images(1, 2)).take().numpy(), np.stack(images))
    assert transfers.threads.count(threading.current_thread().name) == 2


def test_expecting_does_not_wait() -> None:
    """Who expects images goes on while they cannot be sent yet."""
    transfers = CountingTransfers()
    ahead = UploadsAhead(transfers)
    images = make_images(7)
    transfers.may_begin.clear()
    ahead.expect(images)
    assert transfers.threads == []
    transfers.may_begin.set()
    assert ahead.upload(images).take()[0, 0, 0, 0] == 7


def test_no_more_than_two_batches_wait() -> None:
    """Of batches that nobody asks for the two latest are kept, and after `clear` none."""
    ahead = UploadsAhead(Transfers(torch.device("cpu")))
    uploaded = []
    real = ahead._transfers.upload

    def upload(images: Sequence[Image]) -> Upload:
        made = real(images)
        uploaded.append(weakref.ref(made.images))
        return made

    ahead._transfers.upload = upload  # type: ignore[method-assign] # watched, not replaced
    batches = [make_images(number) for number in range(5)]
    for batch in batches:
        ahead.expect(batch)
    ahead.upload(batches[4])  # the latest has come: so have those before it
    ahead._thread.submit(int).result()  # a thread holds on to what it has done until it begins the next
    gc.collect()
    assert sum(one() is not None for one in uploaded) == 1
    ahead.clear()
    gc.collect()
    assert not any(one() is not None for one in uploaded)


def test_an_error_of_sending_is_told_to_who_asks() -> None:
    """Images that cannot be sent are an error where they are asked for, and not before; those after them are sent."""
    ahead = UploadsAhead(Transfers(torch.device("cpu")))
    wrong, right = [*make_images(1), np.zeros((2, 2, 3), np.uint8)], make_images(2)
    ahead.expect(wrong)
    ahead.expect(right)
    with pytest.raises(ValueError, match="shape"):
        ahead.upload(wrong)
    assert ahead.upload(right).take()[0, 0, 0, 0] == 2
