"""Which GPU each process of a run on one machine is given."""

import pytest
import torch

from pipeline.dask_cluster import LocalProcesses
from pipeline.dask_open import visible_gpus
from storage.errors import SettingsError


@pytest.mark.parametrize(
    ("told", "count", "expected"),
    [
        (None, 2, ("0", "1")),
        ("", 2, ("0", "1")),
        ("3,5", 2, ("3", "5")),
        ("GPU-4f3a,MIG-77b0", 2, ("GPU-4f3a", "MIG-77b0")),
        ("0,1,7", 2, ("0", "1")),
        ("0,-1,1", 1, ("0",)),
    ],
)
def test_gpus_are_those_that_the_driver_shows(
    monkeypatch: pytest.MonkeyPatch, told: str | None, count: int, expected: tuple[str, ...]
) -> None:
    """Of the devices that CUDA_VISIBLE_DEVICES names, those that are there, in the driver's own terms."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    assert visible_gpus("cuda") == visible_gpus("auto") == expected
    assert visible_gpus("cpu") == ()
    with pytest.raises(SettingsError, match="one GPU; with workers give cuda"):
        visible_gpus("cuda:1")


def test_each_process_sees_its_own_gpu() -> None:
    """The number of a process says which of the GPUs it is shown; without any it is told nothing."""
    processes = LocalProcesses(2, ("3", "GPU-4f3a"))
    assert [processes._worker(n)["env"]["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["3", "GPU-4f3a"]
    assert "CUDA_VISIBLE_DEVICES" not in LocalProcesses(2)._worker(0)["env"]
