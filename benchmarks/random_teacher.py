"""Teachers with random weights that behave like trained ones in what speed depends on, for the benchmarks.

Features keep their spread through all layers, several classes win, and a tenth of the pixels of the scenes they are
fitted to is ignored after fusion, fewer of larger images (label_speed.py prints the share). What they lack is that
a trained teacher's scales agree with each other; what makes use of that is slower here than on photographs.
"""

import copy
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.scenes import generate_scene
from storage.schema import ClassSchema
from teacher import Teacher
from teacher.networks.registry import NetworkSpec, build_network
from teacher.normalisation import normalise

THRESHOLD = 0.5
IGNORED = 0.1
"""Share of the pixels that is to be ignored."""
GAIN = 0.25
"""Weight of the last batch norm of a residual block, as a hundred blocks must not blow up what they add to, and of
OCR's context, which is much the same for all of an image's pixels."""
_SCENES, _SIZE = 2, (256, 512)
_CLASSIFIERS = ("ocr.cls_head", "classifier")
_ADDED = re.compile(r"branches.*bn2$|layer1.*bn3$|f_up\.")
_OF_REGIONS = ("f_object", "f_down")
"""OCR's layers on region features: these hardly differ, and dividing by so little would make noise of them."""


def random_network(spec: NetworkSpec, schema: ClassSchema, scales: Sequence[float]) -> nn.Module:
    """Build a network, draw its weights and fit batch norms and classifier to a few generated scenes.

    Args:
        spec: what to build.
        schema: what its classes are.
        scales: at which it will label.

    Returns:
        The network in evaluation mode, the same in every call.
    """
    torch.manual_seed(0)
    network = build_network(spec)
    scenes = [generate_scene(1, index, _SIZE).image for index in range(_SCENES)]
    _draw(network)
    _settle_norms(network, normalise(torch.from_numpy(np.stack(scenes)), spec.mean, spec.std))
    teacher = Teacher.of_network(copy.deepcopy(network), spec, schema)
    _sharpen(network, torch.stack([teacher.logits(scene, scales) for scene in scenes]))
    return network


def _draw(network: nn.Module) -> None:
    """Weights that keep the spread of what passes (arXiv:1502.01852); little is added to a pixel's own features."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d) and _ADDED.search(name):
            nn.init.constant_(module.weight, GAIN)


@torch.no_grad()
def _settle_norms(network: nn.Module, images: Tensor) -> None:
    """Take each batch norm's mean and variance from the images."""
    network.eval()
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not any(part in name for part in _OF_REGIONS):
            module.momentum = 1.0
            module.train()
    network(images)
    network.eval()


@torch.no_grad()
def _sharpen(network: nn.Module, logits: Tensor) -> None:
    """Make the classes equally likely and as sure as asked for; fused logits are linear in the classifier's weights."""
    classifier = next(module for name, module in network.named_modules() if name in _CLASSIFIERS)
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    offset = logits.mean(dim=(0, 2, 3))
    centred = logits - offset.view(1, -1, 1, 1)
    low, high = 0.01, 100.0
    for _ in range(20):
        gain = (low * high) ** 0.5
        ignored = ((gain * centred).softmax(dim=1).amax(dim=1) <= THRESHOLD).float().mean().item()
        low, high = (gain, high) if ignored > IGNORED else (low, gain)
    classifier.weight.mul_(gain)
    classifier.bias.sub_(offset).mul_(gain)
