"""Batch norm over several processes. Run as a script, this file is one of the processes."""

import functools
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, distributed, nn

from pipeline.batch_norm import SynchronisedBatchNorm, synchronise_batch_norm
from teacher.networks.registry import build_network, default_spec

WORLD = 2
PATIENCE = 600
"""Seconds until a process that does not come is a failure."""
CASES = ("torch", "timm", "cumulative", "bare", "one value each", "bfloat16", "deeplabv3plus")
Result = dict[str, Any]


def _network(case: str) -> nn.Module:
    torch.manual_seed(0)
    if case == "deeplabv3plus":
        network = build_network(default_spec("deeplabv3plus", 3, "tf_efficientnet_lite0")).double()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0  # its random numbers are not of the whole batch
        return network
    norm = {
        "timm": BatchNormAct2d(5, act_layer=nn.PReLU),
        "cumulative": nn.BatchNorm2d(5, momentum=None),
        "bare": nn.BatchNorm2d(5, affine=False, track_running_stats=False),
    }.get(case, nn.BatchNorm2d(5))
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), norm, nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4))
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def _run(case: str, part: slice) -> Result:
    """Two forwards and a backward over a part of the case's batch; what came of it."""
    network = synchronise_batch_norm(_network(case))
    size = {"deeplabv3plus": (5, 3, 64, 64), "one value each": (2, 3, 1, 1)}.get(case, (5, 3, 9, 7))
    random = torch.Generator().manual_seed(1)
    dtype = torch.float64 if case == "deeplabv3plus" else torch.float32
    images, probe = (torch.randn(size, generator=random, dtype=dtype) * 3 + 20 for _ in range(2))
    images = images[part].contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "bfloat16"):
        network(images.detach() + 1)
        output = network(images)
    logits = output.logits if case == "deeplabv3plus" else output
    # weighted by place and by image, for batch norm takes away what all have in common
    seen = nn.functional.interpolate(probe[part, :1], logits.shape[-2:])
    (logits * seen).sum().backward()
    return {
        "output": logits.detach(),
        "channels last": logits.is_contiguous(memory_format=torch.channels_last),
        "input gradient": images.grad,
        "gradients": {name: p.grad for name, p in network.named_parameters() if p.grad is not None},
        "buffers": dict(network.named_buffers()),
        "keys": list(network.state_dict()),
        "kinds": {type(module).__name__ for module in network.modules() if isinstance(module, nn.BatchNorm2d)},
    }


@functools.cache
def _whole(case: str) -> Result:
    return _run(case, slice(None))


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    """What each of two processes made of its part of every case."""
    folder = tmp_path_factory.mktemp("processes")
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment) for rank in range(WORLD)
    ]
    assert [process.wait(timeout=PATIENCE) for process in started] == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _check(actual: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    """To 1e-5 of the largest value of all: what batch norm cancels, such as a bias before it, is rounding alone."""
    tolerance = 0.02 if case == "bfloat16" else 1e-5
    largest = max(1e-4, *(float(values.abs().max()) for values in expected.values()))
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            actual[name], values, rtol=tolerance, atol=tolerance * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case", CASES)
def test_processes_together_are_one(processes: list[dict[str, Result]], case: str) -> None:
    """Outputs, gradients, their sums over the processes for weights, and running statistics are the whole batch's."""
    whole = _whole(case)
    parts = [results[case] for results in processes]
    for name in ("output", "input gradient"):
        _check({name: torch.cat([part[name] for part in parts])}, {name: whole[name]}, case)
    _check(
        {name: sum(part["gradients"][name] for part in parts) for name in parts[0]["gradients"]},
        whole["gradients"],
        case,
    )
    for part in parts:
        for name, expected in whole["buffers"].items():
            _check({name: part["buffers"][name]}, {name: expected}, case)


@pytest.mark.parametrize("case", CASES)
def test_only_the_layers_kind_changes(processes: list[dict[str, Result]], case: str) -> None:
    """Every batch norm is replaced, the names in the state stay in their order, and channels-last stays so."""
    for results in processes:
        assert results[case]["kinds"] == {SynchronisedBatchNorm.__name__}
        assert results[case]["keys"] == list(_network(case).state_dict())
        assert results[case]["channels last"] == _whole(case)["channels last"]


def test_one_process_is_left_alone() -> None:
    """Without other processes the network is returned as it is."""
    network = _network("timm")
    before = list(network.modules())
    assert synchronise_batch_norm(network) is network
    assert list(network.modules()) == before


def test_tensors_are_taken_over() -> None:
    """The replaced layer has the very tensors and the mode of the original, and in evaluation gives the same values."""
    original = BatchNormAct2d(3, act_layer=nn.ReLU6)
    original(torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)))
    original.eval()
    converted = SynchronisedBatchNorm(original)
    features = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    assert not converted.training
    assert converted.weight is original.weight
    assert converted.running_var is original.running_var
    assert torch.equal(converted(features), original(features))


def _main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD, timeout=timedelta(seconds=PATIENCE)
    )
    results = {}
    for case in CASES:
        cut = 1 if case == "one value each" else 2
        results[case] = _run(case, slice(None, cut) if rank == 0 else slice(cut, None))
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
