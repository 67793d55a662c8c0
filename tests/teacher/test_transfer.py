import numpy as np
import torch

from teacher.transfer import Transfers


def test_on_the_cpu_nothing_is_copied_but_into_the_batch() -> None:
    """What is sent arrives as it was, and what is brought back shares the memory it was computed in."""
    images = [np.full((4, 6, 3), value, np.uint8) for value in (3, 5)]
    transfers = Transfers(torch.device("cpu"))
    batch = transfers.upload(images).take()
    assert batch.shape == (2, 4, 6, 3)
    assert np.array_equal(batch.numpy(), np.stack(images))
    assert np.shares_memory(transfers.download(batch).wait(), batch.numpy())
