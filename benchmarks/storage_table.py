"""Every way of keeping a teacher's answer, from raw probabilities to hard labels: measured bytes, for 20,000 images.

    python benchmarks/storage_table.py [--maps 8] [--noise 1.5]      Markdown, a table a size

A generated scene's true labels are taken as scores at stride 4, blurred, disturbed at two scales and enlarged
bilinearly, as a network's are; the labels are those that benchmarks/label_png.py calls usual. Probabilities are
compressed by zstd, class by class, as `autocoarse estimate --teacher` does with images of your own. Bytes are means
over the maps; what is kept beside labels (`--keep`) comes on top of the labels' own.
"""

import argparse
import statistics
from collections.abc import Iterator
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from teacher_like import CLASSES, teacher_scores

from storage.label_map import LabelMap
from storage.label_png import LabelFormat, Preset, encode_label_png
from storage.soft_formats import SOFT_FORMATS
from storage.soft_store import DEFAULT_STEPS, StoreForm
from teacher.decision import apply_thresholds, find_top, quantise

IMAGES = 20_000
SIZES = ((1080, 1920), (1024, 2048))
THRESHOLD = 0.5

NAMES = {
    "fp32": "all classes, fp32",
    "fp16": "all classes, fp16",
    "uint8": "all classes, uint8",
    "top3": "top 3, class + uint8",
    "top2": "top 2, class + uint8",
}


def bytes_of(scores: torch.Tensor) -> tuple[dict[str, int], float]:
    """Bytes of one image in every form, by the row's name, and the share of its pixels that is ignored."""
    top = find_top(scores, runner_up=True)
    assert top.runner_up is not None, "it was asked for"
    planes = torch.stack([top.classes[0], quantise(top.confidence, DEFAULT_STEPS)[0], top.runner_up[0]]).numpy()
    label = LabelMap(apply_thresholds(top, (THRESHOLD,))[0].numpy(), CLASSES)
    rows = dict(_soft_bytes(scores.softmax(1)[0].numpy()))
    names = tuple(f"class {i}" for i in range(CLASSES))
    rows[f"class + confidence, {DEFAULT_STEPS} steps (`--keep confidence`)"] = len(
        StoreForm("confidence", DEFAULT_STEPS, names).encode(planes[:2])
    )
    rows[f"class + confidence, {DEFAULT_STEPS} steps + runner-up (`--keep top2`)"] = len(
        StoreForm("top2", DEFAULT_STEPS, names).encode(planes)
    )
    for preset in get_args(Preset):
        rows[f"hard label, PNG (`--png {preset}`)"] = len(encode_label_png(label, form=LabelFormat(preset)))
    return rows, label.ignored / label.values.size


def _soft_bytes(probabilities: npt.NDArray[np.float32]) -> Iterator[tuple[str, int]]:
    pixels = probabilities[0].size
    for form in SOFT_FORMATS:
        yield f"{NAMES[form.name]}, raw", form.raw_bytes(pixels, CLASSES)
    for form in SOFT_FORMATS:
        yield f"{NAMES[form.name]}, zstd", form.compressed_bytes(probabilities)


def human(count: float) -> str:
    """Bytes for people, decimal units, three digits."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def print_table(size: tuple[int, int], maps: int, noise: float) -> None:
    """Measure the maps of a size and print their table."""
    measured = [bytes_of(teacher_scores(index, size, noise)) for index in range(maps)]
    ignored = statistics.median(share for _, share in measured)
    print(f"\n{size[1]}x{size[0]}, {CLASSES} classes, {maps} maps, {ignored:.1%} of the pixels ignored (median):\n")
    print(f"| what is kept | a label | {IMAGES:,} labels | of raw fp32 |")
    print("|---|---|---|---|")
    rows = {name: statistics.fmean(one[name] for one, _ in measured) for name in measured[0][0]}
    raw = next(iter(rows.values()))
    for name, mean in sorted(rows.items(), key=lambda row: -row[1]):
        ratio = raw / mean
        share = "1" if ratio == 1 else f"1/{ratio:.3g}" if ratio < 999.5 else f"1/{ratio:,.0f}"
        print(f"| {name} | {human(mean)} | {human(mean * IMAGES)} | {share} |")


def main() -> None:
    """Read the command line, and print a table a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=8, help="maps a size")
    parser.add_argument("--noise", type=float, default=1.5, help="disturbance of the scores; it sets what is ignored")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in SIZES:
        print_table(size, arguments.maps, arguments.noise)


if __name__ == "__main__":
    main()
