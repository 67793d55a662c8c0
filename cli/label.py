"""`autocoarse label`: label a folder of images with a teacher."""

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import click

from cli.audit import SURER, follow_audit, show_audit, summarise
from cli.console import Console, Failures, Progress, human_bytes
from cli.exit_codes import ExitCode, stop_where_items_failed
from cli.folders import FOLDER_OR_URL, OUT_OR_URL
from cli.gate_view import gate_option, judge_by_gate, stop_at_gate
from cli.going_on import refuse_moved_run
from cli.label_options import labelling_options, refuse_two_thresholds
from cli.label_warnings import warn_by_model, warn_of_problems, warn_of_refused, warn_of_shortage
from cli.option_types import ByteSize
from cli.options import (
    FILE,
    FOLDER,
    device_option,
    json_option,
    layout_option,
    settings_option,
    teacher_classes_option,
    teacher_option,
    weights_option,
)

if TYPE_CHECKING:
    from pipeline.audit_file import Audit
    from pipeline.labelling import LabelRun


_LOOK_SECONDS = 1.0
"""At many images a second the workers are not looked at for each."""


@click.command()
@settings_option
@click.option("--images", type=FOLDER_OR_URL, required=True, help="Folder of images, or a URL; labelled recursively.")
@teacher_option
@weights_option
@teacher_classes_option
@layout_option
@labelling_options
@click.option("--palette", is_flag=True, help="Give the PNGs the class colours, for viewers; the values stay.")
@click.option(
    "--ids",
    type=click.Choice(["class", "source"]),
    default="class",
    show_default=True,
    help="Values to write: class indices, or the data set's own ids (Cityscapes labelIds).",
)
@click.option("--budget", type=ByteSize(), help="Such as 600MB: stop before all files of OUT take more; exit 4.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images of equal size labelled together.")
@device_option
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Label with N processes of this machine, each with a GPU of its own where there are any; 0: one a GPU.",
)
@click.option("--scheduler", metavar="URL", help="Label with a dask cluster: tcp://HOST:8786, or tls:// and --tls-*.")
@click.option("--tls-ca", type=FILE, help="Certificate of the authority, for tls://.")
@click.option("--tls-cert", type=FILE, help="Own certificate, for tls://.")
@click.option("--tls-key", type=FILE, help="Key of the own certificate, for tls://.")
@click.option("--dashboard", is_flag=True, help="With --workers: show dask's dashboard on loopback.")
@click.option("--shard", metavar="I/N", help="Label only the I-th of N parts, into an OUT of its own; see `gather`.")
@gate_option
@click.option(
    "--coarse", type=FOLDER, help="Human coarse labels of the images: at the end OUT/audit.json compares both."
)
@click.option("--coarse-ids", type=click.Choice(["class", "source"]), help="What the values of --coarse are.")
@click.option("--out", type=OUT_OR_URL, required=True, help="Folder of the run, or a URL; labels land in OUT/labels.")
@json_option
def label(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by LabelSettings
    """Label images with a teacher; pixels it is not sure of become ignore (255).

    Run the same command again to go on after a stop, and to try failed images again.
    """
    refuse_two_thresholds(click.get_current_context())
    refuse_moved_run(click.get_current_context())
    console = Console(as_json=as_json)
    console.wait(f"the teacher {options['teacher']}")
    from pipeline.labelling import LabelRun
    from pipeline.settings import LabelSettings
    from storage.errors import BudgetError, DiskFullError

    if options["palette"]:
        console.warn(
            "with a palette, Pillow gives the class indices; OpenCV and others turn the label into colours, and a "
            "training that reads it with them learns nonsense"
        )
    started = time.monotonic()
    full: BudgetError | DiskFullError | None = None
    with LabelRun(LabelSettings.checked(**options)) as run:
        _say_plan(run, console)
        try:
            _follow(run, console)
        except (BudgetError, DiskFullError) as error:
            full = error
        except KeyboardInterrupt:
            console.say(f"\nlabelled {run.summary.labelled}; {_left(run)} of {run.summary.total} images are left")
            raise
        seconds = time.monotonic() - started
        _report(run, console, seconds, full)
        found = _audit(run, console) if full is None else None
    failure = None if found is None else judge_by_gate(run.gate, found.quality(), console)
    _finish(run, console, seconds, full, found, failure)
    if full is not None:
        raise SystemExit(ExitCode.BUDGET_OR_GATE)
    if failure is not None:
        stop_at_gate(failure, f"the labels stay; {SURER}")
    stop_where_items_failed(run.summary.failed, run.summary.total)


def _say_plan(run: "LabelRun", console: Console) -> None:
    from teacher.fusion import scales_of

    plan, settings = run.plan, run.settings
    own = ", ".join(f"{name} {value:g}" for name, value in settings.class_thresholds.items())
    refused = f", {plan.refused_count} that cannot be" if plan.refused_count else ""
    fusion = run.teacher.fusion(settings.fusion)
    scales = run.teacher.predictor.attention_scales or scales_of(fusion, settings.scales)[::-1]
    how = f" ({fusion})" if len(scales) > 1 else ""
    of_shard = "" if settings.shard is None else f" of shard {settings.shard}"
    console.say(
        f"{plan.total} images{of_shard}: {plan.done_count} done before, {plan.to_do_count} to label{refused}, with "
        f"{run.teacher.name} on {run.workers.name or run.teacher.device}, scales "
        f"{', '.join(f'{s:g}' for s in scales)}{how}, threshold {settings.threshold:g}" + (f" ({own})" if own else "")
    )
    for remark in run.teacher.remarks:
        console.say(f"of the teacher: {remark}")
    if run.workers.dashboard:
        console.say(f"dask's dashboard: {run.workers.dashboard}")
    if plan.done_count:
        console.say("labels that are done stay as they are, also where --png, --palette or --keep say otherwise now")
    if run.thresholds_off_grid:
        console.warn(
            f"--keep-steps {settings.keep_steps} does not know the threshold "
            f"{' or '.join(f'{t:g}' for t in run.thresholds_off_grid)}: `rethreshold` could not make these labels again"
        )
    if run.gate_not_known:
        console.warn(run.gate_not_known)
    if run.forecast.total is None:
        warn_by_model(run, console)
    warn_of_shortage(run, console)


def _follow(run: "LabelRun", console: Console) -> None:
    """Draw the run while it works."""
    plan, summary, limit = run.plan, run.summary, run.settings.budget
    refused: set[str] = set()
    workers, looked = "", 0.0
    with Failures() as failures, Progress("label", plan.left_count) as progress:
        for entry in run:
            if time.monotonic() - looked > _LOOK_SECONDS:
                workers, looked = _workers_note(run), time.monotonic()
                warn_of_refused(run, console, refused)
            used = human_bytes(run.used_bytes) + ("" if limit is None else f" of {human_bytes(limit)}")
            progress.advance(note=f"{used}, {summary.failed} failed{workers}")
            if entry.status == "failed":
                failures.add(entry.reason)
            warn_of_shortage(run, console)
    warn_of_refused(run, console, refused)  # those of the last moment
    warn_of_problems(run, console)


def _workers_note(run: "LabelRun") -> str:
    """How many workers there are, and how fast each is; nothing where there is but this process."""
    rates = sorted(worker.rate for worker in run.workers.view() if worker.state == "ready")
    if not rates:
        return ""
    each = f"{rates[0]:.2f}" if len(rates) == 1 else f"{rates[0]:.2f} to {rates[-1]:.2f}"
    return f", {len(rates)} workers of {each} images/s"


def _left(run: "LabelRun") -> int:
    summary = run.summary
    return summary.total - summary.labelled - summary.skipped - summary.failed


def _report(run: "LabelRun", console: Console, seconds: float, full: OSError | None) -> None:
    summary = run.summary
    left = _left(run)
    console.say(
        f"labelled {summary.labelled}, skipped {summary.skipped}, failed {summary.failed} of {summary.total}; "
        f"{human_bytes(summary.bytes)}, {summary.ignore_fraction:.1%} of the pixels ignored; {seconds:.1f} s"
    )
    if summary.stepped_down:
        console.warn(
            f"for want of memory {summary.stepped_down} images were labelled fewer at a time, or in tiles, which may "
            f"change labels; `autocoarse doctor` tells what fits"
        )
    if full is not None:
        console.warn(str(full))
        total = run.forecast.total
        need = "" if total is None else f"; all of it will take about {human_bytes(total)}"
        console.say(
            f"stopped: no room for more. {left} images are left{need}. What was made is complete; the same command "
            f"with more room, or a larger --budget, goes on"
        )
    if summary.failed and run.workspace.failures.exists():
        console.say(f"the reasons are in {run.workspace.failures}; the same command tries the failed images again")
    console.say(f"labels: {run.workspace.labels}")
    if run.settings.shard is not None:
        console.say(f"this is shard {run.settings.shard}; `autocoarse gather` joins the shards' runs into one")
    if run.settings.save_attention:
        console.say(f"attention maps: {run.workspace.attention}, a folder a scale")
    if run.settings.keep != "none":
        console.say(
            f"kept {run.settings.keep}: {run.workspace.soft}; `autocoarse rethreshold` applies other thresholds"
        )


def _audit(run: "LabelRun", console: Console) -> "Audit | None":
    """Compare the labels with human ones, if that was asked for and there are any labels."""
    from pipeline.audit import audit_labels
    from pipeline.audit_file import to_json

    settings, workspace = run.settings, run.workspace
    if settings.coarse is None or run.summary.failed == run.summary.total:
        return None
    found = follow_audit(
        audit_labels(workspace.root, settings.coarse, run.teacher.schema, settings.layout, settings.coarse_ids)
    )
    workspace.publish(workspace.audit, to_json(found))
    show_audit(found, console)
    console.say(f"all of it: {workspace.audit}")
    return found


def _finish(
    run: "LabelRun", console: Console, seconds: float, full: OSError | None, found: "Audit | None", failure: str | None
) -> None:
    summary = run.summary
    console.finish(
        {
            "total": summary.total,
            "labelled": summary.labelled,
            "failed": summary.failed,
            "skipped": summary.skipped,
            "left": _left(run),
            "stepped_down": summary.stepped_down,
            "bytes": summary.bytes,
            "used_bytes": run.used_bytes,
            "forecast_bytes": run.forecast.total,
            "budget": run.settings.budget,
            "stopped": None if full is None else str(full),
            "seconds": round(seconds, 3),
            "images_per_second": round(summary.labelled / seconds, 3),
            "ignore_fraction": summary.ignore_fraction,
            "settings_digest": run.digest,
            "workers": [dataclasses.asdict(worker) for worker in run.workers.view()],
            "shard": None if run.settings.shard is None else str(run.settings.shard),
            "gate_failure": failure,
            "audit": None if found is None else summarise(found),
            "out": str(run.settings.out),
        }
    )
