"""Labels a folder of images as one writes it without autocoarse: the baseline of label_speed.py.

The procedure is that of the method's public code, with the same network and weights: images one after the other,
decoded by Pillow; each scale's logits, auxiliary logits and attention brought to the size of that scale's image; fused
at full size; a softmax over all classes at full size, copied to the host; the maximum and the threshold there, by
numpy; Pillow's default PNG. Tensors are in torch's usual layout, all in one thread but for torch's own. A label that is
there is not made again, which is how the start-up is measured.

Of the project it uses the network's definition and the reading of weights, and none of its inference.

    python benchmarks/plain_label.py --images DIR --teacher hrnet-ocr --weights FILE --out DIR
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from teacher.checkpoint import load_checkpoint
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.weights import read_state_dict

CLASSES = 19
IGNORE = 255
SUFFIXES = (".png", ".jpg", ".jpeg")

Network = Callable[[Tensor], ScalePrediction]


class FullSize(NamedTuple):
    """A prediction, enlarged to the size of what was predicted from."""

    logits: Tensor
    auxiliary: Tensor | None
    """Blended as the logits are, and used for nothing."""
    attention: Tensor | None


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinearly, corners not aligned."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def enlarge(prediction: ScalePrediction, size: Sequence[int]) -> FullSize:
    """Bring all that a network predicts from stride 4 to the size of its image."""
    logits, attention, auxiliary = prediction
    return FullSize(
        resized(logits, size),
        None if auxiliary is None else resized(auxiliary, size),
        None if attention is None else resized(attention, size),
    )


def blend(joint: Tensor, logits: Tensor, attention: Tensor, *, smaller: bool) -> Tensor:
    """Take the next lower scale's logits into the joint ones by that scale's attention."""
    if smaller:
        size = joint.shape[-2:]
        return resized(attention * logits, size) + (1 - resized(attention, size)) * joint
    return attention * logits + (1 - attention) * resized(joint, logits.shape[-2:])


def fuse(predictions: dict[float, FullSize]) -> Tensor:
    """Fuse the scales from the highest to the lowest: joint logits (1, class, height, width)."""
    highest, *others = sorted(predictions, reverse=True)
    joint, joint_auxiliary = predictions[highest].logits, predictions[highest].auxiliary
    for scale in others:
        logits, auxiliary, attention = predictions[scale]
        assert attention is not None
        joint = blend(joint, logits, attention, smaller=scale < 1)
        if joint_auxiliary is not None and auxiliary is not None:
            joint_auxiliary = blend(joint_auxiliary, auxiliary, attention, smaller=scale < 1)
    return joint


def label_image(network: Network, image: Image.Image, spec: NetworkSpec, scales: Sequence[float]) -> Image.Image:
    """Label one image at the threshold 0.5."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    pixels = (pixels - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    predictions = {}
    for scale in scales:
        size = [int(side * scale) for side in pixels.shape[-2:]]
        predictions[scale] = enlarge(network(resized(pixels, size)), size)
    probabilities = functional.softmax(fuse(predictions), dim=1)[0].cpu().numpy()
    label = probabilities.argmax(axis=0).astype(np.uint8)
    label[probabilities.max(axis=0) <= 0.5] = IGNORE
    return Image.fromarray(label)


def load(teacher: str, weights: Path | None) -> tuple[Network, NetworkSpec]:
    """The network with its weights, in torch's usual layout."""
    if weights is None:
        checkpoint = load_checkpoint(Path(teacher))
        spec, state_dict = checkpoint.spec, checkpoint.state_dict
    else:
        spec, state_dict = default_spec("hrnet-ocr", CLASSES), read_state_dict(weights)
    network = build_network(spec)
    network.load_state_dict(state_dict)
    return network.eval(), spec


def main() -> None:
    """Read the command line, label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--teacher", required=True, help="hrnet-ocr, with --weights, or a checkpoint")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scales", default="0.5,1,2")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    network, spec = load(options.teacher, options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for path in sorted(path for path in options.images.iterdir() if path.suffix in SUFFIXES):
            target = options.out / f"{path.stem}.png"
            if not target.exists():
                with Image.open(path) as image:
                    label_image(network, image, spec, tuple(map(float, options.scales.split(",")))).save(target)


if __name__ == "__main__":
    main()
