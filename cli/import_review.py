"""`autocoarse import-review`: take labels back that were corrected in an annotation tool."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Failures, Stages
from cli.exit_codes import ExitCode
from cli.options import FOLDER, OUT, json_option, settings_option

if TYPE_CHECKING:
    from pipeline.review_import import ImportResult


@click.command(name="import-review")
@settings_option
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.option("--export", type=FOLDER, required=True, help="The folder that `autocoarse export` made.")
@click.option(
    "--format",
    type=click.Choice(["cvat", "coco", "label-studio", "datumaro"]),
    default=None,
    help="Of FILE.  [default: the one that was exported]",
)
@click.option("--changed-only", is_flag=True, help="Leave out images whose label came back as it was.")
@click.option("--replace", is_flag=True, help="Replace reviewed labels of an earlier import by these.")
@click.option("--skip-bad", is_flag=True, help="Take the good images also where others are wrong.")
@click.option("--out", type=OUT, required=True, help="RUN of the reviewed labels, which several imports add to.")
@json_option
def import_review(*, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by ImportReviewSettings
    """Check what the tool gave back, FILE (also a zip or a folder), and keep it as reviewed labels.

    Either all of it is taken or nothing. Pixels in no mask become ignore; the mask on top wins, and in COCO files,
    which know no top, what two classes claim becomes ignore. `train --reviewed-labels OUT` learns from them.
    """
    from pipeline.review_import import ImportReviewSettings
    from pipeline.review_import import import_review as take_back

    console = Console(as_json=as_json)
    settings = ImportReviewSettings.checked(**options)
    result = None
    with Stages() as stages:
        for progress in take_back(settings):
            result = progress.result
            stages.show("check", progress.done, progress.total)
    assert result is not None, "the last progress has the result"
    _report(result, settings.out, console)
    if result.problems:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def _report(result: "ImportResult", out: Path, console: Console) -> None:
    with Failures() as failures:
        for problem in result.problems:
            failures.add(problem)
    if result.claimed_again:
        console.warn(f"{result.claimed_again} pixels are claimed by several classes")
    console.say(
        f"imported {result.imported} reviewed labels ({result.replaced} in place of others), {result.known} were "
        f"there, {result.left_out} left out as unchanged, {len(result.problems)} wrong, {result.missing} did not come "
        f"back"
    )
    share = result.changed_pixels / result.pixels if result.pixels else 0.0
    console.say(f"{share:.2%} of the pixels were changed; {result.unchanged} labels came back as they were")
    console.say(f"{result.total} reviewed labels in {out}")
    console.finish(asdict(result) | {"out": str(out)})
