"""The limits of labelling, measured in one process: the network's forward passes alone, and a matrix product.

The teacher labels images as `label` does, one by one and with nothing beside it, and only the time inside the network's
modules counts, told by torch's hooks on all modules: whatever the teacher does around or to its network, this holds.
Operations are counted, see network_cost.py. Prints one JSON object; label_speed.py calls it.

    python benchmarks/label_forward.py --images DIR --teacher hrnet-ocr --weights FILE
    python benchmarks/label_forward.py ... --profile        where an image's time goes, by stage and by operation
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from network_cost import forward_flops
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile

from pipeline.memory import keep_all_but_the_largest
from storage.image_reader import read_image
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from teacher import Teacher, load_teacher
from teacher.network_predictor import NetworkPredictor

THRESHOLD = 0.5
PRODUCT_SIZE = 2048
PRODUCT_SECONDS = 1.0
SHOWN = 15


class Pass(NamedTuple):
    """A forward pass."""

    size: tuple[int, int]
    """(height, width) of its images."""
    seconds: float
    cpu: float
    """Seconds of the processor, all threads of this process."""


class Rate(NamedTuple):
    """Operations a second, and a second of the processor: the latter suffers less from other work."""

    wall: float
    cpu: float


@contextmanager
def forward_passes() -> Iterator[list[Pass]]:
    """Time the outermost calls of modules made in this thread."""
    passes: list[Pass] = []
    entered: list[tuple[float, float]] = []

    def enter(_module: nn.Module, _inputs: Any) -> None:  # noqa: ANN401 - as torch calls it
        entered.append((time.perf_counter(), time.process_time()))

    def leave(_module: nn.Module, inputs: Any, _output: Any) -> None:  # noqa: ANN401 - as torch calls it
        started, before = entered.pop()
        if not entered:
            height, width = inputs[0].shape[-2:]
            passes.append(Pass((height, width), time.perf_counter() - started, time.process_time() - before))

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def product_rate() -> Rate:
    """The rate of float32 matrix products with torch's threads: the medians of a second's."""
    a, b = torch.rand(2, PRODUCT_SIZE, PRODUCT_SIZE)
    torch.mm(a, b)
    rates: list[Rate] = []
    end = time.perf_counter() + PRODUCT_SECONDS
    while not rates or time.perf_counter() < end:
        started, before = time.perf_counter(), time.process_time()
        torch.mm(a, b)
        taken = time.perf_counter() - started, time.process_time() - before
        rates.append(Rate(*(2 * PRODUCT_SIZE**3 / seconds for seconds in taken)))
    return medians(rates)


def medians(rates: list[Rate]) -> Rate:
    """The median of each of the two."""
    return Rate(*(statistics.median(column) for column in zip(*rates, strict=True)))


def measure(teacher: Teacher, paths: list[Path], scales: tuple[float, ...]) -> dict[str, float]:
    """Medians over the images: an image's forward passes and their operations, and the product's rate."""
    assert isinstance(teacher.predictor, NetworkPredictor), "foreign teachers cannot be counted"
    spec = teacher.predictor.spec
    taken: list[Rate] = []
    products, flops = [product_rate()], 0
    for path in paths:
        image = read_image(path)
        flops = forward_flops(spec, (image.shape[0], image.shape[1]), scales)
        with forward_passes() as passes:
            teacher.label([image], scales, THRESHOLD)
        taken.append(Rate(flops / sum(one.seconds for one in passes), flops / sum(one.cpu for one in passes)))
        products.append(product_rate())
    rate, product = medians(taken), medians(products)
    return {
        "flops": flops,
        "rate": rate.wall,
        "cpu_rate": rate.cpu,
        "product_rate": product.wall,
        "product_cpu_rate": product.cpu,
        "threads": torch.get_num_threads(),
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that work takes, and what it gives."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def print_stages(teacher: Teacher, path: Path, scales: tuple[float, ...]) -> None:
    """Print where one image's time goes, stage after stage, without the profiler's own cost."""
    decoding, image = timed(lambda: read_image(path))
    with forward_passes() as passes:
        deciding, labels = timed(lambda: teacher.label([image], scales, THRESHOLD))
    encoding, _ = timed(lambda: encode_label_png(LabelMap(labels[0], len(teacher.schema))))
    stages = {"decode": decoding}
    stages |= {f"forward at {one.size[1]}x{one.size[0]}": one.seconds for one in passes}
    stages |= {"resize, fuse, decide": deciding - sum(one.seconds for one in passes), "encode": encoding}
    total = sum(stages.values())
    print(f"\n| stage of one image, {image.shape[1]}x{image.shape[0]} | ms | share |\n|---|---|---|")
    for name, seconds in stages.items():
        print(f"| {name} | {seconds * 1e3:.1f} | {seconds / total:.1%} |")


def print_operations(teacher: Teacher, path: Path, scales: tuple[float, ...]) -> None:
    """Print the operations that take most of an image's time from its pixels to its label."""
    image = read_image(path)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        teacher.label([image], scales, THRESHOLD)
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print("\n| operation | calls | ms | share |\n|---|---|---|---|")
    for row in rows[:SHOWN]:
        share = row.self_cpu_time_total / total
        print(f"| `{row.key}` | {row.count} | {row.self_cpu_time_total / 1e3:.1f} | {share:.1%} |")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scales", default="0.5,1,2")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    scales = tuple(map(float, options.scales.split(",")))
    keep_all_but_the_largest()  # as `label` does
    teacher = load_teacher(options.teacher, options.weights, device="cpu")
    paths = sorted(options.images.iterdir())
    if not options.profile:
        print(json.dumps(measure(teacher, paths, scales)))
        return
    teacher.label([read_image(paths[0])], scales, THRESHOLD)  # what is set up on first use is not an image's time
    print_stages(teacher, paths[-1], scales)
    print_operations(teacher, paths[-1], scales)


if __name__ == "__main__":
    main()
