"""`autocoarse report`: a page that shows what is in a RUN, and how good it is."""

import time
from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Stages, human_bytes
from cli.option_types import ByteSize
from cli.options import FOLDER, OUT, ids_option, json_option, layout_option, settings_option, workers_option

if TYPE_CHECKING:
    from pipeline.report_server import Server
    from pipeline.reporting import Report


@click.command()
@settings_option
@click.argument("run", type=FOLDER)
@click.option("--truth", type=FOLDER, help="Ground truth of some of the images: shows errors, and precision.")
@click.option("--coarse", type=FOLDER, help="Humans' coarse labels: shows the pixels before, and disagreement.")
@click.option("--merged", type=FOLDER, help="What `merge` made of RUN and the coarse labels.")
@click.option(
    "--reviewed", type=FOLDER, help="Labels that people have corrected, a RUN or a folder: marks their images."
)
@click.option("--images", type=FOLDER, help="The images.  [default: where RUN's settings say]")
@layout_option
@ids_option
@click.option(
    "--thumb-size",
    type=click.IntRange(32, 2048),
    default=320,
    show_default=True,
    help="Pixels of the longer side of a thumbnail.",
)
@click.option(
    "--thumb-bytes",
    type=ByteSize(),
    default="200MB",
    show_default=True,
    help="What all thumbnails may take: above it they get smaller, then fewer, and the page says so.",
)
@workers_option
@click.option("--out", type=OUT, help="Folder of the report.  [default: RUN-report]")
@click.option("--serve", is_flag=True, help="Serve the report to this machine's browsers, until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="To listen on with --serve."
)
@json_option
def report(*, serve: bool, port: int, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - validated by ReportSettings
    """Make a page that shows what is in a RUN (what `label`, `rethreshold` or `merge` made), and how good it is.

    The folder works offline and without a server: open its index.html. What there is no data for is left out, and
    the page says what would bring it. A report of the same folder is replaced once the new one is whole.
    """
    if port and not serve:
        raise click.UsageError("--port is where --serve listens; give both")
    from pipeline.report_server import serve as listen
    from pipeline.report_settings import ReportSettings
    from pipeline.reporting import make_report

    console = Console(as_json=as_json)
    started = time.monotonic()
    settings = ReportSettings.checked(**options)
    # a port that is taken is told before the work, not after it
    server = listen(settings.folder, port) if serve else None
    made = None
    try:
        with Stages() as stages:
            for progress in make_report(settings):
                made = progress.report
                if made is None:
                    stages.show(progress.stage, progress.done, progress.total)
        assert made is not None, "the last progress has the report"
        url = None if server is None else server.url
        _say(made, console, time.monotonic() - started)
        console.finish(_result(made, url, time.monotonic() - started))
        if server is not None:
            _serve(server, console)
    finally:
        if server is not None:
            server.server_close()


def _serve(server: "Server", console: Console) -> None:
    console.say(f"serving {server.url} to this machine alone; Ctrl-C ends it")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo(err=True)  # ends the line in which the terminal shows ^C


def _say(made: "Report", console: Console, seconds: float) -> None:
    summary = made.summary
    console.say(
        f"{summary.counts.done} labelled, {summary.counts.failed} failed, {summary.counts.left} left; {made.thumbs} "
        f"thumbnails of {human_bytes(made.thumb_bytes)}, {human_bytes(made.bytes)} in all; {seconds:.1f} s"
    )
    if made.problems:
        console.warn(f"{made.problems} files could not be used and are left out; the page names some")
    for note in summary.notes:
        console.say(f"note: {note}")
    console.say(f"open {made.index}")


def _result(made: "Report", url: str | None, seconds: float) -> dict[str, Any]:
    summary = made.summary
    return {
        "out": str(made.folder),
        "index": str(made.index),
        "url": url,
        "done": summary.counts.done,
        "failed": summary.counts.failed,
        "left": summary.counts.left,
        "thumbs": made.thumbs,
        "thumb_bytes": made.thumb_bytes,
        "bytes": made.bytes,
        "problems": made.problems,
        "precision": summary.precision,
        "coverage": summary.coverage,
        "notes": list(summary.notes),
        "seconds": round(seconds, 3),
    }
