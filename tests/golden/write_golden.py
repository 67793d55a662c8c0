"""Write `hierarchical.npz`: the fused logits of a narrow HRNet-OCR for one image and two lists of scales.

Run `python tests/golden/write_golden.py` from the project's root. The file was made by this script with the project's
own code on a CPU in float32, after that code had been found equal to the public reference on the full network (see
test_reference_parity.py). It guards the arithmetic where the reference's data is not at hand: a change of resizing, of
the blend's order or of the network shows as a difference far above the tolerance.

Nothing here depends on a library's random numbers: weights come from the raw words of numpy's PCG64, which are
guaranteed stable, one stream for each name; the image comes from integer arithmetic. What remains between machines and
library versions is the order of float32 sums. The logits are of the order of 10; memory layouts differ by 3e-6, the
smallest known change of the method (enlarging before weighting) by 0.03. TOLERANCE lies between.
"""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from teacher.fusion import hierarchical_logits
from teacher.networks.registry import NetworkSpec, build_network
from teacher.normalisation import normalise

FILE = Path(__file__).with_name("hierarchical.npz")
SPEC = NetworkSpec("hrnet-ocr", 4, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)
SCALES = {"two": (0.5, 1.0), "five": (0.25, 0.5, 1.0, 1.5, 2.0)}
SIZE = (53, 39)
TOLERANCE = 1e-3
CLASSIFIER_GAIN = 0.5
ATTENTION_GAIN = 1.0


def uniform(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Values in [-1, 1) that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest(), "little")
    words = np.random.PCG64(seed).random_raw(int(np.prod(shape, dtype=int)))
    return ((np.asarray(words) >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def fill(network: nn.Module) -> nn.Module:
    """Give every entry of a network its value by name, so that scores, attention and norms all have a spread."""
    gains = {"ocr.cls_head.weight": CLASSIFIER_GAIN, "scale_attn.conv2.weight": ATTENTION_GAIN}
    with torch.no_grad():
        for name, entry in network.state_dict().items():
            values = uniform(name, tuple(entry.shape))
            if name.endswith("running_var"):
                values = 1 + values / 2
            elif entry.ndim == 4:
                values = values * gains.get(name, 1.0) * np.sqrt(6 / values[0].size).astype(np.float32)
            elif name.endswith("weight"):
                values = 1 + 0.3 * values
            elif entry.ndim:
                values = 0.2 * values
            entry.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return network.eval()


def image() -> torch.Tensor:
    """A picture with edges and gradients: (1, height, width, 3) uint8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    planes = [x * 6 % 256, (y * 5 + x * x // 8) % 256, np.where((x // 7 + y // 9) % 2, 210, 30)]
    return torch.from_numpy(np.stack(planes, axis=2).astype(np.uint8))[None]


def compute(scales: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Fused logits, (class, height, width) float32."""
    network = fill(build_network(SPEC))
    with torch.inference_mode():
        joint: npt.NDArray[np.float32] = hierarchical_logits(network, normalise(image(), SPEC.mean, SPEC.std), scales)[
            0
        ].numpy()
    return joint


if __name__ == "__main__":
    np.savez_compressed(FILE, **{name: compute(scales) for name, scales in SCALES.items()})
