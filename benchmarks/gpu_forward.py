"""What a GPU reaches of gpu_roofline.py's figures, measured with events: products, copies, forward passes, labels."""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from network_cost import forward_ops, forward_sizes
from random_teacher import random_network
from torch import nn

from pipeline.scenes import generate_scene
from storage.schema import load_schema
from teacher import Teacher
from teacher.networks.registry import NetworkSpec

THRESHOLD = 0.5
ROUNDS = 20
PRODUCT_SIZE = 8192
COPY_BYTES = 1 << 30


def device_seconds(work: Callable[[], object]) -> float:
    """Median of the GPU's time, by events."""
    for _ in range(3):
        work()
    taken: list[float] = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def forward_work(network: nn.Module, size: tuple[int, int], *, attend: bool, graph: bool) -> Callable[[], object]:
    """A forward pass in bf16 on the GPU, or its replay as a CUDA graph."""
    images = torch.rand(1, 3, *size, device="cuda").to(memory_format=torch.channels_last)

    def run() -> object:
        # a recording must not outlive autocast's cache of rounded weights
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=not graph):
            return network(images, attend=attend)

    if not graph:
        return run
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is set up on first use must not be recorded
            run()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        kept = run()  # its memory is the graph's, as long as it lives

    def replay() -> object:
        recorded.replay()
        return kept

    return replay


def product_rate() -> float:
    """Operations a second of a bf16 matrix product."""
    a, b = torch.rand(2, PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.bfloat16)
    return 2 * PRODUCT_SIZE**3 / device_seconds(lambda: torch.mm(a, b))


def copy_rate() -> float:
    """Bytes a second that a copy in the GPU's memory reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / device_seconds(lambda: target.copy_(source))


def measure_device(spec: NetworkSpec, size: tuple[int, int], scales: tuple[float, ...], *, graphs: bool) -> None:
    """Measure on the GPU what was computed, and print it; or say that there is none.

    Args:
        spec: of the network.
        size: (height, width) of the images.
        scales: at which they are predicted.
        graphs: measure the forward passes as CUDA graphs.
    """
    if not torch.cuda.is_available():
        print("\nnot measured: no CUDA device")
        return
    product = product_rate()
    print(f"\nmeasured on {torch.cuda.get_device_name()}, torch {torch.__version__}: ", end="")
    print(f"product {product / 1e12:.0f} TFLOP/s, copy {copy_rate() / 1e12:.2f} TB/s")
    schema = load_schema("cityscapes")
    network = random_network(spec, schema, (0.5, 1.0))
    teacher = Teacher(copy.deepcopy(network), spec, schema, "cuda", "bf16")
    network = network.cuda().to(memory_format=torch.channels_last)
    print("\n| scale | forward pass, ms | TFLOP/s | of the product |\n|---|---|---|---|")
    for scale, scaled, attend in forward_sizes(size, scales):
        seconds = device_seconds(forward_work(network, scaled, attend=attend, graph=graphs))
        rate = sum(op.flops for op in forward_ops(spec, scaled, attend=attend)) / seconds
        print(f"| {scale:g} | {seconds * 1e3:.2f} | {rate / 1e12:.0f} | {rate / product:.1%} |")
    image = generate_scene(0, 0, size).image
    teacher.label([image], scales, THRESHOLD)
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        teacher.label([image], scales, THRESHOLD)  # ends with the label on the host
        taken.append(time.perf_counter() - started)
    print(f"\nTeacher.label, from pixels to label on the host: {1 / statistics.median(taken):.2f} images/s, one by one")
    print(f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory")
