"""`autocoarse export-network`: a checkpoint's network as a file for other runtimes."""

from pathlib import Path

import click

from cli.console import Console
from cli.option_types import PixelSize
from cli.options import FILE, OUT_FILE, json_option, settings_option


@click.command("export-network")
@settings_option
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=OUT_FILE, required=True, help="File to write: .onnx, or .pt2 for torch.export.")
@click.option(
    "--size",
    type=PixelSize(),
    help="The only size of images that it takes, for runtimes that want one.  [default: any]",
)
@json_option
def export_network(*, checkpoint: Path, out: Path, size: tuple[int, int] | None, as_json: bool) -> None:
    """Write the network of a CHECKPOINT as ONNX or as a program of torch.export, and check it against the network.

    It takes normalised images and gives logits at one scale; names of the classes, mean and std are in the file. It
    labels as a teacher, `--teacher onnx:FILE` or `--teacher exported:FILE`, and runs in other runtimes. ONNX needs
    pip install 'autocoarse[onnx]'.
    """
    from pipeline.network_export import export_network as export

    console = Console(as_json=as_json)
    made = export(checkpoint, out, size)
    console.say(f"{made.form} of {len(made.labels)} classes in {made.out}, {out.stat().st_size / 1e6:.1f} MB")
    console.say(f"logits differ by at most {made.difference:.2g} from the network's, of at most {made.largest:.2g}")
    for each in made.left_out:
        console.say(f"left out: {each}")
    console.finish(
        {
            "out": str(made.out),
            "form": made.form,
            "labels": list(made.labels),
            "size": None if made.size is None else list(made.size),
            "difference": made.difference,
            "left_out": list(made.left_out),
        }
    )
