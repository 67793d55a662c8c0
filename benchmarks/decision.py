"""From a network's logits to the label: fusion and decision in parts, against the plain softmax path, on one thread.

The plain path is what the method's description does: every prediction enlarged to the full size of its scale, fused,
softmax, maximum, threshold 0.5. Ours is `decide_jointly`. Logits are a generated teacher's (see teacher_like.py) at
stride 4, 19 classes: `usual` maps, about 5 % ignored, and `speckled` ones, about 13 %. With several scales each has the
logits of scale 1, resized and disturbed by half as much noise of its own, and a smooth random attention. The last rows
keep confidence as well, for which every pixel is fused: there the plain path also quantises.

Paths take turns, on another map each time; times are of the processor, medians, so that they hold on a busy machine.
Memory is what resident memory grows by at most, in a fresh process each, on Linux. Pixels in which the labels differ,
over all maps, are judged by float64: `plain wrong` are those where it agrees with ours, `ours wrong` the others.

    python benchmarks/decision.py [--repeats 5] [--size 1920x1080] [--case "usual, kept"]
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from teacher_like import CLASSES, stride_4_scores
from torch import Tensor

from storage.schema import IGNORE
from storage.soft_store import Keep
from teacher.decision import DecisionRule, quantise
from teacher.fusion import ScaledPrediction, blend, check_scales, size_at_scale
from teacher.joint_decision import decide_jointly
from teacher.networks.layers import resize

THRESHOLD = 0.5
STEPS = 100

View = tuple[ScaledPrediction, ...]


@dataclass(frozen=True)
class Case:
    """What is decided."""

    name: str
    noise: float
    scales: tuple[float, ...] = (1.0,)
    keep: Keep = "none"

    def view(self, index: int, size: tuple[int, int]) -> View:
        """A network's predictions of an image, from the largest scale to the smallest."""
        shared = stride_4_scores(index, size, self.noise)
        if self.scales == (1.0,):
            return (ScaledPrediction(shared, None, size),)
        generator = torch.Generator().manual_seed(index)
        view: list[ScaledPrediction] = []
        for scale in check_scales(self.scales):
            scaled = size_at_scale(size, scale)
            low = (-(-scaled[0] // 4), -(-scaled[1] // 4))
            logits = resize(shared, low)
            for cell in (3, 12):
                own = torch.randn(1, CLASSES, -(-low[0] // cell), -(-low[1] // cell), generator=generator)
                logits = logits + self.noise / 2 * resize(own, low)
            trust = torch.randn(1, 1, -(-low[0] // 12), -(-low[1] // 12), generator=generator)
            view.append(ScaledPrediction(logits, torch.sigmoid(2 * resize(trust, low)) if view else None, scaled))
        return tuple(view)


CASES = {
    case.name: case
    for case in (
        Case("usual", 1.5),
        Case("speckled", 2.1),
        Case("usual, scales 0.5/1/2", 1.5, (0.5, 1.0, 2.0)),
        Case("speckled, scales 0.5/1/2", 2.1, (0.5, 1.0, 2.0)),
        Case("usual, kept", 1.5, keep="confidence"),
        Case("usual, 0.5/1/2, kept", 1.5, (0.5, 1.0, 2.0), "confidence"),
    )
}


def fuse_plainly(view: View, size: tuple[int, int]) -> Tensor:
    """The joint logits at full size, in the predictions' precision; any number of classes."""
    joint = resize(view[0].logits, view[0].size)
    for logits, attention, scaled in view[1:]:
        assert attention is not None
        if scaled[0] >= size[0]:
            joint = resize(joint, scaled)
        joint = blend(joint, resize(logits, scaled), resize(attention, scaled))
    return joint


def plain(view: View, size: tuple[int, int], keep: Keep) -> Tensor:
    """The plain path's label, (height, width) uint8."""
    confidence, classes = fuse_plainly(view, size).softmax(dim=1).max(dim=1)
    label = classes.to(torch.uint8)
    if keep != "none":
        quantise(confidence, STEPS)
    return label.masked_fill(confidence <= THRESHOLD, IGNORE)[0]


def ours(view: View, size: tuple[int, int], keep: Keep) -> Tensor:
    """The label of the path under test, (height, width) uint8."""
    return decide_jointly([view], size, DecisionRule((THRESHOLD,), keep, STEPS)).labels[0]


PATHS: dict[str, Callable[[View, tuple[int, int], Keep], Tensor]] = {"plain": plain, "ours": ours}


def exact_labels(view: View, size: tuple[int, int], places: Tensor) -> Tensor:
    """The labels by float64 of some pixels, (n,) uint8, from their places (n, 2). Class by class, to spare memory."""
    chosen = []
    for c in range(CLASSES):
        one = tuple(
            ScaledPrediction(
                p.logits[:, c : c + 1].double(), None if p.attention is None else p.attention.double(), p.size
            )
            for p in view
        )
        chosen.append(fuse_plainly(one, size)[0, 0, places[:, 0], places[:, 1]])
    confidence, classes = torch.stack(chosen).softmax(dim=0).max(dim=0)
    return classes.to(torch.uint8).masked_fill(confidence <= THRESHOLD, IGNORE)


@dataclass
class Measured:
    """What a case gave over all its maps."""

    seconds: dict[str, list[float]]
    ignored: list[float]
    plain_wrong: int = 0
    ours_wrong: int = 0


def measure(case: Case, size: tuple[int, int], repeats: int) -> Measured:
    """Decide a map in each repeat with both paths, and judge where they differ."""
    made = Measured({name: [] for name in PATHS}, [])
    for index in range(repeats):
        view = case.view(index, size)
        labels = {}
        for name, path in list(PATHS.items())[:: 1 if index % 2 else -1]:
            if not index:
                path(view, size, case.keep)  # what is made on first use is not timed
            started = time.process_time()
            labels[name] = path(view, size, case.keep)
            made.seconds[name].append(time.process_time() - started)
        made.ignored.append(float((labels["plain"] == IGNORE).float().mean()))
        places = (labels["plain"] != labels["ours"]).nonzero()
        if len(places):
            exact = exact_labels(view, size, places)
            made.plain_wrong += int((labels["ours"][places[:, 0], places[:, 1]] == exact).sum())
            made.ours_wrong += int((labels["ours"][places[:, 0], places[:, 1]] != exact).sum())
    return made


def resident(key: str) -> float:
    """A figure of this process's memory, in MiB: VmRSS now, VmHWM the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def print_growth(case: Case, path: str, size: tuple[int, int]) -> None:
    """Print by how many MiB a path's resident memory grows at most; for a process of its own."""
    PATHS[path](case.view(0, (256, 256)), (256, 256), case.keep)  # loads what is loaded on first use
    view = case.view(0, size)
    ctypes.CDLL(None).malloc_trim(0)  # memory that making the maps has left would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the most begins anew
    before = resident("VmRSS")
    PATHS[path](view, size, case.keep)
    print(resident("VmHWM") - before)


def measure_growth(case: Case, path: str, size: tuple[int, int]) -> float:
    """`print_growth`, in a fresh process."""
    command = [sys.executable, __file__, "--growth", case.name, path, "--size", f"{size[1]}x{size[0]}"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--case", action="append", choices=CASES, help="only these rows; all by default")
    parser.add_argument("--growth", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if options.growth:
        print_growth(CASES[options.growth[0]], options.growth[1], (height, width))
        return
    print(f"{width}x{height}, {CLASSES} classes, threshold {THRESHOLD}, one thread, {options.repeats} maps each")
    print(
        f"{'maps':<26} {'ignored':>8} {'plain':>9} {'ours':>9} {'times':>6} {'plain':>9} {'ours':>9} "
        f"{'plain wrong':>12} {'ours wrong':>11}"
    )
    for case in [CASES[name] for name in options.case or CASES]:
        made = measure(case, (height, width), options.repeats)
        seconds = {name: statistics.median(values) for name, values in made.seconds.items()}
        growth = {name: measure_growth(case, name, (height, width)) for name in PATHS}
        print(
            f"{case.name:<26} {statistics.median(made.ignored):>8.1%} {1e3 * seconds['plain']:>6.0f} ms "
            f"{1e3 * seconds['ours']:>6.0f} ms {seconds['plain'] / seconds['ours']:>6.1f} {growth['plain']:>5.0f} MiB "
            f"{growth['ours']:>5.0f} MiB {made.plain_wrong:>12} {made.ours_wrong:>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
