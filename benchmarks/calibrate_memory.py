"""The memory of a calibration, by how many images it has counted: it must not grow.

Images are real files (hard links to a few), read and decoded as `calibrate` does; the network is a stand-in, a declared
fake: it gives a class and a confidence by the place of the pixel alone. So nothing but the counting is measured, at a
speed that no network has. The process reports its resident memory after 1,000 images and at the end.

    python benchmarks/calibrate_memory.py [--count 20000] [--size 320x180] [--classes 19] [--steps 100]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from stand_in import StandInDecision

from pipeline.calibration_counts import CalibrationCounts
from pipeline.calibration_samples import count_samples
from pipeline.calibration_state import CalibrationState
from pipeline.decider import Image as Pixels
from pipeline.samples import collect_samples
from storage.schema import ClassInfo, ClassSchema

_FILES = 50
_LOOK = 1000


@dataclass(frozen=True, slots=True)
class StandInDecider:
    """A declared fake: classes in blocks, confidence by column."""

    classes: int
    steps: int
    problems: tuple[str, ...] = ()
    """It has none."""

    def decide(self, images: Sequence[Pixels]) -> list[StandInDecision]:
        """As `Decider.decide`, with class and confidence code kept."""
        height, width = images[0].shape[:2]
        rows, columns = np.arange(height)[:, None] // 16, np.arange(width) // 16
        classes = ((rows + columns) % self.classes).astype(np.uint8)
        codes = np.broadcast_to(np.arange(width) * self.steps // width, classes.shape).astype(np.uint8)
        return [StandInDecision(classes, np.stack([classes, codes])) for _ in images]


def write_images(folder: Path, count: int, size: tuple[int, int], classes: int) -> None:
    """Write images and truths: a few, and links to them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for name, ending in (("images", "jpg"), ("truth", "png")):
            path = folder / name / f"{number // 1000:03}" / f"{number:06}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = folder / name / "000" / f"{number % _FILES:06}.{ending}"
            if number >= _FILES:
                path.hardlink_to(first)
            elif name == "images":
                Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
            else:
                coarse = rng.integers(0, classes, (size[0] // 16 + 1, size[1] // 16 + 1)).astype(np.uint8)
                Image.fromarray(coarse.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]).save(path)


def _resident(process: psutil.Process) -> str:
    return f"{process.memory_info().rss / 1e6:.1f} MB resident"


def main() -> None:
    """Read the command line, make the images, and count them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    schema = ClassSchema("many", tuple(ClassInfo(f"c{i}", (0, 0, 0), (i,)) for i in range(options.classes)))
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, options.count, (height, width), options.classes)
        samples = collect_samples(folder / "images", folder / "truth", "fine", partial=True).samples
        print(f"{len(samples)} images of {options.size}, a stand-in for a teacher: {_resident(process)}", flush=True)
        block = round(len(samples) ** 0.5)
        state = CalibrationState(CalibrationCounts.nothing(options.classes, options.steps, block))
        started, saving = time.monotonic(), 0.0
        decider = StandInDecider(options.classes, options.steps)
        for now in count_samples(samples, schema, decider, state):
            if now.done % _LOOK == 0 or now.done == len(samples):
                before = time.monotonic()
                now.save(folder / "state.json", {"classes": list(schema.names)})
                saving += time.monotonic() - before
            if now.done in (_LOOK, len(samples)):
                rate = now.done / (time.monotonic() - started)
                size = (folder / "state.json").stat().st_size
                print(
                    f"after {now.done} images: {_resident(process)}, {rate:.0f} images/s, state {size / 1e3:.0f} KB",
                    flush=True,
                )
        print(f"saving took {saving / -(-len(samples) // _LOOK):.2f} s each time")


if __name__ == "__main__":
    main()
