"""What each scale of a network is worth alone, and fused, as mIoU; with its batch norms' statistics or with new ones.

A network that is trained at two scales has one mean and variance for both in each batch norm, between those of either.
With --anew they are taken again for each scale by itself, from the (training) images of that folder at that scale, and
each scale is predicted with its own. No weight changes.

    python benchmarks/scales_alone.py --images DIR --truth DIR [--anew DIR] CHECKPOINT ...
"""

import argparse
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.samples import collect_samples, read_sample
from pipeline.scores import Counts, compute_scores, count_pixels
from storage.image_reader import read_image
from storage.label_map import LabelMap
from storage.layouts import list_images
from teacher.checkpoint import load_checkpoint
from teacher.fusion import hierarchical_logits, predict_at_scale, size_at_scale
from teacher.networks.layers import resize
from teacher.networks.prediction import Fusion, ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network
from teacher.normalisation import normalise
from teacher.weights import StateDict

SCALES = (0.5, 1.0, 2.0)
_BATCH = 4


class ScaledNetwork:
    """A network, or one for each scale, for images of one size; what was predicted of an image is kept."""

    def __init__(self, by_height: dict[int, nn.Module]) -> None:
        self._by_height = by_height
        self.kept: dict[int, ScalePrediction] = {}

    def __call__(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:  # noqa: ARG002 - serves both
        """Predict, or say again what was predicted of the image at this size."""
        height = images.shape[-2]
        if height not in self.kept:
            self.kept[height] = self._by_height[height](images, attend=True)
        return self.kept[height]


def networks(spec: NetworkSpec, weights: StateDict, size: tuple[int, int], anew: Path | None) -> ScaledNetwork:
    """The network at each scale of an image of that size."""
    taken = [] if anew is None else [read_image(item.image) for item in list_images(anew).items]
    network = build_network(spec)
    network.load_state_dict(weights)
    found: dict[int, nn.Module] = {}
    for scale in SCALES:
        scaled = size_at_scale(size, scale)
        found[scaled[0]] = copy.deepcopy(network).eval()
        if taken:
            take_statistics(found[scaled[0]], spec, taken, scaled)
    return ScaledNetwork(found)


def take_statistics(network: nn.Module, spec: NetworkSpec, images: Sequence[np.ndarray], size: tuple[int, int]) -> None:
    """Replace the running statistics by the mean of those of the images, in batches, at this size."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
    for start in range(0, len(images) - _BATCH + 1, _BATCH):
        batch = torch.from_numpy(np.stack(images[start : start + _BATCH]))
        with torch.inference_mode():
            network(resize(normalise(batch, spec.mean, spec.std), size))
    network.eval()


def fused(network: ScaledNetwork, image: Tensor, own: Fusion) -> Iterator[tuple[str, Tensor]]:
    """The logits of each scale alone, of their means, and, where there is an attention, fused by it."""
    fusions: tuple[Fusion, ...] = ("average", "hierarchical") if own == "hierarchical" else ("average",)
    for fusion in fusions:
        for scales in (SCALES[:2], SCALES):
            name = f"{fusion} {','.join(f'{scale:g}' for scale in scales)}"
            yield name, hierarchical_logits(network, image, scales, fusion)
    for scale in SCALES:
        yield f"{scale:g} alone", predict_at_scale(network, image, scale).logits


def judge(checkpoint: Path, images: Path, truth: Path, anew: Path | None) -> dict[str, float]:
    """The mIoU of a network, used in each way."""
    loaded = load_checkpoint(checkpoint)
    spec, schema = loaded.spec, loaded.schema
    samples = collect_samples(images, truth, "fine", partial=True, schema=schema).samples
    counts: dict[str, Counts] = Counter()  # type: ignore[assignment] # a missing one counts as 0
    network: ScaledNetwork | None = None
    for sample in samples:
        image, target = read_sample(sample, schema)
        network = network or networks(spec, loaded.state_dict, target.values.shape, anew)
        network.kept.clear()
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(image)[None], spec.mean, spec.std)
            for name, logits in fused(network, batch, spec.attention):
                label = resize(logits, target.values.shape)[0].argmax(dim=0).numpy().astype(np.uint8)
                counts[name] = counts[name] + count_pixels(target, LabelMap(label, len(schema)))
    return {name: compute_scores(count, schema, len(samples)).miou for name, count in counts.items()}


def main() -> None:
    """Read the command line, and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--images", type=Path, required=True, help="all of one size")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--anew", type=Path, help="images to take the statistics from, of the same size")
    asked = parser.parse_args()
    for checkpoint in asked.checkpoints:
        mious = judge(checkpoint, asked.images, asked.truth, asked.anew)
        print(
            f"| {checkpoint} | " + " | ".join(f"{name}: {100 * miou:.2f}" for name, miou in mious.items()), flush=True
        )


if __name__ == "__main__":
    main()
