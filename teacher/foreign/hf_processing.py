"""What a model's own processor makes of images, at any scale, and where the images then lie in what the model sees.

At scale 1 it is the processor's own result, value for value, but for one thing: a centre crop is left out, as labels
are for whole images.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from storage.errors import CheckpointError, ImageError, SettingsError
from storage.out_of_memory import is_out_of_memory
from teacher.foreign.contract import ModelSettings
from teacher.foreign.hf_files import CONFIG, PROCESSOR, Config, shown
from teacher.foreign.hf_loading import explained, quiet
from teacher.foreign.hf_shapes import InputShape, Region
from teacher.foreign.hf_source import library

_KNOWN = frozenset(
    f"{name}ImageProcessor"
    for name in (
        "Beit", "Bit", "DINOv3ViT", "DPT", "Eomt", "Mask2Former", "MaskFormer", "MobileNetV2", "MobileViT", "OneFormer",
        "Sapiens2", "Segformer", "Tipsv2Dpt", "ViT",
    )
)  # fmt: skip
"""Processors that read nothing but their settings, and do nothing but resize, pad, split and normalise."""
_LEFT_OUT = ("class_info_file", "repo_path", "metadata")
"""What makes OneFormer's processor fetch the names of classes, for training."""
_WITHOUT_COLOURS = "MobileViTImageProcessor"
_EDGES = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
_MAX_EDGE = 4_096


@dataclass(frozen=True, slots=True)
class Prepared:
    """Images as the model takes them."""

    inputs: dict[str, Tensor]
    """`pixel_values` (batch, 3, height, width), and what else the processor gives the model."""
    region: Region
    """Where each image lies in it."""
    offsets: list[Any] | None = None
    """Of a processor that splits images: to which image and place each of the batch belongs."""


def open_processor(settings: Config, config: Config, where: str) -> Any:  # noqa: ANN401 - a class of transformers
    """Make the processor that transformers takes for these settings.

    Args:
        settings: the processor's, as its file says.
        config: the model's, which says which processor is meant where its own settings do not.
        where: they come from, for messages.

    Raises:
        CheckpointError: it is none that is known, or its settings are not its own.
    """
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    wanted = None if named is None else _plain_name(str(named).replace("FeatureExtractor", "ImageProcessor"))
    if wanted is not None and wanted not in _KNOWN:
        raise CheckpointError(
            f"{where}: its processor is a {shown(named, 60)}, expected one of {', '.join(sorted(_KNOWN))}; autocoarse "
            f"runs no code that comes with a model"
        )
    settings = {key: value for key, value in settings.items() if key not in _LEFT_OUT}
    transformers = library("transformers")
    with quiet(), explained(f"{where}: its image processor cannot be made"), tempfile.TemporaryDirectory() as folder:
        # A directory of its own, so that nothing but these settings is read.
        (Path(folder) / PROCESSOR).write_text(json.dumps(settings))
        (Path(folder) / CONFIG).write_text(json.dumps({"model_type": config.get("model_type")}))
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if _plain_name(type(processor).__name__) not in _KNOWN:
        raise CheckpointError(f"{where}: its processor is a {type(processor).__name__}, which is not supported")
    return processor


def _plain_name(name: str) -> str:
    return name.removesuffix("Fast").removesuffix("Pil")


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)  # of two as near the larger, where round takes the even one


def edges_of(size: Any) -> dict[str, int]:  # noqa: ANN401 - a dict or a SizeDict, by version
    """The entries of a processor's size that are set."""
    if size is None:
        return {}
    entries = {key: size.get(key) if isinstance(size, dict) else getattr(size, key, None) for key in _EDGES}
    return {key: value for key, value in entries.items() if value is not None}


class Processing:
    """A processor, and how it is used.

    Args:
        processor: as `open_processor` gives it.
        shape: which sizes the model takes.
        how: `native`, `mean` and `std` are used.
        name: of the model, for messages.

    Raises:
        CheckpointError: the processor cannot work with its settings.
        SettingsError: mean or std are given, and the processor does not normalise.
    """

    def __init__(self, processor: Any, shape: InputShape, how: ModelSettings, name: str) -> None:  # noqa: ANN401
        self._processor = processor
        self.shape = shape
        self._native = how.native
        self._name = name
        self._regions: dict[tuple[int, int, float], Region] = {}
        self._colours: Config = {
            key: list(value) for key, value in (("image_mean", how.mean), ("image_std", how.std)) if value is not None
        }
        if self._colours:
            if _plain_name(type(processor).__name__) == _WITHOUT_COLOURS:
                raise SettingsError(f"{name}: its processor does not normalise; leave out mean and std")
            self._colours["do_normalize"] = True
        for key in ("size", "pad_size"):
            edges: list[Any] = [*edges_of(getattr(processor, key, None)).values()]  # what its file says
            if not all(isinstance(edge, int | float) and 0 < edge <= _MAX_EDGE for edge in edges):
                raise CheckpointError(
                    f"{name}: its processor's {key} is {shown(getattr(processor, key), 100)}, expected 1 to {_MAX_EDGE}"
                )
        with explained(f"{name}: its image processor does not work with its settings"):
            self._process(torch.full((1, 3, 64, 64), 128, dtype=torch.uint8), self._changes(1.0))

    @property
    def size(self) -> dict[str, int] | None:
        """What images are resized to; None: they are not."""
        resizes = getattr(self._processor, "do_resize", True) and not self._native
        return edges_of(getattr(self._processor, "size", None)) if resizes else None

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation that images are normalised by; None: they are not."""
        own: Config = {key: getattr(self._processor, key, None) for key in ("image_mean", "image_std", "do_normalize")}
        own |= self._colours
        if _plain_name(type(self._processor).__name__) == _WITHOUT_COLOURS or not own["do_normalize"]:
            return None
        mean, std = (
            (value,) * 3 if isinstance(value, int | float) else tuple(value)
            for value in (own["image_mean"], own["image_std"])
        )
        return mean, std

    def prepare(self, images: Tensor, scale: float) -> Prepared:
        """Prepare images for the model.

        Args:
            images: RGB in [0, 1], (batch, 3, height, width), float32.
            scale: which the processor's own sizes are multiplied by.

        Raises:
            ImageError: the processor or the model does not take images of this size.
        """
        height, width = images.shape[-2:]
        try:
            with quiet():
                given = self._process((images * 255).round().clamp(0, 255).to(torch.uint8), self._changes(scale))
        except Exception as error:  # processors check in many ways
            if is_out_of_memory(error) or "CUDA error" in str(error):
                raise
            raise ImageError(
                f"{self._name}: its processor does not take images of {width}x{height}: {shown(error)}"
            ) from error
        pixels: Tensor = given["pixel_values"].to(images.device)
        offsets = given.get("patch_offsets") or None
        if self._native:
            to_height, to_width = self.shape.padded(height, width)
            region = Region(0, 0, height, width, to_height, to_width)
            pixels = functional.pad(pixels, (0, to_width - width, 0, to_height - height))
        else:
            region = self._regions.get((height, width, scale)) or self._find_region(height, width, scale, images.device)
            self._regions[height, width, scale] = region
        self.shape.check(pixels.shape[-2], pixels.shape[-1], self._name)
        inputs = {"pixel_values": pixels}
        if "pixel_mask" in given and not self._native:
            inputs["pixel_mask"] = given["pixel_mask"].to(images.device)
        return Prepared(inputs, region, offsets)

    def merge(self, scores: Tensor, offsets: list[Any], height: int, width: int) -> Tensor:
        """Join the parts of images that the processor has split, as the library does: averaged where they overlap.

        Args:
            scores: of the parts, (part, label, h, w).
            offsets: as `prepare` gives them.
            height: of the images, before the processor.
            width: as above.

        Returns:
            (batch, label, h', w') at the size that the processor brings the images to.
        """
        size = self._processor.size
        shortest, longest = edges_of(size).get("shortest_edge"), edges_of(size).get("longest_edge")
        resized = library("transformers.image_transforms").get_size_with_aspect_ratio(
            (height, width), shortest, longest
        )
        batch = 1 + max(int(offset[0]) for offset in offsets)
        return torch.stack(self._processor.merge_image_patches(scores, offsets, [resized] * batch, size))

    def _process(self, images: Tensor, changes: Config) -> Any:  # noqa: ANN401 - a BatchFeature
        on_device = getattr(self._processor, "backend", None) == "torchvision" or hasattr(self._processor, "is_fast")
        given = list(images) if on_device else [image.cpu().numpy() for image in images]
        return self._processor(images=given, return_tensors="pt", **changes)

    def _changes(self, scale: float) -> Config:
        """What is asked of the processor beyond its own settings."""
        changes: Config = {"do_center_crop": False, **self._colours}
        if self._native:
            changes |= {"do_resize": False, "do_split_image": False, "do_pad": False}
            if edges_of(getattr(self._processor, "pad_size", None)):
                changes["pad_size"] = None
        elif scale != 1:
            multiple = self.shape.multiple
            for key in ("size", "pad_size"):
                size: Any = getattr(self._processor, key, None)
                edges = edges_of(size)
                if not edges:
                    continue
                both = key == "pad_size" or "height" in edges
                to = math.ceil if key == "pad_size" else _nearest
                scaled = {
                    name: max(1, to(edge * scale / multiple)) * multiple if both else max(1, _nearest(edge * scale))
                    for name, edge in edges.items()
                }
                changes[key] = scaled if key == "size" else type(size)(**scaled)  # as transformers 5 wants each
        return {key: value for key, value in changes.items() if hasattr(self._processor, key)}

    def _find_region(self, height: int, width: int, scale: float, device: torch.device) -> Region:
        # Found by a white image, as processors pad with black at several sides and by several rules.
        white = torch.full((1, 3, height, width), 255, dtype=torch.uint8, device=device)
        with quiet():
            given = self._process(white, self._changes(scale) | {"do_normalize": False, "do_rescale": False})
        seen = given["pixel_values"][0].amax(0) > 0
        if given.get("patch_offsets"):
            return Region(0, 0, len(seen), len(seen[0]), len(seen), len(seen[0]))
        rows, columns = seen.any(1).nonzero().flatten().tolist(), seen.any(0).nonzero().flatten().tolist()
        return Region(
            rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1, seen.shape[0], seen.shape[1]
        )
