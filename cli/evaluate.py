"""`autocoarse evaluate`: judge labels, or a network, against a ground truth."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.console import Console, Stages, human_bytes, percent
from cli.label_options import fusion_option
from cli.options import (
    FOLDER,
    classes_option,
    device_option,
    ids_option,
    json_option,
    layout_option,
    precision_option,
    scales_option,
    settings_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.evaluation import EvaluationProgress
    from pipeline.scores import Scores


@click.command()
@settings_option
@click.option("--labels", type=FOLDER, help="What label --out made, or a label folder. Or --checkpoint:")
@click.option("--checkpoint", help="A teacher or student to judge, with --images: as `label --teacher`.")
@click.option("--images", type=FOLDER, help="Images that the network labels.")
@scales_option
@fusion_option
@click.option("--allow-training-images", is_flag=True, help="Judge a network also on images it was trained on.")
@device_option
@precision_option
@click.option("--truth", type=FOLDER, required=True, help="Folder of the true labels.")
@classes_option
@layout_option
@ids_option
@click.option(
    "--min-component",
    type=click.IntRange(0),
    metavar="PIXELS",
    help="Judge the labels also without connected pixels of one class that are fewer than this.",
)
@json_option
@click.pass_context
def evaluate(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - checked below
    """Judge labels, or a network, against the truth, over the pixels whose truth is a class.

    A pixel that is given no class is wrong in the IoU and in the accuracy, and does not count in the precision.
    """
    _check_use(ctx, options)
    console = Console(as_json=as_json)
    console.wait(str(options["checkpoint"] or options["labels"]))
    from pipeline.absent_classes import TRUTH_LACKS, warn_of_absent

    last = None
    with Stages() as stages:
        for last in _start(options):
            stages.show("evaluate", last.done, last.total)
    assert last is not None, "an evaluation of nothing is an error"
    if last.without_truth or last.without_prediction:
        console.warn(
            f"judged {last.total} images; {last.without_truth} without a truth and {last.without_prediction} truths "
            f"without a prediction are left out"
        )
    if last.unknown:
        console.warn(
            f"{last.unknown} pixels of the truth have source ids that {last.schema.name} does not know, "
            f"they were taken as ignore"
        )
    scores = last.scores()
    if warning := warn_of_absent(last.counts.sum(axis=1), last.schema, TRUTH_LACKS):
        console.warn(warning)
    _print_table(scores, console)
    effect = _clean_up_effect(last, scores)
    if effect:
        _print_effect(effect, console)
    console.finish(asdict(scores) | ({"min_component": effect} if effect else {}))


def _check_use(ctx: click.Context, options: dict[str, Any]) -> None:
    if (options["labels"] is None) == (options["checkpoint"] is None):
        raise click.UsageError("give either --labels, or --checkpoint with --images", ctx)
    if options["checkpoint"] is not None and options["images"] is None:
        raise click.UsageError("--checkpoint needs --images, the images that it is to label", ctx)
    if options["labels"] is not None:
        for name in ("images", "scales", "fusion", "device", "precision", "allow_training_images"):
            if ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for --checkpoint; labels are judged as they are", ctx
                )
    elif options["min_component"] is not None:
        raise click.UsageError("--min-component is for --labels; a network is judged as it predicts", ctx)


def _start(options: dict[str, Any]) -> "Iterator[EvaluationProgress]":
    from pipeline.evaluation import evaluate_labels, evaluate_network
    from storage.schema import load_schema

    schema = load_schema(options["classes"])
    truth: Path = options["truth"]
    layout, ids = options["layout"], options["ids"]
    if options["labels"] is not None:
        return evaluate_labels(options["labels"], truth, schema, layout, ids, min_component=options["min_component"])
    from teacher import load_teacher

    teacher = load_teacher(
        options["checkpoint"], schema=schema, device=options["device"], precision=options["precision"]
    )
    return evaluate_network(
        teacher,
        options["images"],
        truth,
        options["scales"],
        layout,
        ids,
        fusion=options["fusion"],
        allow_training_images=options["allow_training_images"],
    )


def _percent(share: float | None) -> str:
    return percent(share, digits=2)


def _print_table(scores: "Scores", console: Console) -> None:
    width = max(len("all"), *(len(name) for name in scores.iou))
    console.say(f"{'class':{width}}  {'IoU':>8}  {'precision':>9}  {'recall':>8}")
    for name, iou in scores.iou.items():
        precision, recall = scores.precision_by_class[name], scores.recall_by_class[name]
        console.say(f"{name:{width}}  {_percent(iou):>8}  {_percent(precision):>9}  {_percent(recall):>8}")
    console.say(
        f"mIoU {_percent(scores.miou)} over {scores.images} images; pixel accuracy {_percent(scores.pixel_accuracy)}, "
        f"coverage {_percent(scores.coverage)}, precision {_percent(scores.precision)}"
    )


def _clean_up_effect(last: "EvaluationProgress", scores: "Scores") -> dict[str, Any]:
    """What the clean-up does to the labels, as plain values; empty where none was asked for."""
    clean_up, cleaned = last.clean_up, last.cleaned_scores()
    if clean_up is None or cleaned is None:
        return {}

    def figures(of: "Scores", size: int) -> dict[str, float | int | None]:
        return {"coverage": of.coverage, "precision": of.precision, "miou": of.miou, "bytes": size}

    return {
        "pixels": clean_up.min_pixels,
        **figures(cleaned, clean_up.bytes),
        "before": figures(scores, clean_up.bytes_before),
    }


def _print_effect(effect: dict[str, Any], console: Console) -> None:
    console.say(f"without components of fewer than {effect['pixels']} pixels:")
    console.say(f"{'':6}  {'coverage':>8}  {'precision':>9}  {'mIoU':>8}  {'bytes':>8}")
    for name, row in (("before", effect["before"]), ("after", effect)):
        console.say(
            f"{name:6}  {_percent(row['coverage']):>8}  {_percent(row['precision']):>9}  {_percent(row['miou']):>8}  "
            f"{human_bytes(row['bytes']):>8}"
        )
