"""`autocoarse export`: hand a RUN's labels to an annotation tool, to be reviewed there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages
from cli.option_types import Names
from cli.options import FOLDER, OUT, json_option, layout_option, settings_option

if TYPE_CHECKING:
    from pipeline.export_manifest import Manifest

_NEXT = {
    "cvat": "CVAT: make a task with the labels of labels.json (Raw) and the images, then upload annotations.xml as "
    "'CVAT 1.1'",
    "coco": "import annotations/instances_default.json as COCO instances, with the folder images/",
    "label-studio": "Label Studio: paste label-config.xml as the labelling interface, then import tasks.json",
    "datumaro": "import the folder as 'datumaro'",
}


class Selections(Names):
    """One selection, of an option that may be given several times; a settings file has a list of them."""

    name = "WHICH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ANN401, ARG002
        """Take the text as it is: what it means, the selection says."""
        return (str(value),)


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option("--images", type=FOLDER, required=True, help="The images that the RUN labelled.")
@layout_option
@click.option(
    "--to",
    type=click.Choice(["cvat", "coco", "label-studio", "datumaro"]),
    required=True,
    help="The tool: CVAT for images 1.1, COCO instances, Label Studio brushes, or datumaro's own format.",
)
@click.option(
    "--select",
    type=Selections(),
    multiple=True,
    required=True,
    help="worst:N of the audit, ignore:N, confidence:N (least, if kept), class:NAME, class:NAME:N (most pixels), "
    "folder:NAME, keys:FILE or all. Repeat it for more: all that any of them asks for.",
)
@click.option(
    "--image-files",
    type=click.Choice(["link", "copy", "none"]),
    default="link",
    show_default=True,
    help="Images in OUT: second names of the same files (copies on another disk), copies, or none.",
)
@click.option(
    "--url-prefix",
    help="Label Studio: what stands before an image's path in its URL.  [default: a local file of OUT]",
)
@click.option("--out", type=OUT, required=True, help="Folder to make: annotations, images, and a manifest.")
@json_option
def export(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by ExportSettings
    """Write labels of RUN and their images as an annotation tool imports them.

    Masks are exact; pixels that are ignored are in no mask, and the tool gets a label for them. What was corrected
    comes back with `autocoarse import-review`, which needs OUT.
    """
    from pipeline.exporting import ExportSettings
    from pipeline.exporting import export as hand_out

    console = Console(as_json=as_json)
    options["select"] = tuple(text for texts in options["select"] for text in texts)
    settings = ExportSettings.checked(**options)
    manifest, turned = None, 0
    with Stages() as stages:
        for progress in hand_out(settings):
            manifest, turned = progress.manifest, progress.turned
            stages.show("export", progress.done, progress.total)
    assert manifest is not None, "the last progress has the manifest"
    if turned:
        console.warn(
            f"{turned} of {len(manifest.images)} images say by EXIF that they are to be turned: masks fit the stored "
            f"pixels, and a tool that turns images shows both apart; write such images turned, and label them again"
        )
    _report(manifest, settings.out, console)


def _report(manifest: "Manifest", out: Path, console: Console) -> None:
    console.say(f"{len(manifest.images)} labels for review in {out}")
    console.say(_NEXT[manifest.format])
    console.say(f"then: autocoarse import-review FILE --export {out} --out REVIEWED")
    console.finish(
        {
            "images": len(manifest.images),
            "to": manifest.format,
            "select": list(manifest.select),
            "export_digest": manifest.digest(),
            "out": str(out),
        }
    )
