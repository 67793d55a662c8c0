"""The teacher: a network with its classes and its normalisation on a device, from images to logits and labels.

Reads no images and writes no labels. Memory is bounded by the caller, who chooses how many images come at once.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from storage.errors import ImageError, MissingFileError, SettingsError
from storage.schema import ClassSchema, load_schema
from teacher.checkpoint import checkpoint_of, is_own
from teacher.decision import DecisionRule, apply_thresholds, check_threshold, find_top, quantise
from teacher.fusion import check_scales, hierarchical_logits
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec, network_names
from teacher.normalisation import normalise
from teacher.weights import load_strictly, read_content, state_dict_of, state_digest

Precision = Literal["fp32", "bf16", "fp16"]
Image = npt.NDArray[np.uint8]

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        network: built from `spec`, with its weights; it is put into evaluation mode and moved to the device.
        spec: what the network is, and how its images are normalised.
        schema: what its classes are.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: of the network alone; resizing, fusion and decision are always float32.
        trained_on: the images that the network was trained on, sha256 of the file -> key; empty where not known.

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
        # On the CPU channels last took about a third less processor time for both networks, within the same tolerances.
        self._layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        network.eval().requires_grad_(requires_grad=False)
        self._network = network.to(self.device).to(memory_format=self._layout)

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
            return self._joint(self._batch([image]), scales, flip)[0]

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
        self, images: Sequence[Image], scales: Sequence[float], rule: DecisionRule, *, flip: bool = False
    ) -> list[Decision]:
        """Label images of one size as one batch, and say what is to be kept. Only that leaves the device.

        At most 4 bytes a pixel come to the host: the label, and with it class, confidence code and runner-up.

        Args:
            images: RGB, each (height, width, 3), uint8, all of one size.
            scales: ratios to the images, 1.0 among them.
            rule: the thresholds, one or one a class, and what is kept.
            flip: average with the mirrored images' logits.

        Raises:
            SettingsError: the scales, a threshold or the steps are out of range, or the thresholds are not as many as
                the classes.
            ImageError: not such images, of different sizes, or too small for the lowest scale.
        """
        check_scales(scales)
        if len(rule.thresholds) not in (1, len(self.schema)):
            raise SettingsError(f"got {len(rule.thresholds)} thresholds, expected one, or {len(self.schema)}")
        for threshold in rule.thresholds:
            check_threshold(threshold)
        if not images:
            return []
        with torch.inference_mode():
            top = find_top(self._joint(self._batch(images), scales, flip), runner_up=rule.keep == "top2")
            labels = apply_thresholds(top, rule.thresholds).cpu().numpy()
            if rule.keep == "none":
                return [Decision(label) for label in labels]
            kept = [top.classes, quantise(top.confidence, rule.steps)]
            kept += [] if top.runner_up is None else [top.runner_up]
            soft = torch.stack(kept, dim=1).cpu().numpy()
            return [Decision(label, planes) for label, planes in zip(labels, soft, strict=True)]

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
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        return normalise(batch, self.spec.mean, self.spec.std)

    def _joint(self, images: Tensor, scales: Sequence[float], flip: bool) -> Tensor:
        joint = hierarchical_logits(self._predict, images, scales)
        if not flip:
            return joint
        mirrored = hierarchical_logits(self._predict, images.flip(-1), scales)
        return (joint + mirrored.flip(-1)) / 2

    def _predict(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        half = self.precision != "fp32"
        dtype = _DTYPES[self.precision] if half else None
        with _exact(self.device), torch.autocast(self.device.type, dtype=dtype, enabled=half):
            prediction: ScalePrediction = self._network(images.contiguous(memory_format=self._layout), attend=attend)
        return prediction


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Keep CUDA convolutions at the precision that was asked for, and the same from run to run."""
    if device.type != "cuda":
        yield
        return
    # By default cuDNN rounds float32 convolutions to TF32, and may choose another algorithm each run.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _digest(network: nn.Module, spec: NetworkSpec) -> str:
    content = [state_digest(network.state_dict()), spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_teacher(
    name_or_checkpoint: str | Path,
    weights: str | Path | None = None,
    *,
    schema: ClassSchema | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> Teacher:
    """Make a teacher from a checkpoint of autocoarse, or from a network's name and a file of public weights.

    Args:
        name_or_checkpoint: the path of a checkpoint, which carries its network, classes and normalisation;
            or "hrnet-ocr".
        weights: file of the named network's weights.
        schema: what the classes are: with a checkpoint, what they are expected to be; with a name, Cityscapes
            if left out.
        device: "cpu", "cuda", "cuda:N" or "auto".
        precision: of the network.

    Raises:
        MissingFileError: neither a network nor a file, or the weights are missing.
        CheckpointError: the file is damaged or does not fit.
        SettingsError: what was asked for contradicts itself.
    """
    find_device(device)  # refuses before the weights are read, which takes long
    name = str(name_or_checkpoint)
    if name in network_names():
        return _named_teacher(name, weights, schema, device, precision)
    path = Path(name_or_checkpoint)
    if not path.exists():
        raise MissingFileError(
            f"no teacher {name!r}: expected the path of a checkpoint, and there is no such file, or one of "
            f"{', '.join(network_names())}"
        )
    if weights is not None:
        raise SettingsError(f"{path} is a checkpoint with weights of its own, got {weights} besides: leave one out")
    checkpoint = checkpoint_of(read_content(path), path)
    if schema is not None and schema.digest != checkpoint.schema.digest:
        raise SettingsError(
            f"{path} was trained on other classes than were asked for: it has {_short(checkpoint.schema)}, "
            f"asked for were {_short(schema)}; leave out the schema, or take a teacher of that schema"
        )
    network = build_network(checkpoint.spec)
    load_strictly(network, checkpoint.state_dict, str(path))
    return Teacher(network, checkpoint.spec, checkpoint.schema, device, precision, checkpoint.record.get("images"))


def _named_teacher(
    name: str, weights: str | Path | None, schema: ClassSchema | None, device: str, precision: Precision
) -> Teacher:
    if name != "hrnet-ocr":
        raise SettingsError(
            f"there are no public weights for {name}: train a teacher and give its checkpoint instead of the name"
        )
    if weights is None:
        raise SettingsError(f"{name} needs a file of weights (autocoarse fetches none), got no weights")
    path = Path(weights)
    content = read_content(path)
    if is_own(content):
        raise SettingsError(
            f"{path} is a checkpoint of autocoarse and says itself what it is: give it instead of the name {name}"
        )
    schema = schema or load_schema("cityscapes")
    spec = default_spec("hrnet-ocr", len(schema))
    network = build_network(spec)
    load_strictly(network, state_dict_of(content, path), str(path))
    return Teacher(network, spec, schema, device, precision)


def _short(schema: ClassSchema) -> str:
    shown = ", ".join(schema.names[:6]) + (", ..." if len(schema) > 6 else "")
    return f"{schema.name!r} ({len(schema)}: {shown})"
