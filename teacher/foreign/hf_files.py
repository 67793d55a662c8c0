"""The files of a transformers model, read as text of people whom nobody knows: bounded, checked, never run.

Knows no network and does not import transformers.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from storage.errors import CheckpointError, MissingFileError, SettingsError
from storage.model_labels import MAX_LABELS, are_placeholders, labels_of_config

Config = dict[str, Any]

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
COMBINED = "processor_config.json"
"""May hold the image processor's settings among those of others."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MAX_BYTES = 8 << 20
_MAX_ENTRIES = 100_000
_MAX_NUMBER = 10_000_000
_MAX_DEPTH = 1_000
"""More layers or blocks than this are no network."""
_MAX_NAME = 200
_DEEP = re.compile(r"layers|depth|blocks|stages|num_stacks")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


def shown(text: object, limit: int = _MAX_NAME) -> str:
    """The first line of a text of others, for a message or a table: no control characters, shortened."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text).strip().partition("\n")[0])
    return line if len(line) <= limit else line[: limit - 3] + "..."


def read_json(path: Path, *, numbers: bool = True) -> Config:
    """Read a file of settings and check that it is one.

    Args:
        path: of the file.
        numbers: whether its numbers are a network's, and so have bounds.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is too large, no JSON object, names code of its own, or holds numbers that are none of a
            network's.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing; copy it from where the model comes from")
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; no settings of a model are")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a JSON object")
        _check(content, path, "", numbers=numbers)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is no JSON: {shown(error)}; it is damaged") from error
    return content


def _check(value: object, path: Path, key: str, *, numbers: bool) -> None:
    """Refuse what would run code, never end, or fill the memory once a network is built from it."""
    if isinstance(value, dict):
        if value.get("auto_map"):
            raise CheckpointError(
                f"{path}: has auto_map, so it wants code of its own to be run ({shown(value['auto_map'], 100)}). "
                f"autocoarse runs no code that comes with a model; take a model that transformers itself knows, or "
                f"export this one and give it as onnx:FILE or exported:FILE"
            )
        for name, inner in value.items():
            _check(inner, path, str(name), numbers=numbers)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, path, key, numbers=numbers)
    if isinstance(value, dict | list) and len(value) > _MAX_ENTRIES:
        raise CheckpointError(f"{path}: {shown(key)} has {len(value)} entries; no model has")
    if not numbers or isinstance(value, bool) or not isinstance(value, int | float):
        return
    limit = _MAX_DEPTH if isinstance(value, int) and _DEEP.search(key) else _MAX_NUMBER
    if not math.isfinite(value) or (isinstance(value, int) and abs(value) > limit):
        raise CheckpointError(f"{path}: {shown(key)} is {shown(value, 30)}, expected at most {limit}")


def read_processor(directory: Path) -> Config:
    """The image processor's settings.

    Raises:
        MissingFileError: there are none.
        CheckpointError: as `read_json`.
    """
    if (directory / COMBINED).is_file():
        combined = read_json(directory / COMBINED)
        if isinstance(combined.get("image_processor"), dict):
            return dict(combined["image_processor"])
    if not (directory / PROCESSOR).is_file():
        raise MissingFileError(
            f"{directory} has no {PROCESSOR}, which says how images are prepared for the model; copy it from where the "
            f"model comes from"
        )
    return read_json(directory / PROCESSOR)


def weight_files(directory: Path) -> list[Path]:
    """The files of weights, in order: one, or those of an index.

    Raises:
        MissingFileError: there are none, or some are missing.
        CheckpointError: there are only pickles, or the index names files elsewhere.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        parts = read_json(directory / INDEX, numbers=False).get("weight_map")
        names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
        if not names or any(not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name) for name in names):
            raise CheckpointError(
                f"{directory / INDEX}: expected a weight_map onto safetensors files beside it, got {shown(names, 100)}"
            )
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise MissingFileError(f"{directory}: {missing[0]}, which {INDEX} names, is missing; copy it there")
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory}: has its weights only as {shown(pickles[0], 60)}, a format that can run code; expected "
            f"{WEIGHTS}. Where you trust the file, load it by transformers' from_pretrained and call "
            f"save_pretrained(NEW_DIR), which writes safetensors; then give hf:NEW_DIR"
        )
    raise MissingFileError(f"{directory} has no {WEIGHTS}; expected the weights as safetensors")


def labels_of(config: Config, path: Path) -> tuple[int, tuple[str, ...] | None]:
    """How many outputs a model has, and their names where its settings have any.

    Args:
        config: as `read_json` gives it.
        path: of it, for messages.

    Returns:
        The number, and the names in order; None where there are only place holders (LABEL_0).

    Raises:
        CheckpointError: the numbers do not run from 0, are too many, or a name is none.
    """
    table = config.get("id2label")
    if not isinstance(table, dict) or not table:
        count = config.get("num_labels", 2)  # what transformers takes where nothing is said
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_LABELS:
            raise CheckpointError(f"{path}: num_labels is {shown(count, 30)}, expected 1 to {MAX_LABELS}")
        return count, None
    try:
        names = labels_of_config(config, str(path))
    except SettingsError as error:
        raise CheckpointError(str(error)) from error
    return len(names), None if are_placeholders(names) else names


def files_digest(settings: Config, files: list[Path]) -> str:
    """Hash what a model is made of: sha256 over settings in canonical JSON and the bytes of files, in order."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
