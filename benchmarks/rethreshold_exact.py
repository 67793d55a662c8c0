"""Whether thresholds applied to kept confidence give the labels that labelling gives, on a real teacher and images.

Each image goes through the network once; at every threshold of the grid the label from its scores is compared, pixel by
pixel, with the label from what a store keeps of it.

    python benchmarks/rethreshold_exact.py --teacher CHECKPOINT --images DIR [--count 20] [--steps 100]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from storage.image_reader import read_image
from storage.layouts import list_images
from storage.soft_store import StoreForm, apply_thresholds
from teacher import load_teacher
from teacher.decision import apply_thresholds as decide_on_scores
from teacher.decision import find_top, quantise


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_teacher(options.teacher)
    items = list_images(options.images).items
    form = StoreForm("confidence", options.steps, teacher.schema.names)
    differing = pixels = kept = 0
    again = 0.0
    nearest = 1.0
    for item in items[:: max(1, len(items) // options.count)][: options.count]:
        top = find_top(teacher.logits(read_image(item.image), (0.5, 1.0))[None])
        planes = torch.stack([top.classes, quantise(top.confidence, options.steps)], dim=1)[0].numpy()
        kept += len(form.encode(planes))
        scaled = top.confidence.double() * options.steps
        nearest = min(nearest, float((scaled - scaled.round()).abs().min()) / options.steps)
        for k in range(options.steps):
            threshold = k / options.steps
            wanted = decide_on_scores(top, [threshold])[0].numpy()
            started = time.perf_counter()
            made = apply_thresholds(planes, [threshold] * len(teacher.schema), options.steps)
            again += time.perf_counter() - started
            differing += int(np.count_nonzero(made != wanted))
            pixels += made.size
    count = min(options.count, len(items))
    print(
        f"{count} images, {options.steps} thresholds, {pixels:,} pixels compared: {differing} differ; the confidence "
        f"nearest to a threshold is {nearest:.1e} away; {kept / count / 1000:.1f} KB kept an image, "
        f"{1e3 * again / count / options.steps:.2f} ms a label"
    )


if __name__ == "__main__":
    main()
