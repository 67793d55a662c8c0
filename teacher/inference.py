"""The teacher: a network with its classes and its normalisation on a device, from images to logits and labels.

Reads no images and writes no labels. Memory is bounded by the caller, who chooses how many images come at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from storage.errors import ImageError, SettingsError
from storage.schema import ClassSchema
from teacher.decision import DecisionRule, check_temperature
from teacher.execution import Execution
from teacher.fusion import check_scales, hierarchical_logits, predict_scales
from teacher.joint_decision import decide_jointly
from teacher.networks.prediction import Network
from teacher.networks.registry import NetworkSpec
from teacher.normalisation import normalise
from teacher.tiling import tiled
from teacher.transfer import Transfers
from teacher.weights import state_digest

Precision = Literal["fp32", "bf16", "fp16"]
Image = npt.NDArray[np.uint8]

_HALVES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is one.

    Raises:
        SettingsError: no such device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device is {name!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            f"use cpu, or install the driver and a torch built for it"
        )
    return device


@dataclass(frozen=True, slots=True)
class Decision:
    """What is made of one image."""

    label: Image
    """(height, width) uint8: a class index, or 255 where the confidence is too low."""
    soft: Image | None = None
    """(plane, height, width) uint8: class, confidence code and, with top2, runner-up; None where nothing is kept."""


class Teacher:
    """A network ready to label.

    Args:
        network: built from `spec`, with its weights; it is put into evaluation mode, and a copy of it is run.
        spec: what the network is, and how its images are normalised.
        schema: what its classes are.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: of the network alone; resizing, fusion and decision are always float32.
        trained_on: the images that the network was trained on, sha256 of the file -> key; empty where not known.
        compiled: have torch compile the network; see `teacher.execution`.

    Raises:
        SettingsError: unknown or absent device, unknown precision, or schema and network differ in classes.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: NetworkSpec,
        schema: ClassSchema,
        device: str = "cpu",
        precision: Precision = "fp32",
        trained_on: Mapping[str, str] | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        if precision not in get_args(Precision):
            raise SettingsError(f"precision is {precision!r}, expected one of {', '.join(get_args(Precision))}")
        if len(schema) != spec.num_classes:
            raise SettingsError(f"schema {schema.name!r} has {len(schema)} classes, the network {spec.num_classes}")
        self.spec = spec
        self.schema = schema
        self.device = find_device(device)
        self.precision = precision
        self.trained_on = dict(trained_on or {})
        self.digest = _digest(network, spec)
        self._execution = Execution(network.eval(), self.device, _HALVES.get(precision), compiled=compiled)
        self._transfers = Transfers(self.device)

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up, as compiling where there is no compiler; labels are the same."""
        return self._execution.problems

    @property
    def weight_bytes(self) -> int:
        """Bytes of the network's weights on the device."""
        return self._execution.weight_bytes

    def network(self, tile: int | None = None) -> Network:
        """What predicts, as it is run.

        Args:
            tile: side of the tiles in which larger images are predicted, in pixels, as `teacher.tiling.tiled` does;
                None: images are predicted whole.

        Raises:
            SettingsError: the tile leaves no room for its overlap.
        """
        return self._execution if tile is None else tiled(self._execution, tile)

    @property
    def eager_network(self) -> Network:
        """What predicts, operation by operation, also where it is compiled or recorded as graphs."""
        return self._execution.run_eagerly

    def release_memory(self) -> None:
        """Let go of what the device keeps from image to image: before a smaller batch, or tiles, are tried."""
        self._execution.release()

    def logits(self, image: Image, scales: Sequence[float], *, flip: bool = False) -> Tensor:
        """Predict one image: the fused prediction of all scales.

        Args:
            image: RGB, (height, width, 3), uint8.
            scales: ratios to the image, 1.0 among them.
            flip: average with the mirrored image's logits.

        Returns:
            Joint logits, (class, height, width), float32, on the teacher's device.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0.
            ImageError: not such an image, or too small for the lowest scale.
        """
        with torch.inference_mode():
            batch = self._batch([image])
            joint = hierarchical_logits(self._execution, batch, scales)
            if flip:
                mirrored = hierarchical_logits(self._execution, batch.flip(-1), scales)
                joint = (joint + mirrored.flip(-1)) / 2
            return joint[0]

    def label(
        self, images: Sequence[Image], scales: Sequence[float], threshold: float, *, flip: bool = False
    ) -> list[Image]:
        """Label images of one size as one batch. Only the labels leave the device.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            threshold: keep where confidence > threshold; in [0, 1).
            flip: average with the mirrored images' logits.

        Returns:
            For each image a label (height, width) uint8: a class index, or 255 where the confidence is too low.

        Raises:
            SettingsError: the scales or the threshold are out of range.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        rule = DecisionRule((threshold,))
        return [decision.label for decision in self.decide(images, scales, rule, flip=flip)]

    def decide(
        self,
        images: Sequence[Image],
        scales: Sequence[float],
        rule: DecisionRule,
        *,
        flip: bool = False,
        tile: int | None = None,
    ) -> list[Decision]:
        """Label images of one size as one batch, and say what is to be kept. Only that leaves the device.

        At most 4 bytes a pixel come to the host: the label, and with it class, confidence code and runner-up.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            rule: the thresholds, one or one a class, and what is kept.
            flip: average with the mirrored images' logits.
            tile: side of the tiles in which larger images are predicted, in pixels; None: images are predicted whole.

        Raises:
            SettingsError: the scales, a threshold, the steps, the temperature or the tile are out of range, or the
                thresholds are not as many as the classes.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        check_scales(scales)
        check_temperature(rule.temperature)
        if len(rule.thresholds) not in (1, len(self.schema)):
            raise SettingsError(f"got {len(rule.thresholds)} thresholds, expected one, or {len(self.schema)}")
        if not images:
            return []
        network = self.network(tile)
        with torch.inference_mode():
            batch = self._batch(images)
            views = [predict_scales(network, batch, scales)]
            if flip:
                mirrored = predict_scales(network, batch.flip(-1), scales)
                views.append(tuple(prediction.mirrored() for prediction in mirrored))
            if rule.temperature != 1:
                views = [tuple(prediction.divided(rule.temperature) for prediction in view) for view in views]
            size = (batch.shape[-2], batch.shape[-1])
            del batch  # three floats a pixel that nobody needs any more
            made = decide_jointly(views, size, rule)
            labels = self._transfers.download(made.labels)
            soft = None if made.soft is None else self._transfers.download(made.soft)
            kept = [None] * len(images) if soft is None else soft.wait()
            return [Decision(label, planes) for label, planes in zip(labels.wait(), kept, strict=True)]

    def _batch(self, images: Sequence[Image]) -> Tensor:
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ImageError(
                    f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3): convert it to RGB"
                )
            if image.shape != images[0].shape:
                raise ImageError(
                    f"images of a batch differ in size: {images[0].shape} and {image.shape}; label them apart"
                )
        return normalise(self._transfers.upload(images).take(), self.spec.mean, self.spec.std)


def _digest(network: nn.Module, spec: NetworkSpec) -> str:
    content = [state_digest(network.state_dict()), spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
