"""Whether thresholds calibrated on one half of a video keep their promise on the other half, as a table.

The images of DATA/images/val, in the order of their names, are cut in two halves of neighbouring frames. Thresholds are
chosen on one half, for several target precisions, and everything that is reported is measured on the other; then the
halves change places. Beside them stand the constant thresholds 0.5 and 0.9. Nothing of the data is copied.

    python benchmarks/calibration_camvid.py --data DIR --teacher CHECKPOINT --keep FOLDER [--scales 0.5,1,2] [--block 7]

FOLDER gets the counts of each image, so that another call needs no teacher.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.calibrate_settings import CalibrateSettings
from pipeline.calibration_counts import CalibrationCounts, PixelCounts
from pipeline.calibration_file import Calibration
from pipeline.calibration_samples import count_samples
from pipeline.calibration_state import CalibrationState
from pipeline.quality import ClassQuality, Quality
from pipeline.samples import Sample, collect_samples
from pipeline.teacher_decider import TeacherDecider
from pipeline.threshold_choice import ChoiceRule, ClassChoice, choose_thresholds
from teacher import Teacher, load_teacher

TARGETS = (0.90, 0.95, 0.98)
CONSTANTS = (0.5, 0.9)


def count(samples: Sequence[Sample], settings: CalibrateSettings, teacher: Teacher, saved: Path) -> list[PixelCounts]:
    """Count each image, or read what an earlier call has counted."""
    if not saved.is_file():
        decider = TeacherDecider(teacher, settings.way(teacher, temperature=1.0))
        nothing = CalibrationState(CalibrationCounts.nothing(len(teacher.schema), settings.keep_steps))
        # of blocks larger than the set all that was counted is open: what an image adds to it is the image's
        found = [replace(nothing, counts=replace(nothing.counts, block=len(samples) + 1))]
        found += count_samples(samples, teacher.schema, decider, found[0])
        opens = [state.counts.open for state in found]
        joint = np.diff([one.joint for one in opens], axis=0)
        np.savez_compressed(saved, joint=joint, truth=np.diff([one.truth for one in opens], axis=0))
    with np.load(saved) as content:
        return [PixelCounts(1, joint, truth) for joint, truth in zip(content["joint"], content["truth"], strict=True)]


def percent(share: float | None) -> str:
    """Of a table."""
    return "-" if share is None else f"{100 * share:.1f}"


def verdict(choice: ClassChoice, found: ClassQuality, target: float) -> str:
    """Whether the promise is kept on the reported half; where none was made, whether the target is met all the same."""
    if found.precision is None or found.precision_high is None:
        kept = "not given"
    elif found.precision >= target:
        kept = "met"
    else:
        kept = "within" if found.precision_high >= target else "missed"
    return f"**{kept}**" if choice.status == "met" else f"{choice.status} ({kept})"


def both(found: ClassQuality | Quality) -> str:
    """Precision and coverage, of a table."""
    return f"{percent(found.precision)}, {percent(found.coverage)}"


def report(chosen_on: CalibrationCounts, reported: CalibrationCounts, names: tuple[str, ...], what: str) -> None:
    """Print the table of one direction, and how many promises were kept."""
    print(f"\n### Chosen on {what}\n")
    print("| target | class | threshold | precision (interval) | coverage | promise | one constant | 0.5 | 0.9 |")
    print("|---|---|---|---|---|---|---|---|---|")
    tally: Counter[str] = Counter()
    for target in TARGETS:
        rule = ChoiceRule(target_precision=target)
        choices = choose_thresholds(chosen_on, names, rule)
        other = Calibration("the other half", {"temperature": 1.0}, reported, rule, choices, {}, 0)
        quality = other.quality()
        # the one that keeps all promises that the thresholds by class make
        highest = max((choice.threshold for choice in choices if choice.status == "met"), default=0.0)
        constants = [other.quality(dict.fromkeys(names, constant)) for constant in (highest, *CONSTANTS)]
        for index, (choice, found) in enumerate(zip(choices, quality.classes, strict=True)):
            word = verdict(choice, found, target)
            tally[word] += 1
            interval = f"{percent(found.precision_low)} to {percent(found.precision_high)}"
            print(
                f"| {target:.2f} | {choice.name} | {choice.threshold:.2f} | {percent(found.precision)} ({interval}) | "
                f"{percent(found.coverage)} | {word} | {' | '.join(both(one.classes[index]) for one in constants)} |"
            )
        print(
            f"| {target:.2f} | all | | {percent(quality.precision)} | {percent(quality.coverage)} | constant "
            f"{highest:.2f} | {' | '.join(map(both, constants))} |"
        )
    print("\n" + ", ".join(f"{count} {word}" for word, count in tally.most_common()))


def main() -> None:
    """Read the command line, count both halves, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--block", type=int)
    parser.add_argument("--scales", default="0.5,1,2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, truth = options.data / "images/val", options.data / "labels_fine/val"
    settings = CalibrateSettings.checked(
        teacher=str(options.teacher),
        images=images,
        truth=truth,
        scales=tuple(map(float, options.scales.split(","))),
        target_precision=TARGETS[0],
        out=options.keep / "unused.json",
    )
    teacher = load_teacher(options.teacher)
    samples = collect_samples(images, truth, "fine", partial=True, schema=teacher.schema).samples
    half = len(samples) // 2
    options.keep.mkdir(parents=True, exist_ok=True)
    counted = count(samples, settings, teacher, options.keep / "counts.npz")
    names = teacher.schema.names
    for block in (options.block or math.isqrt(half), 1):
        print(f"\n## Blocks of {block}")
        first, second = (
            CalibrationCounts.of(part, len(names), settings.keep_steps, block)
            for part in (counted[:half], counted[half:])
        )
        report(first, second, names, f"the first {half} frames, reported on the other {len(samples) - half}")
        report(second, first, names, f"the last {len(samples) - half} frames, reported on the other {half}")


if __name__ == "__main__":
    main()
