"""The judgement of a network that is given as a checkpoint, kept so that it is made once.

What the scores are is in `evaluation`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.evaluation import EvaluationProgress, evaluate_network
from pipeline.samples import collect_samples, fingerprint_files
from pipeline.scores import Scores
from storage.errors import MissingFileError
from storage.json_text import parse_json
from storage.layouts import Layout
from storage.object_io import file_digest
from storage.schema import Ids, load_schema
from storage.workspace import write_atomically
from teacher import load_teacher
from teacher.precision import Precision

SCORES_RULE = 2
"""Version of the way scores are computed; raised when the same pixels would give other figures."""


def judge_checkpoint(
    checkpoint: Path,
    images: Path,
    truth: Path,
    cache: Path,
    *,
    classes: str,
    layout: Layout = "folder",
    ids: Ids | None = None,
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    threshold: float = 0,
    device: str = "auto",
    precision: Precision = "fp32",
    allow_training_images: bool = False,
) -> Iterator[EvaluationProgress | Scores]:
    """Judge a checkpoint's network, or find that it has been judged in the same way.

    Args:
        checkpoint: of the network, or a description of a teacher.
        images: image folder.
        truth: label folder of the ground truth.
        cache: file that keeps the scores; its folder is made where it is missing.
        classes: a class schema's name or file; the network's must be the same.
        layout: how the folders lie on disk.
        ids: what the truth's values are.
        scales: at which it predicts; 1.0 is among them.
        threshold: only what it is surer of is a prediction; in [0, 1).
        device: where it is computed.
        precision: of the network.
        allow_training_images: judge also on images that the network was trained on.

    Yields:
        Progress after each image, if there is anything to do; at last the scores.

    Raises:
        MissingFileError: there is no such checkpoint.
        AutocoarseError: as `evaluate_network` does.
    """
    if not checkpoint.is_file():
        raise MissingFileError(f"no checkpoint {checkpoint}; give the path of one, or of a description")
    schema = load_schema(classes)
    load = partial(load_teacher, checkpoint, schema=schema, device=device, precision=precision)
    # what a description refers to may be another by now
    described = load() if checkpoint.suffix == ".toml" else None
    how = {
        "scores": SCORES_RULE,
        "network": file_digest(checkpoint) if described is None else described.digest,
        "classes": schema.digest,
        "files": fingerprint_files(collect_samples(images, truth, "fine", layout, ids, partial=True).samples),
        "ids": ids,
        "scales": list(scales),
        "threshold": threshold,
        "precision": precision,
        "allow_training_images": allow_training_images,  # what was allowed once must not be taken for allowed
    }
    if (known := _known(cache, how)) is not None:
        yield known
        return
    judge = partial(evaluate_network, threshold=threshold, allow_training_images=allow_training_images)
    yield from _judge_anew(judge(described or load(), images, truth, scales, layout, ids), cache, how)


def _judge_anew(
    evaluation: Iterator[EvaluationProgress], cache: Path, how: dict[str, Any]
) -> Iterator[EvaluationProgress | Scores]:
    progress = None
    for progress in evaluation:
        yield progress
    assert progress is not None, "an evaluation of nothing is an error"
    scores = progress.scores()
    cache.parent.mkdir(exist_ok=True)
    write_atomically(cache, json.dumps({"judged": how, "scores": asdict(scores)}, indent=1).encode())
    yield scores


def _known(cache: Path, how: dict[str, Any]) -> Scores | None:
    try:
        content = parse_json(cache.read_text("utf-8"))
        return Scores(**content["scores"]) if content["judged"] == how else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there yet, or damaged: it is judged again
