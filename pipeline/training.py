"""Training of a student, or of a teacher: from fine labels, and from auto and coarse ones where there are any.

It reports progress as an iterator and prints nothing. What is drawn is decided in `sampling`, what is minimised in
`losses`.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from pipeline.evaluation import Scores, evaluate_network
from pipeline.samples import Sample, collect_samples
from pipeline.sampling import CropDataset, CropSampler, SampleIndex, build_index, stack_crops
from pipeline.settings import settings_digest
from pipeline.training_settings import TrainSettings
from pipeline.training_state import TrainingFolder
from pipeline.training_step import Trainer
from storage.errors import AutocoarseError, SettingsError, TrainingError
from storage.ledger import file_digest
from storage.schema import IGNORE, ClassSchema, load_schema
from storage.workspace import Workspace
from teacher import load_teacher
from teacher.checkpoint import save_checkpoint
from teacher.inference import find_device
from teacher.networks.registry import NetworkSpec, default_spec

SAVE_SECONDS = 120
"""A state is saved after this long even if `checkpoint_every` steps are not done: what a stop costs at most."""

LOG_EVERY = 10
"""Steps between two lines of the log; their loss is the mean over these steps."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run ends with."""

    checkpoint: Path
    steps: int
    seconds: float
    """Spent on the steps, over all the runs that it took."""
    scores: Scores | None
    """On the validation set, if there is one."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training run is."""

    phase: Literal["reading", "training", "validating", "finished"]
    done: int
    """Labels read, steps taken or images validated, of `total`."""
    total: int
    loss: float | None = None
    """Mean over the steps since the last line of the log; of the training phase, like the following."""
    crops_per_second: float | None = None
    labelled: float | None = None
    """Share of the crops' pixels that have a label, in [0, 1]."""
    message: str = ""
    """What someone who waits should know, once: that an earlier run is taken up again."""
    warning: str = ""
    """What someone may want to mend, once: a class without pixels, images without a label."""
    result: TrainResult | None = None
    """With phase "finished", the last one."""


def train(settings: TrainSettings) -> Iterator[TrainProgress]:
    """Train a network, or go on with a run that was stopped, or find it finished.

    Writes `checkpoint.pt`, `settings.toml`, `log.jsonl`, `metrics.json` and `training_state.pt` into the run's folder.
    On a CPU the weights come out bit for bit the same, however often the run was stopped.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the result.

    Raises:
        SettingsError: the settings contradict each other or the machine.
        MissingFileError, SchemaError, LayoutError: what to learn from is not there.
        ImageError, LabelError: an image or a label cannot be used.
        CheckpointError: the encoder weights do not fit, or a saved state is damaged.
        ForeignSettingsError: the folder holds a run with other settings, or made from other labels.
        WorkspaceError: the folder cannot be written, or another process has it.
    """
    device = find_device(settings.device)
    if settings.precision == "fp16" and device.type != "cuda":
        raise SettingsError("precision is fp16 and the device cpu, where its small gradients vanish; use bf16 or fp32")
    schema = load_schema(settings.classes)
    spec = default_spec(settings.network, len(schema), settings.encoder)
    samples, warnings = _collect(settings)
    lock = Workspace(settings.out).lock()
    try:
        for warning in warnings:
            yield TrainProgress("reading", 0, len(samples), warning=warning)
        index = yield from _index(samples, schema)
        folder = TrainingFolder(settings.out)
        trainer, seconds = yield from _train(settings, folder, schema, spec, index, device)
        yield from _finish(settings, folder, schema, spec, index, trainer, seconds)
    finally:
        lock.release()


def _collect(settings: TrainSettings) -> tuple[list[Sample], list[str]]:
    """The samples of all kinds, and what is worth saying about them."""
    samples: list[Sample] = []
    warnings = []
    for kind in ("fine", "auto", "coarse"):
        images, labels = getattr(settings, f"{kind}_images"), getattr(settings, f"{kind}_labels")
        if images is None:
            continue
        collection = collect_samples(images, labels, kind, settings.layout, settings.ids, partial=kind != "fine")
        samples += collection.samples
        if left_out := len(collection.images_without_label):
            warnings.append(f"{left_out} images of {images} have no {kind} label and are left out")
    if settings.val_images is not None and settings.val_labels is not None:
        # A wrong path must be known now, not after hours of training.
        collect_samples(settings.val_images, settings.val_labels, "fine", settings.layout, settings.ids, partial=True)
    return samples, warnings


def _index(samples: Sequence[Sample], schema: ClassSchema) -> Generator[TrainProgress, None, SampleIndex]:
    index = None
    for progress in build_index(samples, schema):
        index = progress.index
        yield TrainProgress("reading", progress.done, progress.total)
    assert index is not None, "the last progress has the index"
    if absent := index.absent_classes(schema):
        warning = f"no label has a pixel of {', '.join(absent)}: the network cannot learn it"
        yield TrainProgress("reading", len(samples), len(samples), warning=warning)
    return index


def _decisive_settings(settings: TrainSettings, schema: ClassSchema, index: SampleIndex) -> dict[str, Any]:
    """What decides the weights: settings, and the content of what they name."""
    weights = settings.encoder_weights
    return {
        **settings.decisive(),
        "classes": list(schema.names),
        "samples": index.digest,
        "encoder_weights": None if weights is None else file_digest(weights)[:16],
    }


def _resume(
    settings: TrainSettings, folder: TrainingFolder, decisive: dict[str, Any], trainer: Trainer
) -> Generator[TrainProgress, None, float]:
    """Bring the folder and the trainer to where an earlier run stopped; returns the seconds it took."""
    state = folder.load_state(decisive)
    settings.write(folder.settings, "train")
    if state is None:
        folder.rewind_log(0)
        return 0.0
    trainer.load_state(state)
    folder.rewind_log(trainer.step)
    how = "is finished" if trainer.step == settings.steps else "goes on"
    message = f"the run in {folder.root} {how} at step {trainer.step} of {settings.steps}"
    yield TrainProgress("training", trainer.step, settings.steps, message=message)
    return float(state["seconds"])


def _train(
    settings: TrainSettings,
    folder: TrainingFolder,
    schema: ClassSchema,
    spec: NetworkSpec,
    index: SampleIndex,
    device: torch.device,
) -> Generator[TrainProgress, None, tuple[Trainer, float]]:
    """Take the steps that are left; returns the trained network and the seconds that all steps took."""
    trainer = Trainer(settings, spec, device)
    decisive = _decisive_settings(settings, schema, index)
    seconds = yield from _resume(settings, folder, decisive, trainer)
    totals, count = torch.zeros(2, device=device), 0  # on the device: asking for a number would wait for it
    started = saved = time.perf_counter()
    for images, target in _batches(settings, schema, index, trainer.step, device):
        totals += torch.stack([trainer.update(images, target), (target != IGNORE).float().mean().to(device)])
        count += 1
        save = trainer.step % settings.checkpoint_every == 0 or trainer.step == settings.steps
        if not save and trainer.step % LOG_EVERY:
            yield TrainProgress("training", trainer.step, settings.steps)
            continue
        save = save or time.perf_counter() - saved > SAVE_SECONDS
        loss, labelled = (totals / count).tolist()
        elapsed = time.perf_counter() - started
        seconds += elapsed
        speed = count * settings.batch / elapsed
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {trainer.step}: training diverged; lower the learning rate "
                f"({settings.learning_rate}) and choose another --out"
            )
        folder.append_log({"step": trainer.step, "loss": loss, "labelled": labelled, "crops_per_second": speed})
        if save:
            folder.save_state({**trainer.state(), "settings": decisive, "seconds": seconds})
            saved = time.perf_counter()
        yield TrainProgress("training", trainer.step, settings.steps, loss, speed, labelled)
        totals.zero_()
        count, started = 0, time.perf_counter()
    return trainer, seconds


def _batches(
    settings: TrainSettings, schema: ClassSchema, index: SampleIndex, start: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the steps that are left."""
    sampler = CropSampler(index, settings.class_uniform, settings.fine_share)
    total = settings.steps * settings.batch
    crops = CropDataset(index, schema, sampler, settings.crop, settings.seed, total)
    left = Subset(crops, range(start * settings.batch, total))
    loader = DataLoader(
        left,
        settings.batch,
        num_workers=min(_reading_processes(settings.workers), settings.steps - start),
        collate_fn=stack_crops,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader draws from the global one otherwise
    )
    for batch in loader:
        if isinstance(batch, AutocoarseError):
            raise batch
        yield batch


def _reading_processes(wanted: int | None) -> int:
    """As many as wanted, or enough to feed a device without taking all processors from a network on the CPU."""
    if wanted is not None:
        return wanted
    # a container or a batch system often allows fewer processors than the machine has
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(allowed - 1, 1), 8)


def _finish(
    settings: TrainSettings,
    folder: TrainingFolder,
    schema: ClassSchema,
    spec: NetworkSpec,
    index: SampleIndex,
    trainer: Trainer,
    seconds: float,
) -> Iterator[TrainProgress]:
    """Write the checkpoint and validate it, unless an earlier run has done so in the same way."""
    if not folder.checkpoint.is_file():
        record = {
            "steps": settings.steps,
            "seed": settings.seed,
            "settings": settings_digest(_decisive_settings(settings, schema, index)),
            "samples": dict(Counter(sample.kind for sample in index.samples)),
        }
        save_checkpoint(folder.checkpoint, trainer.network, spec, schema, record)
    how = settings.model_dump(mode="json", include={"val_images", "val_labels", "scales", "layout", "ids"})
    metrics = folder.load_metrics()
    if metrics is None or metrics["validated"] != how:
        scores = yield from _validate(settings, folder, schema)
        validation = None if scores is None else asdict(scores)
        metrics = {"steps": settings.steps, "seconds": seconds, "validated": how, "validation": validation}
        folder.save_metrics(metrics)
    validation = metrics["validation"]
    scores = None if validation is None else Scores(**validation)
    result = TrainResult(folder.checkpoint, settings.steps, seconds, scores)
    yield TrainProgress("finished", settings.steps, settings.steps, result=result)


def _validate(
    settings: TrainSettings, folder: TrainingFolder, schema: ClassSchema
) -> Generator[TrainProgress, None, Scores | None]:
    if settings.val_images is None or settings.val_labels is None:
        return None
    teacher = load_teacher(folder.checkpoint, schema=schema, device=settings.device, precision=settings.precision)
    progress = None
    for progress in evaluate_network(
        teacher, settings.val_images, settings.val_labels, settings.scales, settings.layout, settings.ids
    ):
        yield TrainProgress("validating", progress.done, progress.total)
    assert progress is not None, "an evaluation of nothing is an error"
    return progress.scores()
