"""Whether thresholds calibrated on one half of a video keep their promise on the other half, as a table.

The images of DATA/images/val, in the order of their names, are cut in two halves of neighbouring frames. Thresholds are
chosen on one half, for several target precisions, and everything that is reported is measured on the other; then the
halves change places. Beside them stand the constant thresholds 0.5 and 0.9. Nothing of the data is copied.

    python benchmarks/calibration_camvid.py --data DIR --teacher CHECKPOINT --keep FOLDER [--scales 0.5,1,2]

FOLDER gets the counts of both halves; the same call goes on with them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.calibrate_settings import CalibrateSettings
from pipeline.calibrating import count_samples
from pipeline.calibration_counts import CalibrationCounts
from pipeline.calibration_file import Calibration
from pipeline.calibration_state import read_state
from pipeline.quality import ClassQuality
from pipeline.samples import Sample, collect_samples, fingerprint_files
from pipeline.teacher_decider import TeacherDecider
from pipeline.teacher_source import TeacherSource
from pipeline.threshold_choice import ChoiceRule, choose_thresholds
from teacher import Teacher, load_teacher

TARGETS = (0.90, 0.95, 0.98)
CONSTANTS = (0.5, 0.9)


def count(samples: Sequence[Sample], settings: CalibrateSettings, teacher: Teacher, saved: Path) -> CalibrationCounts:
    """Count a half, or go on with what was counted of it."""
    measured = {**settings.decisive(teacher), "steps": settings.keep_steps, "files": fingerprint_files(samples)}
    state = read_state(saved, measured, len(teacher.schema), settings.keep_steps)
    decider = TeacherDecider(teacher, TeacherSource.of(settings, teacher, (0.0,)))
    counts = state.counts
    for now in count_samples(samples, teacher.schema, decider, state):
        now.save(saved, measured)
        counts = now.counts
    return counts


def judge(
    counts: CalibrationCounts, names: Sequence[str], thresholds: dict[str, float], rule: ChoiceRule
) -> Calibration:
    """The reported half, to be looked at under thresholds."""
    choices = choose_thresholds(counts, tuple(names), rule)
    calibration = Calibration("the reported half", {"temperature": 1.0}, counts, rule, choices, {}, 0)
    calibration.quality(thresholds)
    return calibration


def percent(share: float | None) -> str:
    """Of a table."""
    return "-" if share is None else f"{100 * share:.1f}"


def verdict(status: str, found: ClassQuality, target: float) -> str:
    """Whether the promise is kept on the reported half."""
    if status != "met":
        return status
    if found.precision is None or found.precision_high is None or not found.enough:
        return "cannot be judged"
    if found.precision >= target:
        return "met"
    return "within" if found.precision_high >= target else "**missed**"


def report(chosen_on: CalibrationCounts, reported: CalibrationCounts, names: Sequence[str], what: str) -> None:
    """Print the tables of one direction."""
    print(f"\n### Chosen on {what}\n")
    tallies = []
    for target in TARGETS:
        rule = ChoiceRule(target_precision=target)
        choices = choose_thresholds(chosen_on, tuple(names), rule)
        thresholds = {choice.name: choice.threshold for choice in choices}
        other = judge(reported, names, thresholds, rule)
        quality = other.quality(thresholds)
        constants = [other.quality(dict.fromkeys(names, constant)) for constant in CONSTANTS]
        highest = max((choice.threshold for choice in choices if choice.status == "met"), default=None)
        one = None if highest is None else other.quality(dict.fromkeys(names, highest))
        print(f"Target {target:.2f}:\n")
        print("| class | threshold | precision (interval) | coverage | promise | at 0.5: precision, coverage |", end="")
        print(" at 0.9: precision, coverage | one constant for all |\n|---|---|---|---|---|---|---|---|")
        verdicts = []
        for index, choice in enumerate(choices):
            found = quality.classes[index]
            verdicts.append(verdict(choice.status, found, target))
            at = [f"{percent(q.classes[index].precision)}, {percent(q.classes[index].coverage)}" for q in constants]
            alone = "-" if one is None else percent(one.classes[index].coverage)
            interval = f"{percent(found.precision_low)} to {percent(found.precision_high)}"
            print(
                f"| {choice.name} | {choice.threshold:.2f} | {percent(found.precision)} ({interval}) | "
                f"{percent(found.coverage)} | {verdicts[-1]} | {' | '.join(at)} | {alone} |"
            )
        at = [f"{percent(q.precision)}, {percent(q.coverage)}" for q in constants]
        alone = "-" if one is None else percent(one.coverage)
        print(f"| all | | {percent(quality.precision)} | {percent(quality.coverage)} | | {' | '.join(at)} | {alone} |")
        print(f"\nThe one constant is {highest}.\n")
        tallies.append({word: verdicts.count(word) for word in dict.fromkeys(verdicts)})
    for target, tally in zip(TARGETS, tallies, strict=True):
        print(f"- {target:.2f}: " + ", ".join(f"{count} {word}" for word, count in tally.items()))
    missed = sum(tally.get("**missed**", 0) for tally in tallies)
    print(f"- missed in all: {missed} of {len(names) * len(TARGETS)}")


def main() -> None:
    """Read the command line, count both halves, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
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
    first = count(samples[:half], settings, teacher, options.keep / "first.json")
    second = count(samples[half:], settings, teacher, options.keep / "second.json")
    names = teacher.schema.names
    report(first, second, names, f"the first {half} frames, reported on the other {len(samples) - half}")
    report(second, first, names, f"the last {len(samples) - half} frames, reported on the other {half}")


if __name__ == "__main__":
    main()
