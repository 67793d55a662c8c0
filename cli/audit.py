"""`autocoarse audit`: how far automatic labels agree with human coarse labels of the same images."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages, percent
from cli.gate_view import gate_option, judge_by_gate, stop_at_gate
from cli.options import FOLDER, OUT_FILE, ids_option, json_option, layout_option, settings_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.audit import AuditProgress
    from pipeline.audit_file import Audit
    from storage.schema import ClassSchema

_SHOWN = 10
"""Folders, images and mistakes that are shown; the file has all of them."""

SURER = (
    "surer labels of these classes: --class-thresholds of `label`, or of `rethreshold` where confidence was kept; or "
    "look at the images ranked worst: the human may be wrong"
)


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option("--coarse", type=FOLDER, required=True, help="Folder of the human labels, a mirror of the image tree.")
@click.option("--classes", help="Class schema: cityscapes, camvid, ... or a file; a RUN's own by default.")
@layout_option
@ids_option
@gate_option
@click.option("--out", type=OUT_FILE, help="File that is written.  [default: RUN/audit.json]")
@json_option
def audit(*, run: Path, coarse: Path, classes: str | None, out: Path | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401
    """Compare the labels of RUN, or of a label folder, with human coarse labels of the same images.

    Tells by class, folder and image how far they agree, and ranks the images for review. Coarse labels are a free test
    with a bias, which is told too. Exit 4: a --gate is not met.
    """
    from pipeline.audit import audit_labels
    from pipeline.audit_file import write_audit
    from pipeline.gate import Gate

    console = Console(as_json=as_json)
    gate = Gate.parse(*options["gate"])
    schema, out = _classes_and_place(run, classes, out)
    gate.refuse_unknown(schema.names, schema.name)
    found = follow_audit(audit_labels(run, coarse, schema, options["layout"], options["ids"]))
    write_audit(out, found)
    show_audit(found, console)
    console.say(f"all of it: {out}")
    failure = judge_by_gate(gate, found.quality(), console)
    console.finish(summarise(found) | {"gate_failure": failure, "out": str(out)})
    if failure is not None:
        stop_at_gate(failure, SURER)


def _classes_and_place(labels: Path, classes: str | None, out: Path | None) -> "tuple[ClassSchema, Path]":
    """The classes, and the file that the audit is written into; a RUN has both."""
    from pipeline.audit_file import refuse_others
    from storage.errors import SettingsError
    from storage.schema import load_schema
    from storage.workspace import Workspace

    if out is not None:
        refuse_others(out)
    if (run := Workspace.holding(labels)) is not None:
        classes, out = classes or str(run.classes), out or run.audit
    if classes is None or out is None:
        raise SettingsError(
            f"{labels} is no RUN, which would have classes and a place for the audit; give both --classes and --out"
        )
    return load_schema(classes), out


def follow_audit(progress: "Iterator[AuditProgress]") -> "Audit":
    """Draw an audit while it works, and give what it found."""
    found = None
    with Stages() as stages:
        for step in progress:
            found = step.audit
            stages.show("audit", step.done, step.total, note=f"agreement {percent(step.agreement)}")
    assert found is not None, "the last progress has the audit"
    return found


def show_audit(found: "Audit", console: Console) -> None:
    """Print an audit for people."""
    _warn(found, console)
    width = max(map(len, ("class", *(one.name for one in found.classes))))
    console.say(
        f"{'class':{width}}  {'precision':>9}  {'95 % interval':>16}  {'coverage':>8}  {'images':>6}  {'drawn in':>8}"
    )
    for one, drawn in zip(found.classes, found.drawn_images, strict=True):
        between = f"{percent(one.precision_low)} - {percent(one.precision_high)}"
        console.say(
            f"{one.name:{width}}  {percent(one.precision):>9}  {between:>16}  {percent(one.coverage):>8}  "
            f"{one.images:>6}  {drawn:>8}" + ("" if one.enough else "  too little evidence")
        )
    console.say(
        f"{len(found.images)} images: of the pixels that humans drew {percent(found.coverage)} were given a class; of "
        f"these {percent(found.precision)} ({percent(found.precision_low)} - {percent(found.precision_high)}) agree"
    )
    if len(found.folders) > 1:
        worst = sorted(found.folders, key=lambda one: 1.0 if one.precision is None else one.precision)
        console.say("folders, the worst first:")
        for folder in worst[:_SHOWN]:
            console.say(f"  {percent(folder.precision):>7}  {folder.images:>6} images  {folder.name}")
    console.say("images to review, the worst first: wrong pixels expected, most frequent mistake")
    for image in found.images[:_SHOWN]:
        wrong = image.mistake
        what = "" if wrong is None else f"  {wrong.coarse} labelled {wrong.auto} ({wrong.pixels} pixels)"
        console.say(f"  {percent(image.score):>7}  {image.key}{what}")
    console.say("what this does not say:")
    for text in found.bias:
        console.say(f"- {text}")


def _warn(found: "Audit", console: Console) -> None:
    if found.images_without_coarse or found.images_without_auto:
        console.warn(
            f"compared {len(found.images)} images; {found.images_without_coarse} labels without a coarse one and "
            f"{found.images_without_auto} coarse ones without a label are left out"
        )
    if found.unknown:
        console.warn(
            f"{found.unknown} pixels of the coarse labels have source ids that the classes do not know, they were "
            f"taken as ignore"
        )


def summarise(found: "Audit") -> dict[str, Any]:
    """An audit as plain values, for --json: of the images only the worst."""
    return asdict(replace(found, images=found.images[:_SHOWN])) | {"images_compared": len(found.images)}
