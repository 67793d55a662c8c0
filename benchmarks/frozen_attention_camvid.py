"""Whether a scale attention fitted to a frozen teacher raises its mIoU on CamVid's val images.

DATA holds images/, labels_fine/, labels_coarse/. Each CHECKPOINT is a teacher without an attention, trained on the
fine images of train, as by `train --attention single`. To each a head is fitted on these fine images, and another on
images of train_extra with their coarse labels, which the teacher has not seen. Both are judged on val, beside scale 1
alone and the average, at scales 0.5, 1, 2 and at 0.5, 1. Nothing is chosen by val.

    python benchmarks/frozen_attention_camvid.py DATA CHECKPOINT... --out DIR

Logits and figures stay in DIR, and are not made again.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from pipeline.head_fitting import predict_images
from pipeline.head_judging import judge_fusions
from pipeline.head_settings import FitAttentionSettings
from pipeline.head_training import new_head, train_head
from pipeline.logit_cache import KeptImage, LogitCache
from pipeline.samples import collect_samples
from teacher import Teacher, load_teacher

SCALES = (0.5, 1.0, 2.0)
JUDGED = {"0.5, 1, 2": SCALES, "0.5, 1": (0.5, 1.0)}
SETS = {
    "fine": ("images/train", "labels_fine/train"),
    "coarse": ("images/train_extra", "labels_coarse/train_extra"),
    "val": ("images/val", "labels_fine/val"),
}


def main() -> None:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--extra", type=int, default=120, help="images of train_extra, drawn at random")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    found = []
    for number, checkpoint in enumerate(arguments.checkpoints):
        out = arguments.out / f"teacher-{number}"
        out.mkdir(parents=True, exist_ok=True)
        file = out / "figures.json"
        if not file.exists():
            figures = measure(arguments.data, checkpoint, out, arguments.extra, arguments.steps)
            file.write_text(json.dumps(figures, indent=1))
        found.append(json.loads(file.read_text()))
        print(checkpoint, json.dumps(found[-1]), flush=True)
    print_table(found)


def measure(data: Path, checkpoint: Path, out: Path, extra: int, steps: int) -> dict[str, Any]:
    """Fit both heads to a teacher and judge them: mIoU by scales, then by way to fuse."""
    teacher = load_teacher(checkpoint)
    kept = {name: predict(data, name, teacher, out, extra if name == "coarse" else None) for name in SETS}
    figures: dict[str, Any] = {judged: {} for judged in JUDGED}
    for name in ("fine", "coarse"):
        settings = FitAttentionSettings(
            teacher=str(checkpoint), images=data, labels=data, out=out, scales=SCALES, steps=steps
        )
        head = new_head(kept[name][0].classes, settings.channels, settings.seed).to(teacher.device)
        started = time.process_time()
        losses = list(train_head(head, kept[name], settings, teacher.device))
        figures[f"seconds {name}"] = time.process_time() - started
        fifth = max(1, steps // 5)
        figures[f"loss {name}"] = [mean(losses[:fifth]), mean(losses[-fifth:])]
        for judged, scales in JUDGED.items():
            *_, scores = judge_fusions(head, kept["val"], teacher, SCALES, scales)
            for fusion, one in scores.items():
                row = f"head, {name}" if fusion == "attention" else fusion
                figures[judged][row] = one.to_dict(teacher.schema)
    return figures


def predict(data: Path, name: str, teacher: Teacher, out: Path, count: int | None) -> list[KeptImage]:
    """Have the teacher predict a set of images once."""
    images, labels = (data / folder for folder in SETS[name])
    samples = collect_samples(images, labels, "fine", partial=True, schema=teacher.schema).samples
    if count is not None:
        samples = tuple(samples[n] for n in sorted(np.random.default_rng(0).permutation(len(samples))[:count]))
    cache = LogitCache.open(out / name, {"teacher": teacher.digest, "images": [sample.key for sample in samples]})
    for progress in predict_images(cache, samples, teacher, SCALES):
        if progress.logit_bytes is not None:
            print(f"{name}: {progress.total} images, about {progress.logit_bytes / 1e6:.0f} MB", flush=True)
    return [cache.image(number) for number in range(len(samples))]


def print_table(found: list[dict[str, Any]]) -> None:
    """Print the mIoU of each way, each teacher's and the mean, and the gain of both heads on the average."""
    print("| scales | fused by | " + " | ".join(f"seed {n}" for n in range(len(found))) + " | mean |")
    print("|---|---|" + "---|" * (len(found) + 1))
    for judged in JUDGED:
        rows = {row: [100 * one[judged][row]["miou"] for one in found] for row in found[0][judged]}
        for row, values in rows.items():
            print(f"| {judged} | {row} | {' | '.join(f'{v:.2f}' for v in values)} | {mean(values):.2f} |")
        for row in (row for row in rows if row.startswith("head")):
            gains = [value - other for value, other in zip(rows[row], rows["average"], strict=True)]
            spread = f" ± {stdev(gains):.2f}" if len(gains) > 1 else ""
            cells = " | ".join(f"{gain:+.2f}" for gain in gains)
            print(f"| {judged} | {row}, less average | {cells} | {mean(gains):+.2f}{spread} |")


if __name__ == "__main__":
    main()
