"""One image of a sample, labelled as a run would label it, and what it takes in every form.

Nothing is written; what the figures say of a set is in `sample_estimate`.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from pipeline.provenance import decisive_settings, label_provenance, scales_with_attention
from pipeline.publishing import IMAGE_SHA256
from pipeline.settings import LabelSettings, thresholds_by_class
from storage.attention_maps import encode_map
from storage.clean_up import remove_small_components
from storage.errors import LabelError
from storage.image_reader import read_image
from storage.label_map import LabelMap
from storage.label_png import LabelFormat, Preset, encode_label_png, read_label_png
from storage.layouts import Item, LabelFile, pairing_key
from storage.schema import IGNORE
from storage.soft_formats import SOFT_FORMATS
from storage.soft_store import Keep, StoreForm
from teacher import Teacher
from teacher.decision import DecisionRule, apply_thresholds, find_top, quantise
from teacher.others import top_without_others

PRESETS: tuple[Preset, ...] = get_args(Preset)
KEEPS: tuple[Keep, ...] = get_args(Keep)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one image gave."""

    labels: Mapping[Preset, int]
    """Bytes of its label by preset."""
    stores: Mapping[Keep, int]
    """Bytes of what is kept beside it, by kind; none: 0."""
    soft: Mapping[str, int]
    """Bytes of its probabilities, compressed, by format."""
    pixels: int
    covered: int
    """Pixels that are given a class."""
    seconds: float
    """To read it, label it and encode what the settings choose, one after the other; attention maps not counted."""
    attention: int = 0
    """Bytes of its attention maps, where they are saved."""
    uncleaned_bytes: int = 0
    """Of the label before the clean-up, in the chosen preset."""
    uncleaned_covered: int = 0
    judged: int = 0
    """Pixels that are given a class and have a true one; 0 where there is no truth of the image."""
    right: int = 0
    """Those of them where the two are the same."""
    uncleaned_judged: int = 0
    uncleaned_right: int = 0


class TeacherMeasure:
    """Measures images with a teacher.

    Args:
        teacher: what labels.
        settings: how it labels; the preset and what is kept decide the time alone.
        truth: the true labels by pairing key, as far as there are any.
    """

    def __init__(self, teacher: Teacher, settings: LabelSettings, truth: Mapping[str, LabelFile] | None = None) -> None:
        self._teacher, self._settings, self._truth = teacher, settings, truth or {}
        self._thresholds = thresholds_by_class(settings.threshold, settings.class_thresholds, teacher.schema)
        self._provenance = self._provenance_of(settings)
        self._uncleaned_provenance = self._provenance_of(settings.model_copy(update={"min_component": 0}))
        self._attends = bool(scales_with_attention(settings, teacher))
        self._is_warm = False

    def __call__(self, item: Item) -> Measurement:
        """Measure an image.

        Raises:
            ImageError: it cannot be read, or is too small for the lowest scale.
            RuntimeError, MemoryError: the device or the machine has no memory for it.
            LabelError: its true label cannot be read, or is of another size.
        """
        if not self._is_warm:
            # the first image pays for what later ones find done: memory, kernels, imports
            self._decide(read_image(item.image))
            self._is_warm = True
        settings = self._settings
        started = time.perf_counter()
        image = read_image(item.image)
        scores, values, planes = self._decide(image)
        raw = LabelMap(values, len(self._teacher.schema))
        label = remove_small_components(raw, settings.min_component)
        self._label_bytes(label, settings.png, self._provenance)
        if settings.keep != "none":
            self._store_bytes(planes, settings.keep)
        seconds = time.perf_counter() - started
        attention = self._attention_bytes(image)
        judged, right = self._judge(item, label)
        uncleaned_judged, uncleaned_right = self._judge(item, raw)
        probabilities = scores.softmax(0).cpu().numpy()
        return Measurement(
            labels={preset: self._label_bytes(label, preset, self._provenance) for preset in PRESETS},
            stores={keep: self._store_bytes(planes, keep) for keep in KEEPS},
            soft={form.name: form.compressed_bytes(probabilities) for form in SOFT_FORMATS},
            pixels=values.size,
            covered=values.size - label.ignored,
            seconds=seconds,
            attention=attention,
            uncleaned_bytes=self._label_bytes(raw, settings.png, self._uncleaned_provenance),
            uncleaned_covered=values.size - raw.ignored,
            judged=judged,
            right=right,
            uncleaned_judged=uncleaned_judged,
            uncleaned_right=uncleaned_right,
        )

    def _decide(
        self, image: npt.NDArray[np.uint8]
    ) -> tuple[torch.Tensor, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Scores (class, height, width), label (height, width), and class, confidence code and runner-up."""
        with torch.inference_mode():
            how = self._settings
            scores = self._teacher.logits(image, how.scales, flip=how.flip, fusion=how.fusion) / how.temperature
            top = find_top(scores[None], runner_up=True)
            if self._teacher.predictor.has_others:
                top = top_without_others(top, len(self._teacher.schema))
            assert top.runner_up is not None, "it was asked for"
            label = apply_thresholds(top, self._thresholds)[0].cpu().numpy()
            kept = (top.classes[0], quantise(top.confidence, self._settings.keep_steps)[0], top.runner_up[0])
            return scores, label, torch.stack(kept).cpu().numpy()

    def _attention_bytes(self, image: npt.NDArray[np.uint8]) -> int:
        if not self._attends:
            return 0
        how = self._settings
        rule = DecisionRule((how.threshold,))
        (decision,) = self._teacher.decide([image], how.scales, rule, flip=how.flip, fusion=how.fusion, attention=True)
        assert decision.attention is not None, "it was asked for"
        return sum(len(encode_map(values)) for values in decision.attention)

    def _judge(self, item: Item, label: LabelMap) -> tuple[int, int]:
        """Pixels that have a class in both the label and the truth, and those where it is the same."""
        file = self._truth.get(pairing_key(item.key))
        if file is None:
            return 0, 0
        truth = read_label_png(file.path, self._teacher.schema, file.ids).values
        if truth.shape != label.values.shape:
            raise LabelError(f"{file.path}: is {truth.shape}, its image {item.image} {label.values.shape}")
        judged = (truth != IGNORE) & (label.values != IGNORE)
        return int(judged.sum()), int((judged & (truth == label.values)).sum())

    def _provenance_of(self, settings: LabelSettings) -> Mapping[str, str | float]:
        image = {IMAGE_SHA256: sha256().hexdigest()}  # of any image: it is as long as that of another
        return {**label_provenance(decisive_settings(settings, self._teacher), self._teacher.schema), **image}

    def _label_bytes(self, label: LabelMap, preset: Preset, provenance: Mapping[str, str | float]) -> int:
        form = LabelFormat(preset, self._settings.palette, self._settings.ids)
        return len(encode_label_png(label, provenance, form, self._teacher.schema))

    def _store_bytes(self, planes: npt.NDArray[np.uint8], keep: Keep) -> int:
        if keep == "none":
            return 0
        form = StoreForm(keep, self._settings.keep_steps, self._teacher.schema.names)
        return len(form.encode(planes[: len(form.planes)]))
