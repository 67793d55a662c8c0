"""What the attention sees, in a run of `autocoarse label --save-attention`: a picture, and scales' weights by class.

A row of the picture is an image: itself, its label, and for each scale how much it counted in every pixel, from dark
(not at all) to bright (alone). The table is over all images of the run, classes as the run labelled them.

    python benchmarks/attention_picture.py --run RUN --images DIR --out FILE [--key KEY ...] [--width 1500]

Without --key the first three images are shown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps

from pipeline.pictures import contact_sheet
from storage.image_reader import read_image
from storage.label_png import read_label_values
from storage.layouts import list_images
from storage.schema import ClassSchema, load_schema
from storage.workspace import Workspace

Map = npt.NDArray[np.uint8]


def saved_scales(run: Workspace) -> list[float]:
    """The scales that maps were saved of, the smallest first."""
    return sorted(float(folder.name) for folder in run.attention.iterdir())


def read_maps(run: Workspace, key: str, scales: Sequence[float]) -> list[Map]:
    """The map of each scale of one image, (height, width) in 0..255."""
    return [read_label_values(run.attention_path(key, scale)) for scale in scales]


def print_weights(run: Workspace, keys: Sequence[str], schema: ClassSchema) -> None:
    """Print how much each scale counted in the mean, by the class of the label."""
    scales = saved_scales(run)
    sums, pixels = np.zeros((256, len(scales))), np.zeros(256)
    for key in keys:
        label = read_label_values(run.label_path(key)).ravel()
        pixels += np.bincount(label, minlength=256)
        for column, saved in enumerate(read_maps(run, key, scales)):
            sums[:, column] += np.bincount(label, saved.ravel() / 255, minlength=256)
    print(f"| class | pixels | {' | '.join(f'scale {scale:g}' for scale in scales)} |")
    print("|---|" + "---:|" * (1 + len(scales)))
    rows = [(name, sums[index], pixels[index]) for index, name in enumerate(schema.names)]
    for name, total, count in [*rows, ("all", sums.sum(axis=0), pixels.sum())]:
        shares = (f"{share:.1f}%" for share in 100 * total / count) if count else "-" * len(scales)
        print(f"| {name} | {100 * count / pixels.sum():.1f}% | {' | '.join(shares)} |")


def main() -> None:
    """Read the command line, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--key", action="append")
    parser.add_argument("--width", type=int, default=1500, help="of the picture, pixels; it is never made larger")
    parser.add_argument("--colours", type=int, default=128, help="of the PNG's palette")
    asked = parser.parse_args()
    run = Workspace(asked.run)
    schema, scales = load_schema(str(run.classes)), saved_scales(run)
    images = {item.key: item.image for item in list_images(asked.images).items}
    bright = (255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    rows = [
        [read_image(images[key]), read_label_values(run.label_path(key))]
        + [bright[saved] for saved in read_maps(run, key, scales)]
        for key in asked.key or list(images)[:3]
    ]
    titles = ["image", "label", *(f"weight of scale {scale:g}" for scale in scales)]
    sheet = contact_sheet(rows, titles, schema)
    sheet.thumbnail((asked.width, sheet.height))
    sheet.quantize(asked.colours).save(asked.out, optimize=True)
    print_weights(run, list(images), schema)


if __name__ == "__main__":
    main()
