"""Teachers from transformers: models of semantic segmentation with their own processors.

A model is a directory, or a commit on the hub. Logits at scale 1 are those of the library's own pipeline. No code that
comes with a model is run, only safetensors are read as weights, and from a directory nothing touches the network.

Models that classify masks (Mask2Former, MaskFormer, OneFormer, EoMT) give no logits per pixel. What they give is turned
into the scores that the library labels by, the sum over masks of class probability times mask probability, and the
logarithm of each score's share in the sum over all labels stands for its logit. The best label stays the best. The
softmax is the share and no calibrated probability: where no mask is sure, a share can be high all the same. Thresholds
for such a teacher have to be calibrated.
"""

from typing import Any

import torch
from torch import Tensor

from storage.errors import CheckpointError, ImageError, SettingsError
from storage.out_of_memory import is_out_of_memory
from teacher.foreign.contract import ForeignModel, ModelSettings
from teacher.foreign.hf_files import CONFIG, files_digest, read_json, read_processor, shown, weight_files
from teacher.foreign.hf_loading import LoadedNetwork, load_network, quiet
from teacher.foreign.hf_processing import Prepared, Processing, open_processor
from teacher.foreign.hf_shapes import cut_map, shape_of
from teacher.foreign.hf_source import Source, find_source, library
from teacher.foreign.hf_task import task_tokens

LEAST_SHARE = 1e-6
"""Added to each share of a mask classification: shares of nothing get a logarithm, and one that an average over scales
and an interpolation between pixels can outweigh."""
_LEAST_SUM = 1e-30


def open_hugging_face(where: str, how: ModelSettings) -> ForeignModel:
    """Open a model of transformers.

    Args:
        where: a directory with `config.json`, `preprocessor_config.json` and `model.safetensors` (or its parts), which
            is read offline; or `NAME@REVISION`, a model on the hub and the full hash of a commit, which is fetched
            unless the cache of huggingface_hub has it.
        how: device, precision, and what is to be other than its files say.

    Raises:
        MissingFileError: files are missing, or cannot be fetched.
        CheckpointError: it is no model of semantic segmentation, wants code of its own, or its files do not fit.
        SettingsError: transformers is not installed, a name has no commit, or settings contradict the model.
    """
    source = find_source(where)
    library("transformers")
    config_path = source.directory / CONFIG
    settings = read_processor(source.directory)
    network = load_network(source, how.device, how.precision)
    if how.labels is not None and len(how.labels) != network.outputs:
        raise SettingsError(
            f"{source.name} has {network.outputs} outputs, got {len(how.labels)} names of labels: give one a line, in "
            f"the order of its outputs"
        )
    processor = open_processor(settings, network.config, source.name)
    processing = Processing(processor, shape_of(network.settings), how, source.name)
    task = task_tokens(source, network)
    digest = files_digest(
        {
            "config": read_json(config_path),
            "processor": settings,
            "native": how.native,
            "mean": how.mean,
            "std": how.std,
            "task": None if task is None else task.tolist(),
        },
        weight_files(source.directory),
    )
    return HuggingFaceModel(source, network, processing, how, digest, task)


class HuggingFaceModel:
    """A network of transformers with its processor, as `open_hugging_face` makes it; a `ForeignModel`."""

    def __init__(
        self,
        source: Source,
        network: LoadedNetwork,
        processing: Processing,
        how: ModelSettings,
        digest: str,
        task: Tensor | None = None,
    ) -> None:
        self._source = source
        self._network = network
        self._processing = processing
        self._labels = how.labels or network.labels
        self._digest = digest
        self._task = None if task is None else task.to(how.device)
        tensors = [*network.module.parameters(), *network.module.buffers()]
        self._weight_bytes = sum(tensor.nbytes for tensor in tensors)
        self._dtype = next(network.module.parameters()).dtype

    @property
    def name(self) -> str:
        """The class of transformers."""
        return self._network.architecture

    @property
    def digest(self) -> str:
        """Hash of settings, processing and weights; hexadecimal sha256."""
        return self._digest

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the outputs: those that were given, else those of `id2label`; None: place holders only."""
        return self._labels

    @property
    def weight_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        return self._weight_bytes

    def facts(self) -> dict[str, str]:
        """Source, revision, architecture, processing, parameters and licence, for people; partly text of others."""
        size, colours = self._processing.size, self._processing.colours
        edges = ", ".join(f"{key} {value}" for key, value in size.items()) if size else "the image's own"
        licence = self._source.licence() or self._network.config.get("license")
        return {
            "architecture": self.name,
            "source": shown(self._source.name),
            "revision": self._source.revision or "none: a directory",
            "outputs": str(self._network.outputs),
            "parameters": f"{sum(weight.numel() for weight in self._network.module.parameters()):,}",
            "input size": edges,
            "mean": " ".join(f"{value:g}" for value in colours[0]) if colours else "not normalised",
            "std": " ".join(f"{value:g}" for value in colours[1]) if colours else "not normalised",
            "licence": shown(licence, 60) if licence else "not said",
            "transformers": shown(library("transformers").__version__),
        }

    def __call__(self, images: Tensor, scale: float, /) -> Tensor:
        """Predict; see `ForeignModel`.

        Args:
            images: RGB in [0, 1], (batch, 3, height, width), float32, on the device; already at the scale.
            scale: their size relative to that of the images they come from.

        Returns:
            Logits (batch, label, h, w), float32; of models that classify masks, logarithms of shares.

        Raises:
            ImageError: the model does not take images of this size.
            CheckpointError: it does not give what its settings promise.
        """
        prepared = self._processing.prepare(images, scale)
        output = self._forward(prepared)
        if getattr(output, "logits", None) is not None:
            scores = cut_map(output.logits.float(), prepared.region)
        else:
            scores = self._mask_scores(output, prepared, images.shape[-2:])
            scores = (scores / scores.sum(1, keepdim=True).clamp_min(_LEAST_SUM) + LEAST_SHARE).log()
        expected = (len(images), self._network.outputs)
        if scores.ndim != 4 or tuple(scores.shape[:2]) != expected:
            raise CheckpointError(
                f"{self._source.name} gives {tuple(scores.shape)}, expected {expected[1]} outputs for each of "
                f"{expected[0]} images, as {CONFIG} says"
            )
        return scores

    def _forward(self, prepared: Prepared) -> Any:  # noqa: ANN401 - an output of transformers
        inputs = dict(prepared.inputs)
        pixels = inputs["pixel_values"]
        inputs["pixel_values"] = pixels.to(self._dtype)
        if self._task is not None:
            inputs["task_inputs"] = self._task.expand(len(pixels), -1)
        try:
            with quiet():
                output = self._network.module(**inputs)
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error) or isinstance(error, NotImplementedError) or "CUDA error" in str(error):
                raise
            height, width = pixels.shape[-2:]
            raise ImageError(
                f"{self._source.name}, a {self.name}, does not take images of {width}x{height}: {shown(error)}; give "
                f"scale 1 alone, or images of another size"
            ) from error
        logits = getattr(output, "logits", None)
        cells = (output.masks_queries_logits if logits is None else logits).shape[-2:]
        if not self._processing.shape.covers(*cells, *pixels.shape[-2:]):
            raise ImageError(
                f"{self._source.name}, a {self.name}, gives a map of {cells[1]}x{cells[0]} for an image of "
                f"{pixels.shape[-1]}x{pixels.shape[-2]}, so it takes images of another size only: give scale 1 alone"
            )
        return output

    def _mask_scores(self, output: Any, prepared: Prepared, size: torch.Size) -> Tensor:  # noqa: ANN401 - as above
        """Scores (batch, label, h, w) of a mask classification, at the size of its masks, or of what was split."""
        classes, masks = output.class_queries_logits.float(), output.masks_queries_logits.float()
        if prepared.offsets is not None:
            # Parts overlap by pixels, so they are joined at the size of the pixels.
            parts = prepared.inputs["pixel_values"].shape[-2:]
            masks = torch.nn.functional.interpolate(masks, size=parts, mode="bilinear")
        scores = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())
        if prepared.offsets is not None:
            return self._processing.merge(scores, prepared.offsets, *size)
        return cut_map(scores, prepared.region)
