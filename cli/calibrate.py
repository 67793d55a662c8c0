"""`autocoarse calibrate`: what a teacher's confidence is worth on held-out labels, and thresholds chosen by it."""

import time
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Failures, Progress, percent
from cli.exit_codes import ExitCode
from cli.label_options import fusion_option
from cli.options import (
    FOLDER,
    OUT_FILE,
    device_option,
    ids_option,
    json_option,
    layout_option,
    precision_option,
    scales_option,
    settings_option,
    teacher_classes_option,
    teacher_option,
    weights_option,
)

if TYPE_CHECKING:
    from pipeline.calibrating import CalibrationRun
    from pipeline.calibration_file import Calibration
    from pipeline.calibration_state import CalibrationState


@click.command()
@settings_option
@teacher_option
@weights_option
@click.option("--images", type=FOLDER, required=True, help="Held-out images, on which the teacher was not trained.")
@click.option("--truth", type=FOLDER, required=True, help="Folder of their fine labels.")
@teacher_classes_option
@layout_option
@ids_option
@scales_option
@fusion_option
@click.option("--flip", is_flag=True, help="Average with the mirror image: twice the time.")
@precision_option
@device_option
@click.option("--compiled", is_flag=True, help="Have torch compile the network.")
@click.option("--keep-steps", type=int, default=100, show_default=True, help="Thresholds are multiples of 1/STEPS.")
@click.option("--target-precision", type=float, help="Choose thresholds at which each class is as precise as this.")
@click.option("--target-coverage", type=float, help="Choose thresholds at which each class is found as far as this.")
@click.option(
    "--min-images",
    type=int,
    default=10,
    show_default=True,
    help="A class that is given in fewer images keeps the default threshold.",
)
@click.option("--min-pixels", type=int, default=1000, show_default=True, help="The same of the pixels given the class.")
@click.option(
    "--block",
    type=int,
    help="So many neighbouring images count as one independent unit; 1 where they were drawn at random.  "
    "[default: the square root of their number]",
)
@click.option(
    "--default-threshold", type=float, default=0.5, show_default=True, help="Of classes with too little evidence."
)
@click.option(
    "--fit-temperature",
    is_flag=True,
    help="First fit a temperature, by which `label --thresholds` divides the logits too: twice the time.",
)
@click.option("--allow-training-images", is_flag=True, help="Count also images that the teacher was trained on.")
@click.option("--out", type=OUT_FILE, required=True, help="File of the calibration, such as calibration.json.")
@json_option
def calibrate(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by CalibrateSettings
    """Measure a teacher on held-out images, and choose each class's threshold for a target precision or coverage.

    `label --thresholds OUT` labels with them. What is promised is the lower end of a 95 % interval whose independent
    units are blocks of neighbouring images. Run the same command again to go on after a stop; another target needs no
    second measurement.
    """
    console = Console(as_json=as_json)
    console.wait(f"the teacher {options['teacher']}")
    from pipeline.absent_classes import TRUTH_LACKS, warn_of_absent
    from pipeline.calibrate_settings import CalibrateSettings
    from pipeline.calibrating import CalibrationRun

    started = time.monotonic()
    run = CalibrationRun.open(CalibrateSettings.checked(**options))
    run = _fit(run, console)
    _say_plan(run, console)
    calibration = run.result(run.state if run.finished is not None else _follow(run))
    with Failures() as failures:
        for reason in calibration.failed.values():
            failures.add(reason)
    if calibration.unknown:
        console.warn(f"{calibration.unknown} pixels of the truth have source ids that no class has, taken as ignore")
    if warning := warn_of_absent(calibration.counts.pixels.truth, run.teacher.schema, TRUTH_LACKS):
        console.warn(warning)
    _print_table(calibration, console)
    console.say(f"calibration: {run.settings.out}; `autocoarse label --thresholds {run.settings.out}` labels by it")
    console.finish(_as_plain(run, calibration, time.monotonic() - started))
    if calibration.failed:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _say_plan(run: "CalibrationRun", console: Console) -> None:
    if run.images_without_truth or run.truth_without_image:
        console.warn(
            f"{run.images_without_truth} images without a truth and {run.truth_without_image} truths without an image "
            f"are left out"
        )
    if run.settings.allow_training_images:
        console.warn("images that the teacher was trained on may count: on new ones it will be less precise than this")
    total = len(run.samples)
    if run.finished is not None:
        console.say(f"{total} images: counted before; only the thresholds are chosen")
    else:
        console.say(
            f"{total} images: {run.state.done} counted before, {total - run.state.done} to count, with "
            f"{run.teacher.name} on {run.teacher.device}"
        )


def _fit(run: "CalibrationRun", console: Console) -> "CalibrationRun":
    """Fit the temperature, where one is to be fitted, and draw that."""
    if (sums := run.fit) is None:
        return run
    with Progress("fit the temperature", len(run.samples), initial=sums.done) as progress:
        for sums in run.fit_temperature():
            progress.advance(note=f"temperature {sums.temperature:.4g}")
    fitted = sums.to_plain()
    console.say(
        f"temperature {sums.temperature:g}: negative log likelihood {fitted['nll_before']:.4f} without it, "
        f"{fitted['nll_after']:.4f} with it, over {sums.pixels} pixels"
    )
    return run.with_temperature(sums)


def _follow(run: "CalibrationRun") -> "CalibrationState":
    """Draw the run while it counts."""
    state = run.state
    with Progress("calibrate", len(run.samples), initial=state.done) as progress:
        for state in run:
            progress.advance(note=f"{len(state.failed)} failed" if state.failed else "")
    return state


def _target(calibration: "Calibration") -> tuple[str, float]:
    rule = calibration.rule
    if rule.target_precision is not None:
        return "precision", rule.target_precision
    assert rule.target_coverage is not None, "a rule has one of both"
    return "coverage", rule.target_coverage


def _print_table(calibration: "Calibration", console: Console) -> None:
    quality, (what, target) = calibration.quality(), _target(calibration)
    width = max(len("class"), *(len(one.name) for one in quality.classes))
    head = f"{'class':{width}}  threshold  precision  (95 % interval)     coverage  images"
    console.say(f"{head}  {what} {target:g}")
    for choice, one in zip(calibration.choices, quality.classes, strict=True):
        interval = f"({percent(one.precision_low)} to {percent(one.precision_high)})"
        console.say(
            f"{one.name:{width}}  {choice.threshold:9.3g}  {percent(one.precision):>9}  {interval:18}  "
            f"{percent(one.coverage):>8}  {one.images:6}  {choice.status}"
        )
    ece = "-" if calibration.ece is None else f"{calibration.ece:.4f}"
    console.say(
        f"all: precision {percent(quality.precision)}, coverage {percent(quality.coverage)}, "
        f"{calibration.images} images; expected calibration error {ece}"
    )


def _as_plain(run: "CalibrationRun", calibration: "Calibration", seconds: float) -> dict[str, Any]:
    from dataclasses import asdict

    quality = calibration.quality()
    classes = zip(calibration.choices, quality.classes, strict=True)
    return {
        "out": str(run.settings.out),
        "target": dict([_target(calibration)]),
        "images": calibration.images,
        "block": calibration.counts.block,
        "failed": dict(calibration.failed),
        "counted_before": run.state.done if run.finished is None else len(run.samples),
        "images_without_truth": run.images_without_truth,
        "truth_without_image": run.truth_without_image,
        "unknown_pixels": calibration.unknown,
        "classes": [asdict(one) | {"status": choice.status} for choice, one in classes],
        "precision": quality.precision,
        "coverage": quality.coverage,
        "ece": calibration.ece,
        "temperature": calibration.temperature,
        "temperature_fit": calibration.measured.get("temperature_fit"),
        "reliability": [asdict(one) for one in calibration.reliability],
        "curves": {name: [asdict(point) for point in curve] for name, curve in calibration.curves().items()},
        "confusion": calibration.confusion().tolist(),
        "seconds": round(seconds, 3),
    }
