"""The teacher: a network with its classes and its normalisation on a device, from images to logits and labels.

Reads no images and writes no labels. Memory is bounded by the caller, who chooses how many images come at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self, get_args

import torch
from torch import Tensor, nn

from storage.errors import SettingsError
from storage.schema import ClassSchema
from teacher.decided import Decision
from teacher.decision import DecisionRule, check_temperature
from teacher.device import find_device
from teacher.fusion import ScaledPrediction, check_scales
from teacher.joint_decision import JointDecision, decide_jointly
from teacher.late_fusion import View, joint_logits
from teacher.network_predictor import NetworkPredictor, network_digest
from teacher.networks.prediction import Fusion
from teacher.networks.registry import NetworkSpec
from teacher.others import without_others
from teacher.precision import HALVES, Precision
from teacher.predictor import Predictor
from teacher.scale_weights import scale_weights
from teacher.transfer import Image, Transfers, UploadsAhead, check_images


class Teacher:
    """What predicts, with its classes, ready to label.

    Args:
        predictor: a network of ours, one of another library, or several together.
        schema: what its classes are, in the order of its logits.
        digest: hash of all that decides what it predicts.
        precision: of the networks alone; resizing, fusion and decision are always float32.
        trained_on: the images that it was trained on, sha256 of the file -> key; empty where not known.
    """

    def __init__(
        self,
        predictor: Predictor,
        schema: ClassSchema,
        digest: str,
        precision: Precision = "fp32",
        trained_on: Mapping[str, str] | None = None,
    ) -> None:
        self.predictor = predictor
        self.schema = schema
        self.digest = digest
        self.precision = precision
        self.trained_on = dict(trained_on or {})
        self._transfers = Transfers(predictor.device)
        self._ahead = UploadsAhead(self._transfers) if self.looks_ahead else None

    @classmethod
    def of_network(
        cls,
        network: nn.Module,
        spec: NetworkSpec,
        schema: ClassSchema,
        device: str = "cpu",
        precision: Precision = "fp32",
        trained_on: Mapping[str, str] | None = None,
        *,
        compiled: bool = False,
        take_over: bool = False,
    ) -> Self:
        """A teacher of a network of ours.

        Args:
            network: built from `spec`, with its weights; it is put into evaluation mode, and a copy of it is run, or,
                with `take_over`, it itself.
            spec: what the network is, and how its images are normalised.
            schema: what its classes are.
            device: "cpu", "cuda", "cuda:N" or "auto".
            precision: of the network.
            trained_on: as for the class.
            compiled: have torch compile the network; see `teacher.execution`.
            take_over: the network is the teacher's, which changes it.

        Raises:
            SettingsError: unknown or absent device, unknown precision, or schema and network differ in classes.
        """
        if precision not in get_args(Precision):
            raise SettingsError(f"precision is {precision!r}, expected one of {', '.join(get_args(Precision))}")
        if len(schema) != spec.num_classes:
            raise SettingsError(f"schema {schema.name!r} has {len(schema)} classes, the network {spec.num_classes}")
        digest = network_digest(network, spec)
        half = HALVES.get(precision)
        where = find_device(device)
        predictor = NetworkPredictor(network, spec, where, half, compiled=compiled, take_over=take_over)
        return cls(predictor, schema, digest, precision, trained_on)

    @property
    def name(self) -> str:
        """Of what predicts, for people."""
        return self.predictor.name

    @property
    def device(self) -> torch.device:
        """Where it predicts."""
        return self.predictor.device

    @property
    def problems(self) -> tuple[str, ...]:
        """What was asked for and had to be given up, as compiling where there is no compiler; labels are the same."""
        return self.predictor.problems

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be told to whoever uses its labels, such as classes that it never predicts."""
        return self.predictor.remarks

    @property
    def looks_ahead(self) -> bool:
        """Whether it is of use to `expect` images: whether they have a way to go to the device."""
        return self.device.type == "cuda"

    @property
    def weight_bytes(self) -> int:
        """Bytes of the network's weights on the device."""
        return self.predictor.weight_bytes

    def fusion(self, asked: Fusion | None = None) -> Fusion:
        """How scales are fused, where something is asked for or nothing is.

        Raises:
            SettingsError: an attention is asked of a network without it, or something else of one with an explicit one.
        """
        own = self.predictor.fusion
        if asked not in (None, own) and "explicit" in (asked, own):
            raise SettingsError(
                f"the fusion {asked} was asked for, and the network was trained for {own}: "
                f"{'leave the fusion out' if own == 'explicit' else 'choose hierarchical, average or single'}"
            )
        if asked == "hierarchical" != own:
            raise SettingsError(
                f"{self.name} has no scale attention: choose the fusion average or single, or fit an attention by "
                f"`autocoarse fit-attention`"
            )
        return asked or own

    def release_memory(self) -> None:
        """Let go of what the device keeps from image to image: before a smaller batch, or tiles, are tried."""
        if self._ahead is not None:
            self._ahead.clear()
        self.predictor.release()

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
            Joint logits, (class, height, width), float32, on the teacher's device. Where the teacher also knows what is
            no class of the schema, the last one more is of that.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0.
            ImageError: not such an image, or too small for the lowest scale.
        """
        with torch.inference_mode():
            views = self.predictor.predict(self._batch([image]), scales, self.fusion(fusion), flip=flip)
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
            views = self.predictor.predict(self._batch(images), scales, how, flip=flip, tile=tile)
            if rule.temperature != 1:
                views = [tuple(prediction.divided(rule.temperature) for prediction in view) for view in views]
            size = (images[0].shape[0], images[0].shape[1])
            made = self._decide(views, size, rule)
            weights = scale_weights(views, size) if attention else None
            labels = self._transfers.download(made.labels)
            kept, shares = (None if x is None else self._transfers.download(x) for x in (made.soft, weights))
            return [Decision(labels, kept, shares, *one) for one in enumerate(made.finite)]

    def predict(
        self, images: Sequence[Image], scales: Sequence[float], fusion: Fusion | None = None
    ) -> tuple[ScaledPrediction, ...]:
        """Predict images of one size as one batch, and fuse nothing.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            fusion: what is to become of the predictions; None: what the teacher was trained for.

        Returns:
            A prediction for each scale, from the largest to the smallest, on the teacher's device.

        Raises:
            SettingsError: the scales are not positive, come twice, or lack 1.0.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        with torch.inference_mode():
            return tuple(self.predictor.predict(self._batch(images), scales, self.fusion(fusion))[0])

    def _decide(self, views: Sequence[View], size: tuple[int, int], rule: DecisionRule) -> JointDecision:
        if not self.predictor.has_others:
            return decide_jointly(views, size, rule)
        # it may be the most likely, and then a pixel has no class, whatever its confidence
        several = len(rule.thresholds) > 1
        own = replace(rule, thresholds=(*rule.thresholds, 0.0)) if several else rule
        return without_others(decide_jointly(views, size, own), len(self.schema))

    def _batch(self, images: Sequence[Image]) -> Tensor:
        check_images(images)
        upload = (self._transfers if self._ahead is None else self._ahead).upload(images)
        return upload.take()
