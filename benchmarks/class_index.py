"""How long the index of classes takes before a training, from a measured sample: reading labels, and hashing images.

Labels are maps like a teacher's (see teacher_like.py), 2048x1024 and 19 classes, indexed in tiles of half their height.
Their images are flat colour, a few kilobytes each, so that the first figure is of labels alone; hashing is measured
on its own, on one file in memory, and extrapolated to photographs of 2.2 MB as they are in Cityscapes. A disk slower
than that is what hashing then waits for. The labels of a run bring the hashes of their images along. Processor time
is given beside wall time, for machines that do other work as well.

    python benchmarks/class_index.py [--labels 40] [--tile 512x512] [--workers N]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from teacher_like import CLASSES, teacher_like

from pipeline.sample_index import SampleIndex, build_index
from pipeline.samples import Sample
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.layouts import LabelFile
from storage.object_io import file_digest
from storage.schema import load_schema

SIZE = (1024, 2048)
TOTAL = 20_000
IMAGE_BYTES = 2_200_000
NOISE = 0.7


def write_samples(folder: Path, count: int) -> list[Sample]:
    """Write labels like a teacher's, and images of their size."""
    samples = []
    for number in range(count):
        label, image = folder / f"label{number}.png", folder / f"image{number}.png"
        label.write_bytes(encode_label_png(LabelMap(teacher_like(number, SIZE, NOISE), CLASSES)))
        Image.new("RGB", SIZE[::-1], (number % 256, 90, 60)).save(image)
        samples.append(Sample(str(number), image, LabelFile(label, "class"), "auto"))
    return samples


def measure_index(
    samples: list[Sample], tile: tuple[int, int], cache: Path, workers: int | None
) -> tuple[SampleIndex, float, float]:
    """The index, the seconds that it took, and those of all processors together."""
    started, computed = time.perf_counter(), time.process_time()
    *_, last = build_index(samples, load_schema("cityscapes"), tile=tile, cache=cache, workers=workers)
    assert last.index is not None
    return last.index, time.perf_counter() - started, time.process_time() - computed


def measure_hashing(folder: Path) -> float:
    """Seconds to hash an image of a usual size, median of ten; the file is in memory by then."""
    path = folder / "photograph"
    path.write_bytes(np.random.default_rng(0).bytes(IMAGE_BYTES))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        file_digest(path)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=40)
    parser.add_argument("--tile", default="512x512", metavar="WIDTHxHEIGHT")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    width, height = map(int, arguments.tile.split("x"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = write_samples(folder, arguments.labels)
        index, built, computed = measure_index(samples, (height, width), folder / "index.npz", arguments.workers)
        _, loaded, _ = measure_index(samples, (height, width), folder / "index.npz", arguments.workers)
        cache_bytes = (folder / "index.npz").stat().st_size
        hashing = measure_hashing(folder)
    count = len(samples)
    classes = np.count_nonzero(index.counts, axis=1).mean()
    print(
        f"{count} labels of {SIZE[1]}x{SIZE[0]}, {classes:.1f} classes and {len(index.places) / count:.0f} places each"
    )
    rows = (
        ("index, wall", built / count),
        ("index, processor", computed / count),
        ("index, cached", loaded / count),
        ("hashing", hashing),
    )
    for name, seconds in rows:
        print(f"{name:<17} {1e3 * seconds:7.2f} ms each -> {TOTAL}: {seconds * TOTAL / 60:6.2f} minutes")
    print(f"hashing {IMAGE_BYTES / hashing / 1e6:.0f} MB/s, one thread; images of {IMAGE_BYTES / 1e6:.1f} MB")
    print(f"cache file {cache_bytes / count:.0f} bytes each -> {TOTAL}: {cache_bytes / count * TOTAL / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
