"""How many crops a second `train` learns from, against a plain PyTorch loop on the same files.

Both train the same network on generated scenes with the same batch, crop, two-scale forward, cross entropies and
AdamW. `train` is itself, with its default options. The plain loop is what one writes without it: a DataLoader that
reads in the training process, whole images changed by torchvision's transforms v2 (scale, crop, mirror, colour
jitter), tensors in torch's usual layout. It has no class-uniform sampling, clipping, average of the weights or log.

Each figure is of a process of its own, so that neither inherits the other's memory or threads; the two take turns.
The first ten steps of each do not count: loaders start in them and memory is first touched. Loading is the share of
the time that the training process waits for its next batch. Other work on the machine slows both, and not alike: look
at the single figures, and leave the machine alone meanwhile.

    python benchmarks/train_speed.py [--size 1024x512] [--crop 256x256] [--batch 8] [--steps 30] [--repeats 5]

The defaults take about ten minutes on two cores; `--size 256x192 --crop 96x96 --repeats 1` shows in one that it works.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.augmentation import HUE_JITTER
from pipeline.scenes import SCHEMA, write_scene_set
from pipeline.training import train
from pipeline.training_run import LOG_EVERY
from pipeline.training_settings import TrainSettings
from storage.schema import IGNORE, load_schema
from teacher.fusion import training_forward
from teacher.networks.registry import build_network, default_spec


class Speed(NamedTuple):
    """What one process measured."""

    crops_per_second: float
    loading: float
    """Share of the time spent on waiting for crops, in [0, 1]."""


def measure_train(settings: TrainSettings) -> Speed:
    """The speed of `train`, from the figures that it reports."""
    reports = [progress.figures for progress in train(settings) if progress.figures is not None][1:]
    seconds = [1 / figures.crops_per_second for figures in reports]  # a crop; all reports are of equally many
    waited = sum(figures.loading * second for figures, second in zip(reports, seconds, strict=True))
    return Speed(len(reports) / sum(seconds), waited / sum(seconds))


class PlainCrops(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels of two folders, changed as torchvision's own training of segmentation networks does."""

    def __init__(self, settings: TrainSettings) -> None:
        self._pairs = [
            (image, settings.fine_labels / image.name) for image in sorted(settings.fine_images.glob("*.png"))
        ]
        with Image.open(self._pairs[0][0]) as first:
            shorter = min(first.size)
        low, high = settings.scale_range
        jitter = settings.jitter
        spec = default_spec(settings.network, 1, settings.encoder)
        self._change = v2.Compose(
            [
                v2.RandomResize(round(low * shorter), round(high * shorter)),
                v2.RandomCrop(settings.crop, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(jitter, jitter, jitter, HUE_JITTER),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, label = (Image.open(path) for path in self._pairs[item])
        picture, mask = self._change(
            tv_tensors.Image(v2.functional.pil_to_tensor(image.convert("RGB"))),
            tv_tensors.Mask(v2.functional.pil_to_tensor(label)),
        )
        return picture.as_subclass(Tensor), mask.as_subclass(Tensor)[0]


def measure_plain(settings: TrainSettings) -> Speed:
    """The speed of the plain loop, with the same network, sizes, losses and optimiser."""
    assert settings.steps is not None
    spec = default_spec(settings.network, len(load_schema(settings.classes)), settings.encoder)
    network = build_network(spec).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    crops = PlainCrops(settings)
    sampler = RandomSampler(crops, replacement=True, num_samples=settings.steps * settings.batch)
    waited, started = 0.0, time.perf_counter()
    asked = started
    for step, (images, target) in enumerate(DataLoader(crops, settings.batch, sampler=sampler)):
        waited += time.perf_counter() - asked
        prediction = training_forward(network, images)
        assert prediction.low is not None, "there are two scales"
        assert prediction.high is not None
        joint, low, high = (
            functional.cross_entropy(logits, target, ignore_index=IGNORE)
            for logits in (prediction.joint, prediction.low, prediction.high)
        )
        loss = joint + settings.scale_loss * (low + high)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        optimizer.step()
        asked = time.perf_counter()
        if step + 1 == LOG_EVERY:
            waited, started = 0.0, asked
    seconds = time.perf_counter() - started
    return Speed((settings.steps - LOG_EVERY) * settings.batch / seconds, waited / seconds)


def in_own_process(measure: Callable[[TrainSettings], Speed], settings: TrainSettings) -> Speed:
    """What a function measures in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measure, settings).result()


def compare(settings: TrainSettings, repeats: int) -> None:
    """Print both speeds, turn by turn, then the medians and their ratio."""
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, crop {settings.crop[1]}x{settings.crop[0]}, batch {settings.batch}, {settings.encoder}")
    print(f"{'':>8} {'train':>10} {'loading':>8} {'plain':>10} {'loading':>8} {'ratio':>6}")
    pairs = []
    for number in range(repeats):
        ours = in_own_process(measure_train, settings.model_copy(update={"out": settings.out / str(number)}))
        plain = in_own_process(measure_plain, settings)
        pairs.append((ours, plain))
        print_row(str(number + 1), ours, plain)
    medians = [Speed(*map(statistics.median, zip(*column, strict=True))) for column in zip(*pairs, strict=True)]
    print_row("median", *medians)


def print_row(name: str, ours: Speed, plain: Speed) -> None:
    """Print one line of the table."""
    cells = " ".join(f"{speed.crops_per_second:8.2f}/s {speed.loading:8.1%}" for speed in (ours, plain))
    print(f"{name:>8} {cells} {ours.crops_per_second / plain.crops_per_second:6.2f}", flush=True)


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT -> (height, width)."""
    width, height = map(int, text.split("x"))
    return height, width


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=(512, 1024), metavar="WIDTHxHEIGHT", help="of the scenes")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--crop", type=parse_size, default=(256, 256), metavar="WIDTHxHEIGHT")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3 * LOG_EVERY, help=f"of each run, a multiple of {LOG_EVERY}")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    if asked.steps % LOG_EVERY or asked.steps < 2 * LOG_EVERY:
        parser.error(f"--steps {asked.steps}: expected a multiple of {LOG_EVERY}, at least {2 * LOG_EVERY}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for _ in write_scene_set(root, 0, (asked.images, 0, 0), asked.size):
            pass
        settings = TrainSettings(
            fine_images=root / "images" / "train",
            fine_labels=root / "labels_fine" / "train",
            classes=SCHEMA,
            crop=asked.crop,
            batch=asked.batch,
            steps=asked.steps,
            device="cpu",
            out=root / "runs",
        )
        compare(settings, asked.repeats)


if __name__ == "__main__":
    main()
