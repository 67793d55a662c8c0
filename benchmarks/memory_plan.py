"""Memory at labelling on the CPU: as it is planned against as it is, each image size in a process of its own.

    python benchmarks/memory_plan.py --encoder tf_efficientnet_lite0 --size 640x480 --size 1280x720
    python benchmarks/memory_plan.py --network hrnet-ocr --size 480x360

Measured is by how much the resident set grows at its peak (VmHWM of /proc/self/status, set back before) over that of
the same process when it has labelled one small image and given back what was free. Linux with glibc only. Weights are
random: memory does not depend on them.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.fitting import memory_of
from pipeline.memory import keep_all_but_the_largest, keep_freed_memory, return_freed_memory, trim_memory
from storage.schema import load_schema
from teacher.decision import DecisionRule
from teacher.inference import Teacher
from teacher.networks.registry import build_network, default_spec


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Plan and measure one size, in this process."""
    if arguments.malloc != "usual":  # before the network is loaded: what that leaves in the heap would be filled first
        policies = {"return": return_freed_memory, "most": keep_all_but_the_largest, "keep": keep_freed_memory}
        policies[arguments.malloc]()
    spec = default_spec(arguments.network, 19, arguments.encoder if arguments.network == "deeplabv3plus" else None)
    torch.manual_seed(0)
    teacher = Teacher.of_network(build_network(spec), spec, load_schema("cityscapes"), "cpu", arguments.precision)
    started = time.perf_counter()
    memory = memory_of(teacher)
    seconds = time.perf_counter() - started
    width, height = map(int, arguments.size[-1].split("x"))
    scales = tuple(map(float, arguments.scales.split(",")))
    planned = memory.peak((height, width), scales, batch=arguments.batch, tile=arguments.tile)
    rule = DecisionRule((0.5,))
    teacher.decide([np.zeros((64, 64, 3), np.uint8)], scales, rule, tile=arguments.tile)
    images = [np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8) for i in range(arguments.batch)]
    trim_memory()
    before = resident("VmRSS") - sum(image.nbytes for image in images)
    Path("/proc/self/clear_refs").write_text("5")
    start, cpu_start = time.perf_counter(), time.process_time()
    teacher.decide(images, scales, rule, tile=arguments.tile)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "size": arguments.size[-1],
        "planned": planned,
        "measured": resident("VmHWM") - before,
        "wall": wall,
        "cpu": cpu,
        "plan_seconds": seconds,
    }


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["hrnet-ocr", "deeplabv3plus"], default="deeplabv3plus")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--size", action="append", required=True, help="WIDTHxHEIGHT, more than once")
    parser.add_argument("--scales", default="0.5,1,2")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tile", type=int)
    parser.add_argument(
        "--malloc", choices=["return", "most", "keep", "usual"], default="return", help="what becomes of freed memory"
    )
    parser.add_argument("--one", action="store_true", help="the last size, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    print(f"{'size':>11} {'planned':>10} {'measured':>10} {'planned/measured':>17} {'wall s':>8} {'cpu s':>8}")
    for size in arguments.size:
        command = [sys.executable, __file__, *sys.argv[1:], "--size", size, "--one"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        planned, measured = found["planned"] / 1e6, found["measured"] / 1e6
        print(
            f"{size:>11} {planned:>7.1f} MB {measured:>7.1f} MB {planned / measured:>17.3f} {found['wall']:>8.2f} "
            f"{found['cpu']:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
