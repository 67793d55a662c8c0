"""How large label PNGs are and how long they take to write, against Pillow's defaults, on maps like a teacher's.

A generated scene's true labels are taken as scores at stride 4, blurred, disturbed at two scales, enlarged bilinearly
and thresholded: boundaries are as smooth as a network's, and `noise` sets how much becomes ignore.

    python benchmarks/label_size.py              generated maps, the anchor of storage.budget's model
    python benchmarks/label_size.py RUN          labels of a run, measured against the model
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from pipeline.scenes import generate_scene
from storage.budget import estimate_label_bytes, measure_bytes
from storage.image_reader import read_image_size
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.schema import IGNORE

CLASSES = 19
MAPS = 8
SIZES = ((360, 480), (540, 960), (1080, 1920), (1024, 2048))
NOISES = (0.0, 0.7, 1.4)


def teacher_like(index: int, size: tuple[int, int], noise: float) -> npt.NDArray[np.uint8]:
    """A label map as a teacher would make it: (height, width) uint8."""
    height, width = size
    low = (height // 4, width // 4)
    scene = torch.from_numpy(generate_scene(0, index, low).fine.astype(np.int64))
    scores = functional.one_hot(scene, CLASSES).permute(2, 0, 1)[None].float()
    scores = 7 * functional.avg_pool2d(scores, 7, stride=1, padding=3, count_include_pad=False)
    generator = torch.Generator().manual_seed(index)
    for cell in (3, 12):
        small = torch.randn(1, CLASSES, -(-low[0] // cell), -(-low[1] // cell), generator=generator)
        scores += noise * functional.interpolate(small, size=low, mode="bilinear")
    confidence, label = functional.interpolate(scores, size=size, mode="bilinear")[0].softmax(0).max(0)
    return label.masked_fill(confidence <= 0.5, IGNORE).to(torch.uint8).numpy()


def pillow_default(values: npt.NDArray[np.uint8]) -> bytes:
    """What `Image.save` writes when nothing is asked for."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def measure_generated() -> None:
    """Print one row a size and noise: bytes and milliseconds of both writers, medians over the maps."""
    print(f"{'size':>10} {'ignored':>8} {'bytes':>8} {'Pillow':>8} {'ratio':>6} {'ms':>6} {'Pillow':>7} {'model':>8}")
    for size in SIZES:
        model = estimate_label_bytes([size], 1, CLASSES).hard_png_bytes
        for noise in NOISES:
            rows = []
            for index in range(MAPS):
                values = teacher_like(index, size, noise)
                label = LabelMap(values, CLASSES)
                started = time.perf_counter()
                ours = len(encode_label_png(label))
                between = time.perf_counter()
                theirs = len(pillow_default(values))
                ended = time.perf_counter()
                rows.append((label.ignored / values.size, ours, theirs, between - started, ended - between))
            ignored, ours, theirs, seconds, their_seconds = (statistics.median(c) for c in zip(*rows, strict=True))
            print(
                f"{size[1]:>5}x{size[0]:<4} {ignored:8.1%} {ours:8.0f} {theirs:8.0f} {ours / theirs:6.2f} "
                f"{1e3 * seconds:6.1f} {1e3 * their_seconds:7.1f} {model:8d}"
            )


def measure_run(root: Path) -> None:
    """Print the bytes of a run's labels and what the model says of them."""
    sizes = [read_image_size(p) for p in sorted((root / "labels").rglob("*.png"))]
    measured = measure_bytes(root)
    modelled = estimate_label_bytes(sizes, len(sizes), CLASSES).hard_png_bytes
    ratio = modelled / measured.label_bytes
    print(f"{measured.labels} labels, {measured.label_bytes} bytes, model {modelled} ({ratio:.2f}x)")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    measure_generated() if run is None else measure_run(run)


if __name__ == "__main__":
    main()
