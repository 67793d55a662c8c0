"""`autocoarse fit-attention`: a scale attention for a teacher that has none, and is not to be trained."""

import time
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages, human_bytes
from cli.option_types import Numbers
from cli.options import (
    FOLDER,
    OUT,
    device_option,
    ids_option,
    json_option,
    layout_option,
    precision_option,
    settings_option,
    teacher_classes_option,
    weights_option,
)

if TYPE_CHECKING:
    from pipeline.head_fitting import HeadFit

_ROWS = {"single": "scale 1 alone", "average": "average", "attention": "attention"}


@click.command("fit-attention")
@settings_option
@click.option("--teacher", required=True, help="What `label --teacher` takes; it has no scale attention of its own.")
@weights_option
@click.option("--images", type=FOLDER, required=True, help="Images to learn from, best some it was not trained on.")
@click.option("--labels", type=FOLDER, required=True, help="Folder of their fine labels.")
@click.option("--val-images", type=FOLDER, help="Images to judge it on.  [default: a fifth of --images is held out]")
@click.option("--val-labels", type=FOLDER, help="Folder of their fine labels.")
@teacher_classes_option
@layout_option
@ids_option
@click.option("--scales", type=Numbers(), default="0.5,1,2", show_default=True, help="Two or more, 1 among them.")
@precision_option
@device_option
@click.option("--max-images", type=int, help="Take so many of the images, drawn by the seed.  [default: all]")
@click.option("--steps", type=int, default=300, show_default=True, help="Of the training.")
@click.option("--batch", type=int, default=4, show_default=True, help="Crops a step.")
@click.option("--crop", type=int, default=512, show_default=True, help="Longest side of a crop, in pixels.")
@click.option("--learning-rate", type=float, default=1e-2, show_default=True, help="At the start; it falls to zero.")
@click.option("--channels", type=int, default=32, show_default=True, help="Of the attention's layers.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--keep-logits", is_flag=True, help="Leave the teacher's logits in OUT/logits at the end.")
@click.option("--allow-training-images", is_flag=True, help="Judge also on images that the teacher was trained on.")
@click.option("--out", type=OUT, required=True, help="Folder of the result; OUT/teacher.toml is the new teacher.")
@json_option
def fit_attention(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by FitAttentionSettings
    """Fit a scale attention to a teacher as it is, so that it fuses scales hierarchically; takes minutes.

    `label --teacher OUT/teacher.toml` labels by it. The teacher predicts each image once at each scale, and is never
    changed. Run the same command again to go on after a stop.
    """
    from pipeline.head_fitting import HeadFit
    from pipeline.head_settings import FitAttentionSettings

    console = Console(as_json=as_json)
    started = time.monotonic()
    fit = HeadFit.open(FitAttentionSettings.checked(**options))
    for warning in fit.data.warnings:
        console.warn(warning)
    console.say(
        f"{len(fit.data.training)} images to learn from, {len(fit.data.validation)} to judge on, with "
        f"{fit.teacher.name} on {fit.teacher.device}" + (": fitted before" if fit.finished else "")
    )
    _follow(fit, console)
    found = fit.result()
    warnings = list(fit.data.warnings)
    if fit.is_edited:
        warnings.append(
            f"{fit.folder.teacher} was edited since it was written, and is left as it is; remove it to have it anew"
        )
        console.warn(warnings[-1])
    _say_result(fit, found, console)
    told = ("scales", "trained_on", "judged_on", "fusions")
    console.finish(
        {name: found[name] for name in told}
        | {
            "teacher": str(fit.folder.teacher),
            "attention": str(fit.folder.head),
            "fitted_before": fit.finished,
            "warnings": warnings,
            "seconds": round(time.monotonic() - started, 3),
        }
    )


def _follow(fit: "HeadFit", console: Console) -> None:
    """Draw the fit while it is at work."""
    with Stages() as stages:
        for progress in fit:
            if progress.logit_bytes is not None:
                what = "left there" if fit.settings.keep_logits else "removed at the end"
                console.say(f"the logits take about {human_bytes(progress.logit_bytes)} in {fit.folder.logits}, {what}")
            note = "" if progress.loss is None else f"loss {progress.loss:.4f}"
            unit = "steps" if progress.stage == "fit" else "images"
            stages.show(progress.stage, progress.done, progress.total, note, unit)


def _say_result(fit: "HeadFit", found: dict[str, Any], console: Console) -> None:
    miou = {name: found["fusions"][name]["miou"] for name in _ROWS}
    scales = ", ".join(f"{scale:g}" for scale in found["scales"])
    console.say(f"mIoU on {len(found['judged_on'])} images that the attention has not seen, scales {scales}:")
    for name, row in _ROWS.items():
        console.say(f"  {row:13}  {miou[name]:.2%}")
    best = max(("single", "average"), key=lambda name: miou[name])
    gain = miou["attention"] - miou[best]
    if gain > 0:
        console.say(f"the attention gains {100 * gain:.2f} points on the better of the others")
    else:
        console.say(
            f"the attention is no better than {_ROWS[best]}: {-100 * gain:.2f} points behind; use that instead, or fit "
            f"it on more images, such as the teacher has not seen"
        )
    console.say(f"teacher: {fit.folder.teacher}; `autocoarse label --teacher {fit.folder.teacher}` labels by it")
