"""Street scenes made from nothing but a seed: image, true label, and the coarse label a human would have drawn.

They show the whole way of the data without a download. They are not a benchmark: figures on them say nothing of photos.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.scene_annotation import Annotator, Care
from pipeline.scene_canvas import Camera, Canvas, Light
from pipeline.scene_street import paint_street
from pipeline.scene_things import SKY, Painter
from storage.errors import SettingsError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.schema import load_schema
from storage.workspace import write_atomically

SCHEMA = "scenes"
"""Name of the class schema of the labels."""

SMALLEST = 32
"""Shortest side a scene can have, pixels."""

SPLITS = ("train", "train_extra", "val")
"""Splits of a scene set, in the order of their scenes' indices."""

# Poles and signs are never worth a polygon to someone in a hurry; people rarely are.
_HURRY = {
    "sky": Care(0.002, 1.0),
    "building": Care(0.006, 0.95, 0.005),
    "road": Care(0.0, 1.0),
    "sidewalk": Care(0.004, 0.95),
    "vegetation": Care(0.006, 0.85, 0.005),
    "pole": Care(1.0, 0.0, 0.05),
    "sign": Care(1.0, 0.0, 0.07),
    "person": Care(0.02, 0.3, 0.04),
    "car": Care(0.006, 0.85, 0.03),
}

# How grainy the surfaces of a class are, in grey levels, by class index.
_GRAIN = np.array([0.0, 4.0, 5.0, 5.0, 9.0, 2.0, 2.0, 4.0, 2.0], np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """A street and its labels."""

    image: npt.NDArray[np.uint8]
    """(height, width, 3) RGB."""
    fine: npt.NDArray[np.uint8]
    """(height, width), the class index of every pixel."""
    coarse: npt.NDArray[np.uint8]
    """(height, width), class index or ignore: polygons inside the large objects."""


def generate_scene(seed: int, index: int, size: tuple[int, int]) -> Scene:
    """Make one scene; the same for the same seed, index and size, whatever was made before.

    Args:
        seed: of the scene set, not negative.
        index: of the scene, not negative.
        size: height and width, pixels.

    Returns:
        The scene, its class indices those of the schema `scenes`.

    Raises:
        SettingsError: a side is too short, or seed or index is negative.
    """
    height, width = size
    if min(size) < SMALLEST:
        raise SettingsError(
            f"scene size: got {width}x{height}, expected both sides at least {SMALLEST}; ask for larger scenes"
        )
    if seed < 0 or index < 0:
        raise SettingsError(f"scene: got seed {seed} and index {index}, expected neither to be negative")
    rng = np.random.default_rng((seed, index))
    horizon = height * rng.uniform(0.44, 0.56)
    camera = Camera(
        focal=height * rng.uniform(0.9, 1.35),
        height=rng.uniform(1.5, 2.4),
        horizon=horizon,
        centre=width * rng.uniform(0.35, 0.65),
    )
    sky, haze = _sky(size, horizon, rng)
    light = Light(haze, rng.uniform(50, 200), int(rng.choice((-1, 1))), rng.uniform(0.25, 0.85))
    painter = Painter(camera, light, Canvas(sky, SKY), Annotator(size, tuple(_HURRY.values()), rng), rng)
    paint_street(painter)
    fine = painter.canvas.fine()
    return Scene(_photograph(painter.canvas.image(), fine, rng), fine, painter.annotator.coarse(fine))


def write_scene_set(root: Path, seed: int, counts: tuple[int, int, int], size: tuple[int, int]) -> Iterator[int]:
    """Write a data set of scenes as a folder of mirrored trees.

    `images/SPLIT/STEM.png` and `labels_fine/SPLIT/STEM.png` for the splits train, train_extra and val, and
    `labels_coarse/train_extra/STEM.png`. The fine labels of train_extra are the truth against which automatic
    labels are scored; nothing should train on them. No two splits share a scene.

    Args:
        root: folder to write into; made where it does not exist.
        seed: of the scene set.
        counts: number of scenes in train, train_extra and val.
        size: height and width, pixels.

    Yields:
        How many scenes are written, after each.

    Raises:
        SettingsError: a count or the seed is negative, or the size is too small.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    if min(counts) < 0:
        raise SettingsError(f"scene counts: got {counts}, expected none of train, train_extra, val to be negative")
    classes = len(load_schema(SCHEMA))
    index = 0
    for split, count in zip(SPLITS, counts, strict=True):
        trees = ("images", "labels_fine", *(("labels_coarse",) if split == "train_extra" else ()))
        folders = [root / tree / split for tree in trees]
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WorkspaceError(
                    f"cannot make folder {folder}: {error.strerror or error}; choose another --out"
                ) from error
        for _ in range(count):
            scene = generate_scene(seed, index, size)
            files = (_png(scene.image), *(encode_label_png(LabelMap(v, classes)) for v in (scene.fine, scene.coarse)))
            # Only train_extra has a third tree, for coarse labels.
            for folder, content in zip(folders, files, strict=False):
                write_atomically(folder / f"scene_{index:05d}.png", content)
            index += 1
            yield index


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    content = BytesIO()
    # Sensor noise hardly compresses; more effort than this costs time and saves next to nothing.
    Image.fromarray(image).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _noise(size: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth noise in about -1..1 with this many cells down and across: (height, width) float32."""
    coarse = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))


def _sky(
    size: tuple[int, int], horizon: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int]]:
    """A sky from clear to overcast to dusk, (height, width, 3), and the colour of haze at the horizon."""
    weather = rng.random()
    if weather < 0.55:
        top, low, cover = (76, 132, 200), (186, 208, 226), rng.uniform(-0.6, 0.4)
    elif weather < 0.8:
        top, low, cover = (172, 180, 188), (212, 214, 214), rng.uniform(0.0, 0.8)
    else:
        top, low, cover = (98, 112, 162), (236, 190, 150), rng.uniform(-0.6, 0.2)
    shift = rng.uniform(-14, 14, 3)
    above, below = np.array(top) + shift, np.array(low) + shift
    down = np.clip(np.arange(size[0]) / horizon, 0, 1).astype(np.float32)[:, None, None]
    sky = above + (below - above) * down
    clouds = _noise(size, (6, 5), rng) + 0.5 * _noise(size, (14, 10), rng) + 0.25 * _noise(size, (30, 22), rng)
    white = np.clip((clouds + cover) * 1.2, 0, 0.9)[..., None] * (1.0 - 0.5 * down)
    cloud = 0.35 * below + 0.65 * np.array((240, 240, 242))
    sky = sky + (cloud - sky) * white
    red, green, blue = np.clip(below, 0, 255).astype(int).tolist()
    return np.clip(sky, 0, 255).astype(np.uint8), (red, green, blue)


def _photograph(
    painted: npt.NDArray[np.uint8], fine: npt.NDArray[np.uint8], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Surface grain, uneven light, a colour cast, exposure and sensor noise: (height, width, 3) uint8."""
    size = fine.shape[0], fine.shape[1]
    grain = rng.standard_normal(size, np.float32) * _GRAIN[fine] + _noise(size, (40, 50), rng) * (0.8 * _GRAIN)[fine]
    gain = (1.0 + 0.1 * _noise(size, (3, 3), rng)) * np.float32(rng.uniform(0.85, 1.25))
    cast = rng.uniform(0.94, 1.06, 3).astype(np.float32)
    image = (painted + grain[..., None]) * gain[..., None] * cast
    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(1.0, 4.0))
    photo: npt.NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return photo
