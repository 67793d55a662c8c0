"""`autocoarse networks`: which networks there are, and what each takes."""

from typing import TYPE_CHECKING, Any

import click

from cli.console import Console, Progress, human_bytes
from cli.options import json_option, settings_option

if TYPE_CHECKING:
    from pipeline.network_catalogue import Listing
    from teacher.networks.registry import NetworkName


@click.command()
@settings_option
@click.option(
    "--network", type=click.Choice(["deeplabv3plus", "deeperlab", "hrnet-ocr"]), help="Tell of this one alone."
)
@click.option("--encoder", help="Tell of this encoder: any of timm, wide_resnet38; of hrnet-ocr the trunk.")
@click.option("--output-stride", type=int, help="Of the encoder's coarsest features: 8, 16 or 32.")
@click.option(
    "--measure", is_flag=True, help="Also operations and memory of a 2048x1024 image: some seconds a network."
)
@json_option
def networks(
    *,
    network: "NetworkName | None",
    encoder: str | None,
    output_stride: int | None,
    measure: bool,
    as_json: bool,
) -> None:
    """List the networks that `train` takes, for teachers and students alike, with parameters and licence of weights.

    Any encoder of timm that gives features at several strides will do: name one by --encoder. All have 19 classes here
    and a scale attention. Nothing is downloaded: ImageNet weights come by `train --encoder-weights FILE`.
    """
    from pipeline.network_catalogue import RECOMMENDED, choose, list_networks

    console = Console(as_json=as_json)
    alone = (network, encoder, output_stride) != (None, None, None)
    choices = (choose(network, encoder, output_stride),) if alone else RECOMMENDED
    listings: list[Listing] = []
    with Progress("networks", len(choices), "networks") as progress:
        for listing in list_networks(choices, measure=measure):
            listings.append(listing)
            progress.advance()
    _print_table(listings, console)
    console.finish({"networks": [_as_dict(listing) for listing in listings], "size": "2048x1024", "classes": 19})


def _print_table(listings: "list[Listing]", console: Console) -> None:
    measured = listings[0].demand is not None
    columns = f"{'operations':>11} {'memory':>8}  " if measured else ""
    console.say(
        f"{'network':<14} {'encoder':<22} {'stride':>6} {'parameters':>10}  {columns}ImageNet weights by a file"
    )
    for one in listings:
        stride = "-" if one.choice.output_stride is None else str(one.choice.output_stride)
        figures = ""
        if one.demand is not None:
            figures = f"{one.demand.operations / 1e9:>9.0f} G {human_bytes(one.demand.memory_bytes):>8}  "
        console.say(
            f"{one.choice.network:<14} {one.choice.encoder:<22} {stride:>6} {one.parameters / 1e6:>8.1f} M  "
            f"{figures}{one.weights.name}: {one.weights.licence}"
        )
    if measured:
        console.say(
            "operations and planned memory of labelling a 2048x1024 image at scale 1 in fp32 on a CPU; a "
            "multiplication and its addition are two operations"
        )


def _as_dict(one: "Listing") -> dict[str, Any]:
    demand = one.demand
    return {
        "network": one.choice.network,
        "encoder": one.choice.encoder,
        "output_stride": one.choice.output_stride,
        "parameters": one.parameters,
        "operations": None if demand is None else demand.operations,
        "memory_bytes": None if demand is None else demand.memory_bytes,
        "weights": one.weights.name,
        "weights_by_file": True,
        "licence": one.weights.licence,
    }
