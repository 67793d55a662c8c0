"""What labelling with HRNet-OCR takes of a GPU and of the host beside it: computed, and measured where there is a GPU.

Operations and bytes of the forward passes are counted operation by operation without computing anything, and turned
into time by the GPU's data sheet: an operation takes the longer of its arithmetic and its bytes. What is assumed:
- weights and activations are bf16, 2 bytes; batch norms are folded into their convolutions;
- an operation reads its inputs and weights from memory and writes its output there, the cache holds nothing of them;
- `each` counts every other operation as a kernel of its own; in `fused`, ReLU and sums belong to the convolution before
  them, which reads one more tensor for a sum;
- `assumed` reaches the shares --compute-share and --bandwidth-share of the data sheet, `roof` all of it. Both shares
  are assumptions; where there is a GPU, a matrix product and a copy are measured beside the network.

The host's figures are measured here, in processor's time of one thread: what `label` does with an image before and
after the GPU, on generated scenes and on maps like a teacher's.

    python benchmarks/gpu_roofline.py                       1024x2048, scales 0.5, 1, 2; H100 SXM
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_forward import measure_device
from network_cost import CostMode, OpCost, forward_flops, forward_ops, forward_sizes, without_data
from PIL import Image
from plain_label import enlarge, fuse
from teacher_like import teacher_like

from pipeline.scenes import generate_scene
from storage.image_reader import read_image
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, default_spec

CLASSES = 19
IMAGES = 20_000
GPUS = 16
BF16, FP32 = 2, 4
STRIDE = 4
NOISE = 1.5


class Machine(NamedTuple):
    """What a GPU is taken to reach."""

    flops: float
    """Operations a second, bf16, dense."""
    bandwidth: float
    """Bytes a second."""


class Total(NamedTuple):
    """A forward pass, or a part of one."""

    flops: int
    each: int
    fused: int
    """Bytes, as the module's documentation says."""
    roof: float
    assumed: float
    """Seconds, with the bytes of `fused`."""


def bytes_each(op: OpCost) -> int:
    """Bytes of an operation as a kernel of its own; a folded batch norm has none."""
    return 0 if op.kind == "batch norm" else BF16 * (op.read + op.written)


def bytes_fused(op: OpCost) -> int:
    """Bytes of an operation where ReLU and sums are done by the convolution before them."""
    if op.kind in ("batch norm", "ReLU"):
        return 0
    if op.kind == "sum":
        return BF16 * op.written if op.operands > 1 else 0
    return BF16 * (op.read + op.written)


def add_up(ops: list[OpCost], sheet: Machine, assumed: Machine) -> Total:
    """Totals of operations that follow each other."""

    def seconds(machine: Machine) -> float:
        return sum(max(op.flops / machine.flops, bytes_fused(op) / machine.bandwidth) for op in ops)

    flops = sum(op.flops for op in ops)
    return Total(flops, sum(map(bytes_each, ops)), sum(map(bytes_fused, ops)), seconds(sheet), seconds(assumed))


def print_totals(head: str, totals: dict[str, Total]) -> None:
    """Print a table of totals."""
    print(f"\n| {head} | TFLOP | GB, each | GB, fused | roof, ms | assumed, ms |\n|---|---|---|---|---|---|")
    for name, total in totals.items():
        print(
            f"| {name} | {total.flops / 1e12:.3f} | {total.each / 1e9:.2f} | {total.fused / 1e9:.2f} "
            f"| {total.roof * 1e3:.2f} | {total.assumed * 1e3:.2f} |"
        )


def print_forward(spec: NetworkSpec, options: argparse.Namespace) -> Total:
    """Print the cost of the forward passes by scale and by kind of layer; gives that of all."""
    sheet = Machine(options.peak * 1e12, options.bandwidth * 1e12)
    assumed = Machine(sheet.flops * options.compute_share, sheet.bandwidth * options.bandwidth_share)
    by_scale: dict[str, list[OpCost]] = {}
    by_kind: dict[str, list[OpCost]] = defaultdict(list)
    for scale, size, attend in forward_sizes(options.size, options.scales):
        ops = forward_ops(spec, size, attend=attend)
        by_scale[f"{scale:g} ({size[0]}x{size[1]})"] = ops
        for op in ops:
            by_kind[op.kind].append(op)
    everything = add_up([op for ops in by_scale.values() for op in ops], sheet, assumed)
    assert everything.flops == forward_flops(spec, options.size, options.scales), (
        "both counters see the same operations"
    )
    totals = {name: add_up(ops, sheet, assumed) for name, ops in by_scale.items()}
    print_totals("scale (height x width)", {**totals, "all scales": everything})
    kinds = {name: add_up(ops, sheet, assumed) for name, ops in by_kind.items() if name != "batch norm"}
    print_totals("layer, all scales", dict(sorted(kinds.items(), key=lambda pair: -pair[1].assumed)))
    weights = sum(parameter.numel() for parameter in without_data(spec)[0].parameters()) * BF16
    intensity = everything.flops / everything.fused
    print(f"\nweights {weights / 1e6:.0f} MB, read once a pass; {intensity:.0f} operations a byte, ", end="")
    print(f"the data sheet's balance is {sheet.flops / sheet.bandwidth:.0f}")
    return everything


def print_decision(spec: NetworkSpec, options: argparse.Namespace) -> None:
    """Print the bytes between the last layer and the host: of the plain way, and the least."""
    mode, counted = without_data(spec)[1], CostMode()
    height, width = options.size
    low = 0
    with mode:
        predictions = {}
        for scale, size, _ in forward_sizes(options.size, options.scales):
            maps = [torch.empty(1, n, -(-size[0] // STRIDE), -(-size[1] // STRIDE)) for n in (CLASSES, 1, CLASSES)]
            low += sum(one.numel() for one in maps[:2])
            predictions[scale] = ScalePrediction(*maps)
        with counted:
            sized = {
                scale: enlarge(predictions[scale], size)
                for scale, size, _ in forward_sizes(options.size, options.scales)
            }
            fuse(sized).softmax(dim=1)
    plain = FP32 * sum(op.read + op.written for op in counted.ops)
    least, pixels = FP32 * low + height * width, height * width
    bandwidth = options.bandwidth * 1e12
    print("\n| after the network, fp32 | GB in the GPU's memory | roof, ms | MB to the host |\n|---|---|---|---|")
    print(
        f"| plain: full size, softmax | {plain / 1e9:.2f} | {plain / bandwidth * 1e3:.2f} "
        f"| {FP32 * CLASSES * pixels / 1e6:.1f} |"
    )
    print(f"| least: each logit read once | {least / 1e9:.3f} | {least / bandwidth * 1e3:.3f} | {pixels / 1e6:.1f} |")


def print_cluster(total: Total, options: argparse.Namespace, host: dict[str, float]) -> None:
    """Print what one GPU and a node of 16 do, and what the host must do beside it."""
    pixels = options.size[0] * options.size[1]
    print(f"\n| computed, not measured | images/s, one GPU | {IMAGES} images, {GPUS} GPUs | PCIe, MB/s a GPU ", end="")
    print("| " + " | ".join(f"cores a GPU, {name}" for name in host) + " |")
    print("|---" * (4 + len(host)) + "|")
    for name, seconds in (("roof", total.roof), ("assumed", total.assumed)):
        print(
            f"| {name} | {1 / seconds:.1f} | {IMAGES * seconds / GPUS:.0f} s | {4 * pixels / seconds / 1e6:.0f} ",
            end="",
        )
        print("| " + " | ".join(f"{cost / seconds:.2f}" for cost in host.values()) + " |")


def processor_ms(work: Callable[[], object], rounds: int = 5) -> float:
    """Median of the processor's time of this process, milliseconds."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append((time.process_time() - started) * 1e3)
    return statistics.median(taken)


def measure_host(size: tuple[int, int]) -> dict[str, float]:
    """Seconds of one core for an image's decoding and its label's encoding, by the image's format; prints them."""
    torch.set_num_threads(1)
    scene = Image.fromarray(generate_scene(0, 0, size).image)
    label = LabelMap(teacher_like(0, size, NOISE), CLASSES)
    encode = processor_ms(lambda: encode_label_png(label))
    print(f"\nmeasured here, one core, {size[0]}x{size[1]}: encode a label of ", end="")
    print(f"{len(encode_label_png(label)) / 1e3:.0f} KB {encode:.1f} ms", end="")
    host = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, quality in (("JPEG", 95), ("PNG", -1)):  # Pillow's PNGs have no quality and take no notice
            path = Path(folder) / f"image.{name.lower()}"
            scene.save(path, quality=quality)
            decode = processor_ms(partial(read_image, path))
            print(f", decode a {name} of {path.stat().st_size / 1e6:.1f} MB {decode:.1f} ms", end="")
            host[name] = (decode + encode) / 1e3
    print()
    return host


def main() -> None:
    """Read the command line, compute, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=lambda text: tuple(map(int, text.split("x"))), default=(1024, 2048), metavar="HEIGHTxWIDTH"
    )
    parser.add_argument("--scales", type=lambda text: tuple(map(float, text.split(","))), default=(0.5, 1.0, 2.0))
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of bf16, dense")
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s of the GPU's memory")
    parser.add_argument("--compute-share", type=float, default=0.5)
    parser.add_argument("--bandwidth-share", type=float, default=0.8)
    options = parser.parse_args()
    spec = default_spec("hrnet-ocr", CLASSES)
    shares = f"{options.compute_share:.0%} and {options.bandwidth_share:.0%}"
    print(f"HRNet-OCR, {options.size[0]}x{options.size[1]} (height x width), computed, not measured: ", end="")
    print(f"{options.peak:g} TFLOP/s and {options.bandwidth:g} TB/s, of which {shares} are assumed to be reached")
    total = print_forward(spec, options)
    print_decision(spec, options)
    print_cluster(total, options, measure_host(options.size))
    measure_device(spec, options.size, options.scales)


if __name__ == "__main__":
    main()
