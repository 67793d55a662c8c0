"""What a GPU reaches of gpu_roofline.py's figures, measured with events: products, copies, forward passes, labels."""

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
from teacher.decision import DecisionRule
from teacher.execution import Execution
from teacher.networks.registry import NetworkSpec
from teacher.replaying import MAX_GRAPHS

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


def forward_work(execution: Execution, size: tuple[int, int], *, attend: bool) -> Callable[[], object]:
    """A forward pass of random images, as the execution runs it."""
    images = torch.rand(1, 3, *size, device=execution.device)
    return lambda: execution(images, attend=attend)


def product_rate() -> float:
    """Operations a second of a bf16 matrix product."""
    a, b = torch.rand(2, PRODUCT_SIZE, PRODUCT_SIZE, device="cuda", dtype=torch.bfloat16)
    return 2 * PRODUCT_SIZE**3 / device_seconds(lambda: torch.mm(a, b))


def copy_rate() -> float:
    """Bytes a second that a copy in the GPU's memory reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / device_seconds(lambda: target.copy_(source))


def print_forwards(network: nn.Module, spec: NetworkSpec, size: tuple[int, int], scales: tuple[float, ...]) -> None:
    """Print what forward passes take in bf16 as `label` runs them, as CUDA graphs, and as it runs a size's first."""
    product = product_rate()
    print(f"\nmeasured on {torch.cuda.get_device_name()}, torch {torch.__version__}: ", end="")
    print(f"product {product / 1e12:.0f} TFLOP/s, copy {copy_rate() / 1e12:.2f} TB/s")
    device = torch.device("cuda")
    launched, replayed = (Execution(network, device, torch.bfloat16, graphs=graphs) for graphs in (0, MAX_GRAPHS))
    print("\n| scale | kernel by kernel, ms | as a graph, ms | TFLOP/s | of the product |\n|---|---|---|---|---|")
    for scale, scaled, attend in forward_sizes(size, scales):
        single = device_seconds(forward_work(launched, scaled, attend=attend))
        seconds = device_seconds(forward_work(replayed, scaled, attend=attend))
        rate = sum(op.flops for op in forward_ops(spec, scaled, attend=attend)) / seconds
        cells = f"{scale:g} | {single * 1e3:.2f} | {seconds * 1e3:.2f} | {rate / 1e12:.0f} | {rate / product:.1%}"
        print(f"| {cells} |")
    print(*replayed.problems, sep="\n")


def print_labels(teacher: Teacher, size: tuple[int, int], scales: tuple[float, ...]) -> None:
    """Print how fast images become labels on the host: one after the other, and with the next one on its way."""
    # arrays of their own, as decoded images are: by these it is known what was expected
    images = [generate_scene(0, 0, size).image.copy() for _ in range(ROUNDS)]
    rule = DecisionRule((THRESHOLD,))
    for image in images[:3]:  # a size's first passes are recorded
        teacher.label([image], scales, THRESHOLD)
    taken = []
    for image in images:
        started = time.perf_counter()
        teacher.label([image], scales, THRESHOLD)  # ends with the label on the host
        taken.append(time.perf_counter() - started)
    started = time.perf_counter()
    decisions = []
    for image, following in zip(images, [*images[1:], None], strict=True):
        if following is not None:
            teacher.expect([following])
        decisions += teacher.decide([image], scales, rule)
    for decision in decisions:
        _ = decision.label
    ahead = len(images) / (time.perf_counter() - started)
    print(
        f"\nTeacher, from pixels to label on the host: {1 / statistics.median(taken):.2f} images/s one by one, ", end=""
    )
    print(f"{ahead:.2f} with the next on its way")
    print(f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU's memory")


def measure_device(spec: NetworkSpec, size: tuple[int, int], scales: tuple[float, ...]) -> None:
    """Measure on the GPU what was computed, and print it; or say that there is none.

    Args:
        spec: of the network.
        size: (height, width) of the images.
        scales: at which they are predicted.
    """
    if not torch.cuda.is_available():
        print("\nnot measured: no CUDA device")
        return
    schema = load_schema("cityscapes")
    network = random_network(spec, schema, (0.5, 1.0))
    print_forwards(network, spec, size, scales)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    print_labels(Teacher.of_network(network, spec, schema, "cuda", "bf16"), size, scales)
