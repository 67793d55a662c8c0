"""The words by which OneFormer is told what to do, as the numbers that it takes for them."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from storage.errors import CheckpointError, MissingFileError
from teacher.foreign.hf_loading import LoadedNetwork, explained, quiet
from teacher.foreign.hf_source import Source, library

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_WORDS = "the task is semantic"
_MAX_BYTES = 16 << 20


def task_tokens(source: Source, network: LoadedNetwork) -> Tensor | None:
    """The task of semantic segmentation, for a network that wants to be told.

    Args:
        source: of the network; its tokenizer's files are read, as data.
        network: as loaded.

    Returns:
        Numbers of tokens, 0 where there are none, (1, length), int64; None: the network knows its one task.

    Raises:
        MissingFileError: it has to be told, and there are no files of a tokenizer.
        CheckpointError: they are too large, or none of a tokenizer.
    """
    if network.config.get("model_type") != "oneformer":
        return None
    files = [source.directory / name for name in TOKENIZER_FILES if (source.directory / name).is_file()]
    if not files:
        raise MissingFileError(
            f"{source.directory} has no tokenizer.json, nor vocab.json with merges.txt, by which a "
            f"{network.architecture} is told its task; copy them from where the model comes from"
        )
    if any(file.stat().st_size > _MAX_BYTES for file in files):
        raise CheckpointError(f"{source.directory}: its tokenizer is larger than {_MAX_BYTES >> 20} MiB; none is")
    transformers = library("transformers")
    with quiet(), explained(f"{source.name}: its tokenizer is none of CLIP's"), tempfile.TemporaryDirectory() as folder:
        for file in files:
            shutil.copyfile(file, Path(folder) / file.name)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        length = int(network.settings["task_seq_len"])
        tokens = tokenizer([_WORDS], padding="max_length", max_length=length, truncation=True)
        return torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])
