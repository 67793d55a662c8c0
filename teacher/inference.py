"""The teacher: a network with its classes and its normalisation on a device, from images to logits and labels.

Reads no images and writes no labels. Memory is bounded by the caller, who chooses how many images come at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from storage.errors import ImageError, SettingsError
from storage.schema import ClassSchema
from teacher.decided import Decision
from teacher.decision import DecisionRule, check_temperature
from teacher.device import find_device
from teacher.execution import Execution
from teacher.fusion import check_scales, predict_scales
from teacher.joint_decision import decide_jointly
from teacher.late_fusion import View, joint_logits
from teacher.networks.prediction import Fusion, Network
from teacher.networks.registry import NetworkSpec
from teacher.normalisation import normalise
from teacher.scale_weights import scale_weights
from teacher.tiling import tiled
from teacher.transfer import Transfers, UploadsAhead
from teacher.weights import state_digest

Precision = Literal["fp32", "bf16", "fp16"]
Image = npt.NDArray[np.uint8]

_HALVES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A network ready to label.

    Args:
        network: built from `spec`, with its weights; it is put into evaluation mode, and a copy of it is run, or, with
            `take_over`, it itself.
        spec: what the network is, and how its images are normalised.
        schema: what its classes are.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: of the network alone; resizing, fusion and decision are always float32.
        trained_on: the images that the network was trained on, sha256 of the file -> key; empty where not known.
        compiled: have torch compile the network; see `teacher.execution`.
        take_over: the network is the teacher's, which changes it.

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
        take_over: bool = False,
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
        half = _HALVES.get(precision)
        self._execution = Execution(network.eval(), self.device, half, compiled=compiled, take_over=take_over)
        self._transfers = Transfers(self._execution.device)
        self._ahead = UploadsAhead(self._transfers) if self.looks_ahead else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up, as compiling where there is no compiler; labels are the same."""
        return self._execution.problems

    @property
    def looks_ahead(self) -> bool:
        """Whether it is of use to `expect` images: whether they have a way to go to the device."""
        return self.device.type == "cuda"

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

    def fusion(self, asked: Fusion | None = None) -> Fusion:
        """How scales are fused, where something is asked for or nothing is.

        Raises:
            SettingsError: an explicit attention is asked of a network that has none, or something else of one that has.
        """
        own = self.spec.attention
        if asked not in (None, own) and "explicit" in (asked, own):
            raise SettingsError(
                f"the fusion {asked} was asked for, and the network was trained for {own}: "
                f"{'leave the fusion out' if own == 'explicit' else 'choose hierarchical, average or single'}"
            )
        return asked or own

    def release_memory(self) -> None:
        """Let go of what the device keeps from image to image: before a smaller batch, or tiles, are tried."""
        if self._ahead is not None:
            self._ahead.clear()
        self._execution.release()

    def expect(self, images: Sequence[Image]) -> None:
        """Begin to send images to the device, which meanwhile may be at work on others; any thread may.

        Args:
            images: those that `decide` or `label` will be given as one batch, the very arrays. What is wrong with them
                is told there.
        """
        if self._ahead is not None:
            self._ahead.expect(images)

    def logits(
        self, image: Image, scales: Sequence[float], *, flip: bool = False, fusion: Fusion | None = None
    ) -> Tensor:
        """Predict one image: the fused prediction of all scales.

        Args:
            image: RGB, (height, width, 3), uint8.
            scales: ratios to the image, 1.0 among them.
            flip: average with the mirrored image's logits.
            fusion: how scales are fused; None: as the network was trained for.

        Returns:
            Joint logits, (class, height, width), float32, on the teacher's device.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0.
            ImageError: not such an image, or too small for the lowest scale.
        """
        with torch.inference_mode():
            views = self._predict([image], scales, self.fusion(fusion), flip=flip)
            return joint_logits(views, (image.shape[0], image.shape[1]))[0]

    def label(
        self,
        images: Sequence[Image],
        scales: Sequence[float],
        threshold: float,
        *,
        flip: bool = False,
        fusion: Fusion | None = None,
    ) -> list[Image]:
        """Label images of one size as one batch. Only the labels leave the device.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            threshold: keep where confidence > threshold; in [0, 1).
            flip: average with the mirrored images' logits.
            fusion: how scales are fused; None: as the network was trained for.

        Returns:
            For each image a label (height, width) uint8: a class index, or 255 where the confidence is too low.

        Raises:
            SettingsError: the scales or the threshold are out of range.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        rule = DecisionRule((threshold,))
        return [decision.label for decision in self.decide(images, scales, rule, flip=flip, fusion=fusion)]

    def decide(
        self,
        images: Sequence[Image],
        scales: Sequence[float],
        rule: DecisionRule,
        *,
        flip: bool = False,
        tile: int | None = None,
        fusion: Fusion | None = None,
        attention: bool = False,
    ) -> list[Decision]:
        """Label images of one size as one batch, and say what is to be kept. Only that leaves the device.

        At most 4 bytes a pixel come to the host: the label, and with it class, confidence code and runner-up. On CUDA
        they are on their way when this returns, and other images may be decided meanwhile: reading a decision waits for
        it.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            rule: the thresholds, one or one a class, and what is kept.
            flip: average with the mirrored images' logits.
            tile: side of the tiles in which larger images are predicted, in pixels; None: images are predicted whole.
            fusion: how scales are fused; None: as the network was trained for.
            attention: say also how much each scale counts, a byte a pixel and scale.

        Raises:
            SettingsError: the scales, a threshold, the steps, the temperature or the tile are out of range, or the
                thresholds are not as many as the classes.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        check_scales(scales)
        check_temperature(rule.temperature)
        how = self.fusion(fusion)
        if len(rule.thresholds) not in (1, len(self.schema)):
            raise SettingsError(f"got {len(rule.thresholds)} thresholds, expected one, or {len(self.schema)}")
        if not images:
            return []
        with torch.inference_mode():
            views = self._predict(images, scales, how, flip=flip, tile=tile)
            if rule.temperature != 1:
                views = [tuple(prediction.divided(rule.temperature) for prediction in view) for view in views]
            size = (images[0].shape[0], images[0].shape[1])
            made = decide_jointly(views, size, rule)
            weights = scale_weights(views, size) if attention else None
            labels = self._transfers.download(made.labels)
            kept, shares = (None if x is None else self._transfers.download(x) for x in (made.soft, weights))
            return [Decision(labels, kept, shares, index) for index in range(len(images))]

    def _predict(
        self,
        images: Sequence[Image],
        scales: Sequence[float],
        fusion: Fusion,
        *,
        flip: bool,
        tile: int | None = None,
    ) -> list[View]:
        network = self.network(tile)
        batch = self._batch(images)
        views: list[View] = [predict_scales(network, batch, scales, fusion)]
        if flip:
            mirrored = predict_scales(network, batch.flip(-1), scales, fusion)
            views.append(tuple(prediction.mirrored() for prediction in mirrored))
        return views

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
        upload = (self._transfers if self._ahead is None else self._ahead).upload(images)
        return normalise(upload.take(), self.spec.mean, self.spec.std)


def _digest(network: nn.Module, spec: NetworkSpec) -> str:
    content = [state_digest(network.state_dict()), spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
