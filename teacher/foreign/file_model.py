"""A network from a file as a foreign model: normalisation, sizes and kind of output around what the file computes.

What the file is, and how it is read and run, is the business of the readers: `onnx_model`, `exported`, `factory`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from storage.errors import CheckpointError, ImageError, SettingsError, first_line
from teacher.foreign.contract import Colours, ModelSettings
from teacher.foreign.image_form import ImageForm
from teacher.foreign.notes import MAX_OUTPUTS, Notes, Outputs
from teacher.networks.registry import IMAGENET_MEAN, IMAGENET_STD
from teacher.normalisation import shift_and_scale

_VERSION = 1
"""Of what this module makes of a file, part of the digest."""
_LEAST_PROBABILITY = torch.finfo(torch.float32).eps
"""Below that a probability is raised to it, before its logarithm: a softmax in float32 rounds there anyway."""
_SUM_TOLERANCE = 1e-3
"""How far the sum of probabilities may be from 1; the rounding of half precision is less."""

_SAME = 1e-3
"""How far scores of the same image may differ, relative to the largest."""


class Run(Protocol):
    """What a file computes."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights on the device, as far as is known."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Normalised images (batch, 3, height, width) float32, on the device -> whatever its output is.

        Raises:
            RuntimeError, MemoryError: it fails at these images.
            CheckpointError: it does not give one tensor.
        """


class FileModel:
    """Satisfies `teacher.foreign.contract.ForeignModel`.

    When it is made, the network is run once on a small image of noise: whether it runs at all, how many labels it has
    and whether it gives logits or probabilities is known from then on.

    Args:
        name: the kind of the file.
        where: the file, for messages.
        content_digest: hash of all that the file holds.
        run: what it computes.
        form: the images that it takes.
        notes: what it says of itself.
        how: what the settings say; they come first.
        facts: more to tell.

    Raises:
        CheckpointError: the network cannot be run, or its output is not scores of labels.
        SettingsError: there are not as many labels as the network has.
    """

    def __init__(
        self,
        name: str,
        where: str,
        content_digest: str,
        run: Run,
        form: ImageForm,
        notes: Notes,
        how: ModelSettings,
        facts: Mapping[str, str],
    ) -> None:
        self.name = name
        self.labels = how.labels or notes.labels
        self._where, self._run, self._form, self._how = where, run, form, how
        self._mean: Colours = how.mean or notes.mean or IMAGENET_MEAN
        self._std: Colours = how.std or notes.std or IMAGENET_STD
        with torch.inference_mode():
            probed = self._probe()
        self._label_count = probed.shape[1]
        self._outputs: Outputs = notes.outputs or ("probabilities" if _are_probabilities(probed) else "logits")
        if self.labels is not None and len(self.labels) != self._label_count:
            told = f"{where} has {self._label_count} outputs, and {len(self.labels)} labels are named"
            if how.labels is not None:
                raise SettingsError(f"{told}: name all of them, in their order")
            raise CheckpointError(f"{told} in it; the file is damaged, or was changed: say labels in a description")
        self.digest = self._digest(content_digest)
        self._facts = self._tell(notes, facts)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights on the device, as far as is known."""
        return self._run.weight_bytes

    def facts(self) -> dict[str, str]:
        """As the contract."""
        return dict(self._facts)

    def __call__(self, images: Tensor, scale: float, /) -> Tensor:
        """As the contract; images are brought to a size that the network takes, bilinearly, by `ImageForm.size_for`.

        Raises:
            ImageError: the network takes images of other sizes only.
            SettingsError: it takes one size only, and the scale is not 1.
            CheckpointError: its output is not that of the first run.
            RuntimeError, MemoryError: it fails at these images.
        """
        size = (images.shape[-2], images.shape[-1])
        wanted = self._form.size_for(size, scale, self._where, native=self._how.native)
        with torch.inference_mode():
            if wanted != size:
                images = functional.interpolate(images, size=wanted, mode="bilinear", antialias=True)
            scores = self._scores(images)
            if scores.shape[1] != self._label_count:
                raise CheckpointError(
                    f"{self._where} gave {self._label_count} outputs before, and {scores.shape[1]} for images of "
                    f"{wanted[1]}x{wanted[0]}: it is no network of segmentation"
                )
            if self._outputs == "probabilities":
                return scores.clamp(min=_LEAST_PROBABILITY).log_()
            return scores

    def _scores(self, images: Tensor) -> Tensor:
        """The file's own output, float32, checked."""
        normalised = shift_and_scale(images.clone(), self._mean, self._std)
        parts = torch.split(normalised, 1) if self._form.single else (normalised,)
        made = [self._run(part) for part in parts]
        for scores, part in zip(made, parts, strict=True):
            self._check(scores, part)
        return (made[0] if len(made) == 1 else torch.cat(made)).float()

    def _check(self, scores: Tensor, images: Tensor) -> None:
        told = f"{self._where} gives {str(scores.dtype).removeprefix('torch.')} {tuple(scores.shape)}"
        expected = f"expected logits of floating point ({len(images)}, labels, height, width)"
        if scores.ndim in (3, 4) and not scores.is_floating_point():
            raise CheckpointError(
                f"{told}, {expected}: that seems to be the best label rather than scores; export the network without "
                f"its argmax"
            )
        if scores.ndim != 4 or len(scores) != len(images) or not scores.is_floating_point() or not scores.numel():
            raise CheckpointError(f"{told} for {len(images)} images, {expected}; export the network's logits alone")
        if scores.shape[1] < 2:
            raise CheckpointError(
                f"{told}, {expected}: with one output there is nothing to choose between; export the logits of both "
                f"labels, as of background and object"
            )
        if scores.shape[1] > MAX_OUTPUTS:
            raise CheckpointError(f"{told}, {expected}: that are too many labels; are the axes in another order?")

    def _probe(self) -> Tensor:
        problem: Exception | None = None
        for size in self._form.probes():
            noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(self._how.device)
            try:
                scores, again = (self._scores(noise).nan_to_num() for _ in range(2))
            except (RuntimeError, ImageError) as error:
                problem = error
                continue
            if not torch.allclose(scores, again, rtol=0, atol=_SAME * float(scores.abs().max() + 1)):
                raise CheckpointError(
                    f"{self._where} gives other scores each time for the same image: it draws random numbers, or still "
                    f"learns; put it into evaluation mode, and export it after .eval()"
                )
            return scores
        raise CheckpointError(
            f"{self._where} cannot be run on an image of noise of {self._form.probes()[-1][1]} pixels: "
            f"{first_line(problem)}"
        ) from problem

    def _digest(self, content_digest: str) -> str:
        how = [_VERSION, self.labels, self._mean, self._std, self._outputs, self._how.native, self._how.precision]
        return hashlib.sha256(json.dumps([self.name, content_digest, how]).encode()).hexdigest()

    def _tell(self, notes: Notes, facts: Mapping[str, str]) -> dict[str, str]:
        def source(asked: object, noted: object) -> str:
            return "as asked" if asked is not None else ("as the file says" if noted is not None else "of ImageNet")

        known = {
            "labels": str(self._label_count),
            "outputs": f"{self._outputs}, {'as the file says' if notes.outputs else 'as a run on noise showed'}",
            "sizes": str(self._form) + (", one image at a time" if self._form.single else ""),
            "mean": f"{_numbers(self._mean)}, {source(self._how.mean, notes.mean)}",
            "std": f"{_numbers(self._std)}, {source(self._how.std, notes.std)}",
        }
        if self._form.is_fixed and not self._how.native:
            known["sizes"] += ", to which images are stretched"
        if notes.remark is not None:
            known["remark"] = notes.remark
        return {**facts, **known}


def _are_probabilities(scores: Tensor) -> bool:
    """Whether scores (batch, label, h, w) are probabilities of the labels rather than logits."""
    sums = scores.sum(dim=1)
    return bool((scores >= 0).all() and ((sums - 1).abs() <= _SUM_TOLERANCE).all())


def _numbers(values: Colours) -> str:
    return " ".join(f"{value:g}" for value in values)
