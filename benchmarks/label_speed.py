"""How fast `autocoarse label` is, against a plain implementation and against the network's forward passes alone.

All three label the same images with the same weights at scales 0.5, 1 and 2, each as a process of its own, in turn:
- plain: plain_label.py, the method as one writes it without this project;
- autocoarse: the command itself, with its default options;
- forward: label_forward.py, the time inside the network alone, and the rate of a matrix product.
A command's start-up is the same command once more, with nothing left to do; `net` is without it. CPU/wall is how many
cores a command had: what is well below the threads was disturbed by other work, or waited; seconds of the processor
suffer less from that. Labels are compared pixel by pixel. Medians of the repeats.

Images are generated street scenes, or `--images DIR`: photographs, brought to the case's size. HRNet-OCR has random
weights in the public layout, or `--weights FILE`; the light teacher too, or `--teacher FILE`, a checkpoint. How random
weights differ from trained ones is said in random_teacher.py.

    python benchmarks/label_speed.py                            all cases: about an hour on two cores
    python benchmarks/label_speed.py --case light --repeats 1 --images-count 3
    python benchmarks/label_speed.py --case hrnet-small --profile           where an image's time goes
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from label_cases import CASES, Case, Prepared, prepare
from PIL import Image

IGNORE = 255
_HERE = Path(__file__).parent
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Spent:
    """What a process took."""

    wall: float
    cpu: float
    """Seconds of the processor, all threads."""
    peak: int
    """Largest resident memory, bytes."""
    output: str

    @property
    def cores(self) -> float:
        """How many cores it had on average."""
        return self.cpu / self.wall


@dataclass(frozen=True)
class Labelled:
    """A labelling command, and the same with nothing to do."""

    whole: Spent
    idle: Spent
    images: int

    @property
    def rate(self) -> float:
        """Images a second of the whole command."""
        return self.images / self.whole.wall

    @property
    def net(self) -> float:
        """Images a second without the start-up."""
        return self.images / (self.whole.wall - self.idle.wall)

    @property
    def work(self) -> float:
        """Seconds of the processor that an image takes, without the start-up."""
        return (self.whole.cpu - self.idle.cpu) / self.images


@dataclass(frozen=True)
class Repeat:
    """One turn of all three."""

    plain: Labelled
    auto: Labelled
    forward: Spent
    limit: dict[str, float]
    """As label_forward.py prints it."""
    equal: float
    """Share of the pixels that both label alike."""
    ignored: float

    @property
    def forward_rate(self) -> float:
        """Images a second of the forward passes alone."""
        return self.limit["rate"] / self.limit["flops"]

    @property
    def forward_work(self) -> float:
        """Seconds of the processor of an image's forward passes."""
        return self.limit["flops"] / self.limit["cpu_rate"]


def spend(command: list[str], threads: int | None) -> Spent:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors.read()}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _RSS_UNIT, output)


def spend_twice(command: list[str], images: int, threads: int | None) -> Labelled:
    """Run a labelling command, and once more."""
    return Labelled(spend(command, threads), spend(command, threads), images)


def compare_labels(plain: Path, auto: Path) -> tuple[float, float]:
    """Share of the pixels that two folders of labels have alike, and share that the first ignores.

    Raises:
        RuntimeError: the folders do not hold the same files.
    """
    names = sorted(path.name for path in plain.iterdir())
    if names != sorted(path.name for path in auto.iterdir()):
        raise RuntimeError(f"{plain} and {auto} do not hold the same labels")
    pairs = [[np.asarray(Image.open(folder / name)) for folder in (plain, auto)] for name in names]
    equal = [float((ours == theirs).mean()) for theirs, ours in pairs]
    return statistics.mean(equal), statistics.mean(float((theirs == IGNORE).mean()) for theirs, _ in pairs)


def measure(prepared: Prepared, out: Path, threads: int | None, *, turned: bool) -> Repeat:
    """Run all three once; the other way round where `turned`."""
    images = len(list(prepared.images.iterdir()))
    plain, auto = out / "plain", out / "auto"
    command = str(Path(sys.executable).with_name("autocoarse"))
    own = [sys.executable, str(_HERE / "plain_label.py"), *prepared.arguments, "--out", str(plain)]
    label = [command, "label", *prepared.arguments, "--threshold", "0.5", "--device", "cpu", "--out", str(auto)]
    limit = [sys.executable, str(_HERE / "label_forward.py"), *prepared.arguments]
    labelled: dict[str, Labelled] = {}
    works: list[Callable[[], None]] = [
        lambda: labelled.update(plain=spend_twice(own, images, threads)),
        lambda: labelled.update(auto=spend_twice(label, images, threads)),
    ]
    for work in reversed(works) if turned else works:
        work()
    forward = spend(limit, threads)
    equal, ignored = compare_labels(plain, auto / "labels")
    return Repeat(labelled["plain"], labelled["auto"], forward, json.loads(forward.output), equal, ignored)


ROWS: dict[str, tuple[Callable[[Repeat], float], str]] = {
    "plain, images/s": (lambda one: one.plain.rate, ".3f"),
    "autocoarse, images/s": (lambda one: one.auto.rate, ".3f"),
    "autocoarse / plain": (lambda one: one.auto.rate / one.plain.rate, ".2f"),
    "plain net, images/s": (lambda one: one.plain.net, ".3f"),
    "autocoarse net, images/s": (lambda one: one.auto.net, ".3f"),
    "autocoarse / plain, net": (lambda one: one.auto.net / one.plain.net, ".2f"),
    "forward passes alone, images/s": (lambda one: one.forward_rate, ".3f"),
    "autocoarse net / forward passes": (lambda one: one.auto.net / one.forward_rate, ".1%"),
    "forward passes, GFLOP an image": (lambda one: one.limit["flops"] / 1e9, ".1f"),
    "forward passes, GFLOP/s": (lambda one: one.limit["rate"] / 1e9, ".1f"),
    "matrix product, GFLOP/s": (lambda one: one.limit["product_rate"] / 1e9, ".1f"),
    "forward passes / matrix product": (lambda one: one.limit["rate"] / one.limit["product_rate"], ".1%"),
    "plain, peak RSS, MB": (lambda one: one.plain.whole.peak / 1e6, ".0f"),
    "autocoarse, peak RSS, MB": (lambda one: one.auto.whole.peak / 1e6, ".0f"),
    "autocoarse / plain, peak RSS": (lambda one: one.auto.whole.peak / one.plain.whole.peak, ".2f"),
    "plain net, CPU s an image": (lambda one: one.plain.work, ".2f"),
    "autocoarse net, CPU s an image": (lambda one: one.auto.work, ".2f"),
    "forward passes, CPU s an image": (lambda one: one.forward_work, ".2f"),
    "autocoarse / plain, net, by CPU": (lambda one: one.plain.work / one.auto.work, ".2f"),
    "autocoarse net / forward passes, by CPU": (lambda one: one.forward_work / one.auto.work, ".1%"),
    "forward passes / matrix product, by CPU": (
        lambda one: one.limit["cpu_rate"] / one.limit["product_cpu_rate"],
        ".1%",
    ),
    "plain, start-up, s": (lambda one: one.plain.idle.wall, ".1f"),
    "autocoarse, start-up, s": (lambda one: one.auto.idle.wall, ".1f"),
    "plain, CPU/wall": (lambda one: one.plain.whole.cores, ".2f"),
    "autocoarse, CPU/wall": (lambda one: one.auto.whole.cores, ".2f"),
    "forward passes, CPU/wall": (lambda one: one.forward.cores, ".2f"),
    "torch's threads, forward passes": (lambda one: one.limit["threads"], ".0f"),
    "ignored pixels": (lambda one: one.ignored, ".1%"),
    "pixels equal": (lambda one: one.equal, ".4%"),
}


def print_table(results: dict[str, list[Repeat]], counts: dict[str, int]) -> None:
    """Print one column a case, medians over the repeats."""
    print("\n| | " + " | ".join(CASES[name].title for name in results) + " |")
    print("|---" * (len(results) + 1) + "|")
    print("| images, repeats | " + " | ".join(f"{counts[name]}, {len(rows)}" for name, rows in results.items()) + " |")
    for title, (figure, form) in ROWS.items():
        cells = [format(statistics.median(map(figure, repeats)), form) for repeats in results.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")


def report(name: str, number: int, one: Repeat) -> None:
    """Print the figures of a repeat that tell whether it was disturbed."""
    cells = (
        f"{title} {labelled.whole.wall:.1f} s (start-up {labelled.idle.wall:.1f}), {labelled.whole.cores:.2f} cores"
        for title, labelled in (("plain", one.plain), ("autocoarse", one.auto))
    )
    print(
        f"{name} {number}: {'; '.join(cells)}; forward passes {1 / one.forward_rate:.2f} s an image, "
        f"{one.forward.cores:.2f} cores; product {one.limit['product_rate'] / 1e9:.0f} GFLOP/s; "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def run_case(case: Case, options: argparse.Namespace) -> list[Repeat]:
    """Measure a case, or print its profile."""
    count = options.images_count or case.images
    teacher = options.weights if case.network == "hrnet-ocr" else options.teacher
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            prepared = process.submit(prepare, case, root, count, options.images, teacher).result()
        if options.profile:
            command = [sys.executable, str(_HERE / "label_forward.py"), *prepared.arguments, "--profile"]
            print(f"\n{case.title}{spend(command, options.threads).output}", flush=True)
            return []
        repeats = []
        for number in range(options.repeats):
            out = root / f"repeat-{number}"
            repeats.append(measure(prepared, out, options.threads, turned=number % 2 == 1))
            report(case.name, number + 1, repeats[-1])
    return repeats


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append", help="may be given more than once; all of them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images-count", type=int, metavar="N", help="images of each case")
    parser.add_argument("--threads", type=int, metavar="N", help="OMP_NUM_THREADS of all three; their own choice")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs instead of generated scenes")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="HRNet-OCR's, in the public layout")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="checkpoint of the light teacher")
    parser.add_argument("--profile", action="store_true", help="print where an image's time goes, and measure no more")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, threads {options.threads or 'by default'}, load {os.getloadavg()[0]:.1f}", flush=True)
    cases = [CASES[name] for name in options.case or CASES]
    results = {case.name: run_case(case, options) for case in cases}
    if not options.profile:
        print_table(results, {case.name: options.images_count or case.images for case in cases})


if __name__ == "__main__":
    main()
