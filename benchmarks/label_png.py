"""Label PNGs on the frontier of size and time: the presets against Pillow, OpenCV, zlib and lossless WebP.

A generated scene's true labels are taken as scores at stride 4, blurred, disturbed at two scales, enlarged bilinearly
and thresholded: boundaries are as smooth as a network's, and `noise` sets how much becomes ignore. Three kinds of maps
are measured: `clean` (nothing is ignored), `usual` (about 5 % ignored, all 19 classes) and `hard` (about 13 %, ragged
borders). The encoders take turns map by map, in one thread, each file is read back and compared with its map, and times
are of the processor, so that they hold on a busy machine. Needs the extra `test`, for OpenCV.

    python benchmarks/label_png.py               the table and the targets, 1920x1080
    python benchmarks/label_png.py --size 2048x1024 --maps 4
    python benchmarks/label_png.py --model       bytes of `fast` by size and noise, the anchor of storage.budget's model
    python benchmarks/label_png.py RUN           labels of a run, measured against the model

What limits the next step. `fast`: its bytes are the borders, a code or two a crossing, and its time is two passes over
two million pixels. `small` and `smallest`: PNG repeats the row above as a match at a distance of one row, which costs 9
bits beyond its code however regular the border is; the best search known (zopfli, 2 to 5 seconds a map) gains
another 3 to 5 %. Lossless WebP, whose codes know the row above, is the smallest here, but few tools read labels from
it. Content decides more than encoders do.
"""

import argparse
import io
import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from teacher_like import CLASSES, Values, teacher_like

from storage.budget import estimate_label_bytes, measure_bytes
from storage.image_reader import read_image_size
from storage.label_map import LabelMap
from storage.label_png import LabelFormat, Preset, encode_label_png
from storage.schema import IGNORE

MAPS = 8
MODEL_SIZES = ((360, 480), (540, 960), (1080, 1920), (1024, 2048))
MODEL_NOISES = (0.0, 0.7, 1.4)

Encode = Callable[[Values], bytes]


@dataclass(frozen=True)
class Kind:
    """How the maps of a kind are made."""

    noise: float
    threshold: float


KINDS = {"clean": Kind(0.0, 0.0), "usual": Kind(1.5, 0.5), "hard": Kind(2.1, 0.5)}


def preset(name: Preset, values: Values) -> bytes:
    """What this project writes."""
    return encode_label_png(LabelMap(values, CLASSES), form=LabelFormat(name))


def pillow(values: Values, kind: str = "PNG", mode: str = "L", **options: Any) -> bytes:  # noqa: ANN401
    """What `Image.save` writes."""
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(np.random.default_rng(0).bytes(768))  # makes it mode P; the indices stay
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opencv(values: Values, *options: int) -> bytes:
    """What `cv2.imwrite` writes."""
    return bytes(cv2.imencode(".png", values, options)[1])


def zlib_9_none(values: Values) -> bytes:
    """The standard library's best: level 9, largest memory, no filter, in the least PNG around it."""
    rows = np.zeros((values.shape[0], values.shape[1] + 1), np.uint8)
    rows[:, 1:] = values
    compressor = zlib.compressobj(9, zlib.DEFLATED, 15, 9)
    pixels = compressor.compress(rows.tobytes()) + compressor.flush()
    header = values.shape[1].to_bytes(4) + values.shape[0].to_bytes(4) + b"\x08\0\0\0\0"
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4) for kind, content in chunks
    )


DEFAULT, STRONG = "Pillow L, default", "zlib 9, filter none"

ENCODERS: dict[str, Encode] = {
    "fast": partial(preset, "fast"),
    "small": partial(preset, "small"),
    "smallest": partial(preset, "smallest"),
    DEFAULT: pillow,
    "Pillow L, level 9": partial(pillow, compress_level=9),
    "Pillow P, level 9": partial(pillow, mode="P", compress_level=9),
    "OpenCV, default": opencv,
    "OpenCV, RLE, filter up": lambda values: opencv(
        values,
        # in this order: the level would reset the strategy
        *(cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    ),
    STRONG: zlib_9_none,
    "WebP, lossless": partial(pillow, kind="WebP", lossless=True),
}


@dataclass(frozen=True)
class Row:
    """Medians over the maps of one encoder."""

    size: float
    encode: float
    decode: float
    """Both in seconds of the processor."""


def measure(maps: list[Values]) -> dict[str, Row]:
    """Encode and decode each map with each encoder in turn.

    Raises:
        AssertionError: a file does not hold the map it was made of.
    """
    taken: dict[str, list[tuple[int, float, float]]] = {name: [] for name in ENCODERS}
    for encode in ENCODERS.values():
        encode(maps[0][:64, :64].copy())  # what is loaded on first use is not timed
    for values in maps:
        for name, encode in ENCODERS.items():
            started = time.process_time()
            content = encode(values)
            between = time.process_time()
            pixels = np.asarray(Image.open(io.BytesIO(content)))
            ended = time.process_time()
            decoded = pixels if pixels.ndim == 2 else pixels[..., 1]  # WebP is read as gray in three channels
            assert np.array_equal(decoded, values), f"{name} changed the pixels"
            taken[name].append((len(content), between - started, ended - between))
    return {
        name: Row(*(statistics.median(column) for column in zip(*rows, strict=True))) for name, rows in taken.items()
    }


def print_table(kind: str, maps: list[Values], rows: dict[str, Row]) -> None:
    """Print the frontier of one kind; a star marks what no PNG encoder beats in both bytes and time."""
    height, width = maps[0].shape
    ignored = statistics.median(float((m == IGNORE).mean()) for m in maps)
    changes = statistics.median(float((m[:, 1:] != m[:, :-1]).mean()) for m in maps)
    classes = statistics.median(len(np.unique(m[m != IGNORE])) for m in maps)
    print(f"\n{kind}: {len(maps)} maps of {width}x{height}, {ignored:.1%} ignored, ", end="")
    print(f"{changes:.3f} changes a pixel along rows, {classes:.0f} classes")
    print(f"{'':24} {'bytes':>8} {'of default':>10} {'encode ms':>10} {'decode ms':>10}")
    for name, row in rows.items():
        beaten = any(r.size < row.size and r.encode < row.encode for n, r in rows.items() if not n.startswith("WebP"))
        print(
            f"{name:24} {row.size:8.0f} {row.size / rows[DEFAULT].size:10.2f} {1e3 * row.encode:10.1f} "
            f"{1e3 * row.decode:10.1f}{'' if beaten else ' *'}"
        )


def print_targets(kind: str, rows: dict[str, Row]) -> None:
    """Print whether each preset is as small and as fast as it is meant to be; the targets are those of `usual`."""
    for name, against, size_limit, time_limit in (
        ("fast", DEFAULT, 0.90, 1 / 3),
        ("small", STRONG, 1.00, 1 / 2),
        ("smallest", STRONG, 0.90, None),
    ):
        size = rows[name].size / rows[against].size
        seconds = rows[name].encode / rows[against].encode
        verdict = "met" if size <= size_limit and (time_limit is None or seconds <= time_limit) else "NOT MET"
        limit = "" if time_limit is None else f" (at most {time_limit:.2f})"
        print(
            f"{verdict if kind == 'usual' else 'no target':10}{kind:6} {name:9} against {against}: bytes {size:.3f}x "
            f"(at most {size_limit:.2f}), time {seconds:.2f}x{limit}"
        )


def measure_frontier(size: tuple[int, int], count: int) -> None:
    """Print a table a kind, and the verdicts."""
    measured = {}
    for kind, how in KINDS.items():
        maps = [teacher_like(index, size, how.noise, how.threshold) for index in range(count)]
        measured[kind] = measure(maps)
        print_table(kind, maps, measured[kind])
    print("\nTargets, set for 1920x1080 and about 5 % ignored (usual); the other kinds to compare:")
    for kind, rows in measured.items():
        print_targets(kind, rows)


def measure_model() -> None:
    """Print one row a size and noise: bytes of `fast` against Pillow's default and the model, medians over the maps."""
    print(f"{'size':>10} {'noise':>6} {'ignored':>8} {'bytes':>8} {'Pillow':>8} {'ratio':>6} {'model':>8}")
    for size in MODEL_SIZES:
        model = estimate_label_bytes([size], 1, CLASSES).hard_png_bytes
        for noise in MODEL_NOISES:
            rows = []
            for index in range(MAPS):
                values = teacher_like(index, size, noise)
                rows.append((float((values == IGNORE).mean()), len(preset("fast", values)), len(pillow(values))))
            ignored, ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
            print(
                f"{size[1]:>5}x{size[0]:<4} {noise:6.1f} {ignored:8.1%} {ours:8.0f} {theirs:8.0f} "
                f"{ours / theirs:6.2f} {model:8d}"
            )


def measure_run(root: Path) -> None:
    """Print the bytes of a run's labels and what the model says of them."""
    sizes = [read_image_size(p) for p in sorted((root / "labels").rglob("*.png"))]
    measured = measure_bytes(root)
    modelled = estimate_label_bytes(sizes, len(sizes), CLASSES).hard_png_bytes
    ratio = modelled / measured.label_bytes
    print(f"{measured.labels} labels, {measured.label_bytes} bytes, model {modelled} ({ratio:.2f}x)")


def _size(text: str) -> tuple[int, int]:
    width, height = (int(side) for side in text.split("x"))
    return height, width


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--model", action="store_true", help="bytes of `fast` by size and noise")
    parser.add_argument("--size", type=_size, default=(1080, 1920), metavar="WIDTHxHEIGHT")
    parser.add_argument("--maps", type=int, default=MAPS, help="maps a kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if arguments.run is not None:
        measure_run(arguments.run)
    elif arguments.model:
        measure_model()
    else:
        measure_frontier(arguments.size, arguments.maps)


if __name__ == "__main__":
    main()
