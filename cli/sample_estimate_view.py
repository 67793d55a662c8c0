"""`autocoarse estimate --teacher`: a sample labelled and measured, and what is said of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.console import Console, Progress, human_bytes, human_seconds
from cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pipeline.sample_estimate import SampleEstimate, Verdict
    from pipeline.settings import LabelSettings
    from pipeline.stratified import Interval
    from storage.schema import Ids

_LEFT_OUT_SHOWN = 5


def estimate_by_sample(
    console: Console,
    options: dict[str, Any],
    budget: int | None,
    *,
    sample: int,
    seed: int,
    devices: int,
    truth: Path | None,
    truth_ids: "Ids | None",
) -> None:
    """Measure a sample and print what the set will take; ends the process with exit code 4 where it is too much.

    Args:
        console: where to print.
        options: those of `label`.
        budget: bytes that all files of the run may take.
        sample: images to label.
        seed: of their choice.
        devices: how many the time is told for.
        truth: folder of true labels, if there is one.
        truth_ids: what their values are.
    """
    from pipeline.settings import LabelSettings
    from storage.budget import free_bytes

    settings = LabelSettings.checked(**options)
    found, device = _measure(settings, sample, seed, truth, truth_ids)
    free = free_bytes(settings.out)
    verdict = None if budget is None else found.verdict(budget, settings.png, settings.keep)
    _say(console, found, settings)
    _say_time(console, found.seconds, device, devices)
    console.say(f"free space: {human_bytes(free)}")
    if found.together[settings.png, settings.keep].high > free:
        console.warn("the free space may not be enough")
    if budget is not None and verdict is not None:
        _say_verdict(console, found, settings, budget, verdict)
    console.finish(
        _as_json(found, settings, device, devices)
        | {"seed": seed, "free_bytes": free, "budget": budget, "verdict": verdict}
        | {"within_budget": None if verdict is None else verdict != "over"}
    )
    if verdict == "over":
        raise SystemExit(ExitCode.BUDGET_OR_GATE)


def _measure(
    settings: "LabelSettings", sample: int, seed: int, truth: Path | None, truth_ids: "Ids | None"
) -> tuple["SampleEstimate", str]:
    from pipeline.calibrated import with_thresholds
    from pipeline.calibration_file import read_calibration
    from pipeline.provenance import decisive_settings
    from pipeline.sample_estimate import conclude, draw_sample, measure_sample
    from pipeline.sample_measure import TeacherMeasure
    from storage.layouts import list_images, list_labels
    from storage.schema import load_schema
    from storage.workspace import Workspace
    from teacher import load_teacher

    # as in labelling, but that the folder one is in is no output folder just because none was given
    own = [] if settings.out == Path() else [settings.out, Workspace(settings.out).labels]
    listing = list_images(settings.images, settings.layout, exclude=own)
    drawn = draw_sample(listing.items, sample, seed)
    nameless = tuple(reason for _, reason in listing.problems)
    drawn = dataclasses.replace(drawn, unreadable=nameless + drawn.unreadable)
    true_labels = {} if truth is None else list_labels(truth, settings.layout, truth_ids)
    schema = None if settings.classes is None else load_schema(settings.classes)
    teacher = load_teacher(
        settings.teacher,
        settings.weights,
        schema=schema,
        device=settings.device,
        precision=settings.precision,
        compiled=settings.compiled,
    )
    if settings.thresholds is not None:
        calibration = read_calibration(settings.thresholds)
        decisive = decisive_settings(settings, teacher)
        settings = with_thresholds(settings, calibration, decisive, brings_temperature=True)
    results = []
    with Progress("measure", len(drawn.drawn)) as progress:
        for one in measure_sample(drawn, TeacherMeasure(teacher, settings, true_labels)):
            results.append(one)
            progress.advance()
    found = conclude(drawn, results, len(teacher.schema), settings.png)
    return found, str(teacher.device)


def _row(name: str, found: "Interval", count: int) -> str:
    interval = f"{human_bytes(found.low):>8} to {human_bytes(found.high)}"
    return f"  {name:<26} {human_bytes(found.total):>9}   {interval:<20} {human_bytes(found.total / count):>8} a label"


def _say(console: Console, found: "SampleEstimate", settings: "LabelSettings") -> None:
    exact = " (all: the figures are exact)" if found.sampled == found.count else ""
    console.say(
        f"{found.count} images, {found.classes} classes; {found.sampled} of them{exact} were labelled and measured. "
        f"The second column holds the truth in nine cases of ten"
    )
    for name, total in found.labels.items():
        console.say(_row(f"label PNG, {name}", total, found.count))
    for keep, total in found.stores.items():
        if keep != "none":
            console.say(_row(f"kept beside it, {keep}", total, found.count))
    if settings.save_attention:
        console.say(_row("attention maps", found.attention, found.count))
    run = found.together[settings.png, settings.keep]
    console.say(_row(f"run: {settings.png}, keep {settings.keep}", run, found.count))
    console.say(f"    with {human_bytes(found.ledger)} for its ledger, by a model")
    for soft, raw in found.soft_raw.items():
        console.say(_row(f"soft labels, {soft}, zstd", found.soft[soft], found.count))
        console.say(f"    uncompressed, exact: {human_bytes(raw)}, {raw / run.total:,.0f} times the run")
    console.say(
        f"coverage on the sample: {found.coverage:.1%} of the pixels are given a class{_precision(found.precision)}"
    )
    if settings.min_component > 1:
        before = found.uncleaned[settings.png]
        console.say(
            f"without the clean-up of components below {settings.min_component} pixels: labels "
            f"{human_bytes(before.total)}, {human_bytes(before.low)} to {human_bytes(before.high)}, instead of "
            f"{human_bytes(found.labels[settings.png].total)}; coverage {found.uncleaned_coverage:.1%}"
            f"{_precision(found.uncleaned_precision)}"
        )
    if found.left_out:
        console.warn(f"{len(found.left_out)} images cannot be labelled and are left out:")
        for reason in found.left_out[:_LEFT_OUT_SHOWN]:
            console.warn(f"  {reason}")


def _precision(share: float | None) -> str:
    return "" if share is None else f", precision {share:.1%}"


def _say_time(console: Console, seconds: "Interval", device: str, devices: int) -> None:
    low, high = human_seconds(seconds.low), human_seconds(seconds.high)
    console.say(f"time to label all: {human_seconds(seconds.total)} on this device ({device}), {low} to {high}")
    if devices > 1:
        console.say(f"  {human_seconds(seconds.total / devices)} on {devices} such devices that share the images")
    console.say(
        "  rests on: the sample, image by image after one to warm up; reading, network and encoding one after the "
        "other, which a run overlaps; nothing else at work on the machine that was not at work now"
    )


def _say_verdict(
    console: Console, found: "SampleEstimate", settings: "LabelSettings", budget: int, verdict: "Verdict"
) -> None:
    run = found.together[settings.png, settings.keep]
    span = f"{human_bytes(run.total)}, {human_bytes(run.low)} to {human_bytes(run.high)}"
    if verdict == "fits":
        console.say(f"budget {human_bytes(budget)}: fits ({span})")
        return
    text = f"budget {human_bytes(budget)}: {'uncertain' if verdict == 'uncertain' else 'does not fit'} ({span})"
    choices = found.fitting(budget, settings.png, settings.keep)
    if choices:
        text += "; would fit: " + ", or ".join(f"--png {png} --keep {keep}" for png, keep in choices)
    elif verdict == "over":
        text += "; neither another preset nor keeping less would surely fit"
    if verdict == "uncertain":
        console.warn(text + "; a larger --sample narrows the interval")
    else:
        console.say(text)


def _as_json(found: "SampleEstimate", settings: "LabelSettings", device: str, devices: int) -> dict[str, Any]:
    run = found.together[settings.png, settings.keep]
    cleaned = settings.min_component > 1
    return {
        "basis": "measured",
        "count": found.count,
        "sampled": found.sampled,
        "classes": found.classes,
        "left_out": list(found.left_out),
        "labels": {name: _bytes(one) for name, one in found.labels.items()},
        "stores": {name: _bytes(one) for name, one in found.stores.items() if name != "none"},
        "attention": _bytes(found.attention) if settings.save_attention else None,
        "ledger_bytes": found.ledger,
        "together": {f"{png}+{keep}": _bytes(one) for (png, keep), one in found.together.items()},
        "chosen": {"png": settings.png, "keep": settings.keep, **_bytes(run)},
        "soft": {name: {"raw_bytes": raw, "zstd": _bytes(found.soft[name])} for name, raw in found.soft_raw.items()},
        "coverage": found.coverage,
        "precision": found.precision,
        "without_clean_up": {
            "labels": _bytes(found.uncleaned[settings.png]),
            "coverage": found.uncleaned_coverage,
            "precision": found.uncleaned_precision,
        }
        if cleaned
        else None,
        "seconds": {"total": found.seconds.total, "low": found.seconds.low, "high": found.seconds.high},
        "device": device,
        "devices": devices,
        "seconds_on_devices": found.seconds.total / devices,
    }


def _bytes(found: "Interval") -> dict[str, int]:
    return {"bytes": round(found.total), "low": round(found.low), "high": round(found.high)}
