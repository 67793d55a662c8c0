"""What only a CUDA device can show: streams, graphs, half precision, pinned memory, several devices."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from teacher.execution import Execution
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, default_spec
from teacher.transfer import Transfers

FillNetwork = Callable[[NetworkSpec], nn.Module]

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
SIZES = [(64, 96), (45, 61), (128, 32)]
SPECS = [
    NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16),
    default_spec("deeplabv3plus", 5, "tf_efficientnet_lite0"),
]

CANNOT_BE_RECORDED = """
import torch
from teacher.networks.prediction import ScalePrediction
from teacher.replaying import CudaRecorder, Replays


def run(images, attend):
    return ScalePrediction(images * images.max().item(), images if attend else None, None)


device = torch.device("cuda:0")
replays, stream = Replays(run, CudaRecorder(run, device)), torch.cuda.current_stream(device)
images = torch.randn(1, 3, 8, 8, device=device)
with torch.inference_mode():
    for _ in range(3):
        assert torch.equal(replays(images, False).logits, images * images.max())
        assert torch.cuda.current_stream(device) == stream
print(replays.problem, flush=True)
"""
"""In a process of its own: for the allocator of older versions of torch a recording that failed goes on for ever."""


@pytest.fixture
def device() -> torch.device:
    """The first device."""
    return torch.device("cuda:0")


@pytest.fixture(params=SPECS, ids=lambda spec: spec.network)
def network(request: pytest.FixtureRequest, fill_network: FillNetwork) -> nn.Module:
    """Each network, on the CPU."""
    return fill_network(request.param)


def _images(size: tuple[int, int], device: torch.device, seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed)).to(device)


def _assert_close(got: ScalePrediction, expected: ScalePrediction, tolerance: float) -> None:
    """Within a part of the logits' range, and the attention within the same part of 1."""
    logits = expected.logits.float().cpu()
    assert (got.logits.float().cpu() - logits).abs().max() <= tolerance * (logits.max() - logits.min())
    assert got.attention is not None
    assert expected.attention is not None
    assert (got.attention.float().cpu() - expected.attention.float().cpu()).abs().max() <= tolerance


def test_the_device_predicts_as_the_cpu(network: nn.Module, device: torch.device) -> None:
    """float32 on CUDA is float32, not TF32: what it predicts differs from the CPU's by rounding alone."""
    images = _images((64, 96), device, 1)
    expected = Execution(network, torch.device("cpu"))(images.cpu())
    _assert_close(Execution(network, device)(images), expected, 1e-4)


def test_float32_repeats_itself_to_the_bit(network: nn.Module, device: torch.device) -> None:
    """Two runs of one image give the same logits: no algorithm is chosen by how fast it was this time."""
    execution = Execution(network, device, graphs=0)
    images = _images((64, 96), device, 1)
    assert torch.equal(execution(images).logits, execution(images).logits)


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_replays_equal_direct_runs(network: nn.Module, device: torch.device, half: torch.dtype | None) -> None:
    """Of several sizes and batches in turn, each image's prediction by a graph is the one made without, to the bit."""
    direct, replayed = Execution(network, device, half, graphs=0), Execution(network, device, half)
    for turn in range(4):
        for size in SIZES:
            for batch in (1, 2):
                images = _images(size, device, turn, batch)
                expected, got = direct(images), replayed(images)
                assert torch.equal(got.logits, expected.logits)
                assert torch.equal(got.attention, expected.attention)
    assert replayed.problems == ()
    assert replayed._replays is not None
    assert len(replayed._replays._replays) == 2 * len(SIZES)


def test_results_of_a_replay_are_the_callers_own(network: nn.Module, device: torch.device) -> None:
    """What a graph gave stays as it was when the same graph, or another one of its pool, is run again."""
    execution = Execution(network, device)
    for _ in range(3):
        for size in SIZES:
            execution(_images(size, device, 0))
    first = execution(_images(SIZES[0], device, 1)).logits
    kept = first.clone()
    for size in SIZES:
        execution(_images(size, device, 2))
    assert torch.equal(first, kept)


def test_graphs_that_went_are_made_again(network: nn.Module, device: torch.device) -> None:
    """With room for one graph, with none left after a release, and again after that, predictions stay the same."""
    direct, execution = Execution(network, device, graphs=0), Execution(network, device, graphs=1)
    for turn in range(2):
        for size in [size for size in SIZES for _ in range(3)]:
            images = _images(size, device, turn)
            assert torch.equal(execution(images).logits, direct(images).logits)
        execution.release()
    assert execution.problems == ()


def test_graphs_share_their_memory(network: nn.Module, device: torch.device) -> None:
    """A second graph of a smaller size takes next to no memory: it works in the first one's."""
    execution = Execution(network, device)
    for _ in range(3):
        execution(_images((1024, 1024), device, 0))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    for _ in range(3):
        execution(_images((768, 768), device, 0))
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(device) <= before + 32 * 2**20


def test_what_cannot_be_recorded_is_run() -> None:
    """A network that waits for the device cannot be recorded; it is run all the same, on the caller's stream."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CANNOT_BE_RECORDED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("CUDA graphs are not used: "), done.stderr


def test_another_thread_may_upload_while_a_graph_is_recorded(network: nn.Module, device: torch.device) -> None:
    """Pinned memory that a thread allocates meanwhile does not spoil a recording."""
    transfers, ended = Transfers(device), threading.Event()
    images = [np.zeros((512, 512, 3), np.uint8)] * 2
    held = []

    def upload() -> None:
        while not ended.is_set():
            held.append(transfers.upload(images))  # kept, so that each needs memory of its own
            del held[:-20]

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        execution = Execution(network, device)
        for size in SIZES * 3:
            execution(_images(size, device, 0))
    finally:
        ended.set()
        thread.join()
    assert execution.problems == ()


@pytest.mark.parametrize(("half", "tolerance"), [(torch.bfloat16, 0.06), (torch.float16, 0.012)])
def test_half_precision_is_close(network: nn.Module, device: torch.device, half: torch.dtype, tolerance: float) -> None:
    """In half precision the prediction is float32's within what its few bits allow, and the attention is float32."""
    images = _images((64, 96), device, 1)
    got, expected = Execution(network, device, half)(images), Execution(network, device)(images)
    assert got.attention is not None
    assert expected.attention is not None
    assert got.attention.dtype == torch.float32
    # the mean: where an attention is steep, single pixels are off by a fifth on the CPU too
    logits = expected.logits
    assert (got.logits.float() - logits).abs().mean() <= tolerance * (logits.max() - logits.min())
    assert (got.attention - expected.attention).abs().mean() <= tolerance


def test_uploads_arrive_whole_and_in_order(device: torch.device) -> None:
    """Batches sent while the device is at work on those before are, when taken, what was sent."""
    transfers = Transfers(device)
    rng = np.random.default_rng(0)
    sent = [rng.integers(0, 256, (2, 270, 480, 3), dtype=np.uint8) for _ in range(8)]
    busy = torch.randn(2048, 2048, device=device)
    downloads = []
    upcoming = transfers.upload(list(sent[0]))
    for batch in [*sent[1:], None]:
        current = upcoming
        if batch is not None:
            upcoming = transfers.upload(list(batch))
        for _ in range(10):
            busy = (busy @ busy).clamp_(-1, 1)
        downloads.append(transfers.download(255 - current.take()))
    assert all(np.array_equal(got.wait(), 255 - batch) for got, batch in zip(downloads, sent, strict=True))


def test_transfers_use_pinned_memory_and_do_not_wait(device: torch.device) -> None:
    """With the device busy for long, sending and fetching return at once, and what is fetched is not there yet."""
    transfers = Transfers(device)
    image = np.full((270, 480, 3), 7, np.uint8)
    transfers.download(transfers.upload([image]).take()).wait()  # so that the pinned memory is there
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        torch.cuda._sleep(2_000_000_000)  # cycles: about a second of the current stream
    download = transfers.download(transfers.upload([image]).take())
    assert download.arrived is not None
    assert download.values.is_pinned()
    assert not download.arrived.query()
    assert np.array_equal(download.wait()[0], image)


def test_an_upload_does_not_wait_for_the_device(device: torch.device) -> None:
    """A batch is on the device while the stream that computes is still busy with the one before."""
    transfers = Transfers(device)
    image = np.full((270, 480, 3), 7, np.uint8)
    transfers.upload([image]).take()
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        torch.cuda._sleep(2_000_000_000)
        busy = torch.cuda.current_stream().record_event()
    upload = transfers.upload([image])
    assert upload.arrived is not None
    upload.arrived.synchronize()
    assert not busy.query()
    busy.synchronize()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is but one CUDA device")
def test_two_devices_work_side_by_side(network: nn.Module) -> None:
    """Executions and transfers on two devices, used in turn by one thread, give the same on both."""
    devices = [torch.device("cuda:0"), torch.device("cuda:1")]
    executions = [Execution(network, device) for device in devices]
    transfers = [Transfers(device) for device in devices]
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for _ in range(4):
        results = []
        for execution, transfer in zip(executions, transfers, strict=True):
            batch = transfer.upload([image]).take()
            assert batch.device == execution.device
            logits = execution(batch.permute(0, 3, 1, 2).float() / 255).logits
            assert logits.device == execution.device
            results.append(transfer.download(logits.argmax(1).to(torch.uint8)))
        labels = [result.wait() for result in results]
        assert (labels[0] == labels[1]).mean() > 0.999
    assert [execution.problems for execution in executions] == [(), ()]
    assert torch.cuda.current_device() == 0
