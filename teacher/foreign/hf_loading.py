"""A network of transformers from a directory's settings and weights: whole, or refused with the reason.

Settings become an object of transformers only after all is taken out of them that could fetch, choose other code or
read other files. Weights are read here and handed over as tensors, so transformers itself opens no file of the model's.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import AutocoarseError, CheckpointError
from teacher.foreign.hf_files import CONFIG, Config, labels_of, read_json, shown, weight_files
from teacher.foreign.hf_source import Source, library
from teacher.precision import DTYPES, Precision
from teacher.weights import StateDict, list_some, read_content

_OTHER_WORK = {"detr", "videomt"}
"""Of the types that transformers counts as semantic or universal: boxes with masks, and video."""
_LEFT_OUT = frozenset(
    # what chooses kernels from the hub, other files, other data types, other forms of output, or training
    {
        "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation",
        "_experts_implementation", "_experts_implementation_internal", "fusion_config", "use_kernels", "kernel_config",
        "transformers_weights", "gguf_file", "_name_or_path", "name_or_path", "_commit_hash", "device_map", "tp_plan",
        "distributed_config", "torchscript", "dtype", "torch_dtype", "return_dict", "use_return_dict",
        "output_attentions", "output_hidden_states", "backbone_kwargs", "use_pretrained_backbone",
        "use_timm_backbone",
        "is_training",
    }
)  # fmt: skip
_DECODER = "decoder_config"
"""MaskFormer's: settings of a whole DETR, with the name of a backbone that is not built."""
_HARMLESS = re.compile(
    # heads for training alone, and counters and tables that older versions saved and the network makes itself
    r"(^|\.)(auxiliary_head|criterion|pooler|num_batches_tracked|relative_position_index|position_ids|mask_token|"
    r"text_encoder|text_projector|prompt_ctx)(\.|$)"
)
_UNUSED = re.compile(r"num_batches_tracked$|^neck\.fusion_stage\.layers\.0\.residual_layer1\.")
"""What no prediction reads: counters, and DPT's first residual, which has nothing to add."""


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network with its weights, ready to predict."""

    module: nn.Module
    architecture: str
    config: Config
    """As the file says."""
    settings: Config
    """With all that transformers adds to it."""
    outputs: int
    labels: tuple[str, ...] | None


def load_network(source: Source, device: torch.device, precision: Precision) -> LoadedNetwork:
    """Build a network and give it its weights.

    Args:
        source: its directory.
        device: where it is to be.
        precision: of its weights.

    Raises:
        MissingFileError: settings or weights are missing.
        CheckpointError: it is no semantic model that transformers knows, wants code of its own, or its weights do not
            fit.
        SettingsError: transformers is not installed.
    """
    path = source.directory / CONFIG
    config = read_json(path)
    outputs, labels = labels_of(config, path)
    files = weight_files(source.directory)
    transformers = library("transformers")
    architecture = _architecture(config, str(path))
    cleaned = _cleaned(config, str(path))
    with quiet(), explained(f"{path}: transformers {transformers.__version__} cannot build a {architecture} from it"):
        network_class = getattr(transformers, architecture)
        settings = network_class.config_class.from_dict(cleaned)
        with torch.device("meta"):
            needed = sum(weight.numel() for weight in network_class(settings).parameters())
    weights: StateDict = {}
    for file in files:
        weights.update(read_content(file))
    _check_amount(needed, weights, source)
    dtype = DTYPES[precision]
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    with quiet(), explained(f"{source.name}: its weights do not fit a {architecture}"):
        module, report = network_class.from_pretrained(
            None,
            config=settings,
            state_dict=weights,
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
        )
    _check_fit(report, weights, source, architecture)
    # Its data type is that of its weights already; what transformers keeps more exactly, as angles, stays so.
    module = module.eval().requires_grad_(requires_grad=False).to(device)
    _check_chance(module, source)
    return LoadedNetwork(module, architecture, config, settings.to_dict(), outputs, labels)


def _architecture(config: Config, path: str) -> str:
    """The network's class, if it is one of semantic segmentation.

    Raises:
        CheckpointError: it is another, or none is named.
    """
    names = library("transformers.models.auto.modeling_auto")
    accepted = {
        **names.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        **names.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    }
    accepted = {kind: name for kind, name in accepted.items() if kind not in _OTHER_WORK}
    kind, named = config.get("model_type"), config.get("architectures")
    architecture = named[0] if isinstance(named, list) and len(named) == 1 else None
    if not isinstance(kind, str) or accepted.get(kind) != architecture or architecture is None:
        raise CheckpointError(
            f"{path}: is a {shown(architecture or named, 60)} of type {shown(kind, 40)}, expected a model of semantic "
            f"segmentation: {', '.join(sorted(set(accepted.values())))}"
        )
    return str(architecture)


def _cleaned(config: Config, path: str) -> Config:
    """Settings without all that would fetch anything or choose other code; those of backbones too.

    Raises:
        CheckpointError: the model is quantised, or its backbone is kept elsewhere.
    """
    if config.get("quantization_config"):
        raise CheckpointError(f"{path}: its weights are quantised; take the model in fp32, bf16 or fp16")
    kind, backbone = config.get("model_type"), config.get("backbone")
    cleaned = {
        key: _cleaned(_without_backbone(value) if key == _DECODER else value, path)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
        if key not in _LEFT_OUT
    }
    if kind == "timm_wrapper":
        raise CheckpointError(f"{path}: is, or has, a timm_wrapper, which can name other files; not supported")
    if kind == "timm_backbone":
        if not isinstance(backbone, str) or not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", backbone):
            raise CheckpointError(
                f"{path}: its backbone is {shown(backbone, 60)!r}, expected the name of a timm network"
            )
        cleaned["use_pretrained_backbone"] = False
    elif backbone is not None:
        if not isinstance(config.get("backbone_config"), dict):
            raise CheckpointError(
                f"{path}: its backbone is {shown(backbone, 60)!r}, whose settings would have to be fetched from "
                f"elsewhere; load the model where there is a network and save it again by save_pretrained, which "
                f"writes them as backbone_config"
            )
        del cleaned["backbone"]
    return cleaned


def _without_backbone(decoder: Config) -> Config:
    return {key: value for key, value in decoder.items() if key != "backbone"}


def _check_amount(needed: int, weights: StateDict, source: Source) -> None:
    # Before the network is made for good, as what its file lacks would be memory filled by chance. What is not used, or
    # has two names, may be absent.
    held = sum(value.numel() for value in weights.values())
    if held < needed / 2:
        raise CheckpointError(
            f"{source.name}: {CONFIG} describes a network of {needed} weights, and the files hold {held}; they do not "
            f"belong together"
        )


def _check_fit(report: dict[str, Any], weights: StateDict, source: Source, architecture: str) -> None:
    """Refuse weights that are not the network's.

    Raises:
        CheckpointError: entries are missing, and transformers has filled them by chance; or unknown, or misshapen.
    """
    missing = sorted(name for name in report["missing_keys"] if not _UNUSED.search(name))
    unknown = sorted(
        name
        for name in report["unexpected_keys"]
        if not _HARMLESS.search(name) and (name not in weights or weights[name].is_floating_point())
    )
    misshapen = sorted(str(entry[0]) for entry in report["mismatched_keys"])
    problems = [
        f"{len(names)} {kind}: {shown(list_some(names), 400)}"
        for kind, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source.name}: its weights do not fit a {architecture} with the settings of {CONFIG}. "
            f"{'; '.join(problems)}. Files of two models may be mixed; copy all of them from one place"
        )


def _check_chance(module: nn.Module, source: Source) -> None:
    # EoMT drops its mask attention by chance while it is phased out in training, and in transformers at prediction too.
    shares = getattr(module, "attn_mask_probs", None)
    if isinstance(shares, Tensor) and not bool(((shares == 0) | (shares == 1)).all()):
        raise CheckpointError(
            f"{source.name}: attn_mask_probs is {shares.tolist()}, so its predictions are partly chance; expected 0 or "
            f"1, as a finished training leaves it"
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever a library makes of other people's settings into our error.

    Raises:
        CheckpointError: `what`, and the library's reason.
    """
    try:
        yield
    except (AutocoarseError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # settings of others can make a library raise nearly anything
        raise CheckpointError(f"{what}: {type(error).__name__}: {shown(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and what it calls from writing to the terminal, and leave its settings as they were."""
    log = library("transformers").utils.logging
    root = logging.getLogger("transformers")
    level, bars, hub = root.level, log.is_progress_bar_enabled(), library("huggingface_hub").utils
    hub_bars = not hub.are_progress_bars_disabled()
    root.setLevel(logging.CRITICAL + 1)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        if bars:
            log.enable_progress_bar()
        if bars and not hub_bars:
            hub.disable_progress_bars()
