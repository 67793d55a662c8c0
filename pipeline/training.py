"""Training of a student, or of a teacher: from fine labels, and from auto and coarse ones where there are any.

It reports progress as an iterator and prints nothing. What is drawn is decided in `sampling`, what is minimised in
`losses`, the steps are taken in `training_run`, and the processes are started in `distributed`.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from lightning_fabric import Fabric

from pipeline.absent_classes import name_few, warn_of_absent
from pipeline.distributed import is_first_process, run_in_processes
from pipeline.gate import Gate, check_run
from pipeline.guard import refuse_trained_images
from pipeline.memory import keep_freed_memory
from pipeline.sample_index import SampleIndex, build_index, refuse_other_file
from pipeline.samples import Sample
from pipeline.training_data import TrainingData, collect, decisive_settings, known_images, make_sampler
from pipeline.training_plan import plan_training
from pipeline.training_progress import TrainProgress
from pipeline.training_run import TrainingRun
from pipeline.training_settings import TrainSettings
from pipeline.training_sizes import check_sizes
from pipeline.training_state import TrainingFolder
from pipeline.training_step import load_given_weights
from storage.errors import SettingsError
from storage.schema import ClassSchema, load_schema
from storage.workspace import Workspace
from teacher.device import find_device
from teacher.networks.registry import build_network


def train(settings: TrainSettings) -> Iterator[TrainProgress]:
    """Train a network, or go on with a run that was stopped, or find it finished.

    Writes `checkpoint.pt` (and `raw.pt`, `best.pt`), `settings.toml`, `log.jsonl`, `tensorboard/`, `metrics.json`,
    `index.npz` and `states/` into the run's folder. On a CPU, in one process, the weights come out bit for bit the
    same however often the run was stopped.

    Args:
        settings: what to do.

    Yields:
        Progress; the last has the result. Started as one of several processes by torchrun or srun, each of them yields
        its own.

    Raises:
        SettingsError: the settings contradict each other or the machine; nothing is known of the labels on which a
            gate is; or the file for the index is something else.
        GateError: the auto labels are not good enough for the settings' gate.
        LeakError: the network would be validated on images that it is trained on.
        MissingFileError, SchemaError, LayoutError: what to learn from is not there.
        ImageError, LabelError: an image or a label cannot be used.
        CheckpointError: the weights to start from do not fit, or no saved state can be read.
        ForeignSettingsError: the folder holds a run with other settings, or made from other labels.
        WorkspaceError: the folder cannot be written, or another process has it.
        TrainingError: the loss is no number any more.
        WorkerError: one of several processes died.
    """
    device = find_device(settings.device)
    _check(settings, device.type)
    yield from _check_gate(settings)
    lock = Workspace(settings.out).lock() if is_first_process() else None
    try:
        yield from run_in_processes(_work, settings, device)
    finally:
        if lock is not None:
            lock.release()


def dry_run(settings: TrainSettings) -> Iterator[TrainProgress]:
    """All of a training run that comes before its first step: read and check the labels and weights, make the plan.

    The index of the labels stays in the run's folder, so that the run itself need not read them again. It does not
    need the devices that the settings ask for.

    Yields:
        Progress; the last has the plan.

    Raises:
        AutocoarseError: as `train` does, before its first step.
    """
    _check(settings, settings.device)  # "auto" is another machine's to find out
    yield from _check_gate(settings)
    schema = load_schema(settings.classes)
    folder = TrainingFolder(settings.out, settings.keep)
    lock = Workspace(settings.out).lock()
    try:
        data = yield from _read(settings, schema, folder)
        folder.load_state(decisive_settings(settings, schema, data.index))  # refuses a run with other settings
        count = len(data.index.samples)
        if settings.is_pretrained:  # better known now than after hours in a queue
            spec = settings.spec(len(schema))
            warning = load_given_weights(build_network(spec), spec, settings)
            yield TrainProgress("reading", count, count, warning=warning)
        yield TrainProgress("reading", count, count, plan=plan_training(settings, schema, data))
    finally:
        lock.release()


def _check(settings: TrainSettings, device: str) -> None:
    if settings.index is not None:
        refuse_other_file(settings.index)
    if settings.precision == "fp16" and device == "cpu":
        raise SettingsError("precision is fp16 and the device cpu, where its small gradients vanish; use bf16 or fp32")


def _check_gate(settings: TrainSettings) -> Iterator[TrainProgress]:
    if settings.gate and settings.auto_labels is not None:
        for not_known in check_run(Gate.parse(*settings.gate), settings.auto_labels):
            yield TrainProgress("reading", 0, 0, warning=not_known)


def _work(fabric: Fabric, settings: TrainSettings) -> Iterator[TrainProgress]:
    """What every process of a training run does; all yield, the first is listened to."""
    if fabric.device.type == "cpu":
        keep_freed_memory()
    schema = load_schema(settings.classes)
    folder = TrainingFolder(settings.out, settings.keep)
    if not fabric.is_global_zero:
        fabric.barrier("index")  # the first process reads the labels, the others then find them indexed
    data = yield from _read(settings, schema, folder)
    if fabric.is_global_zero:
        fabric.barrier("index")
    run = TrainingRun(fabric, settings, schema, folder, data)
    yield from run.train()
    yield from run.finish()


def _read(
    settings: TrainSettings, schema: ClassSchema, folder: TrainingFolder
) -> Generator[TrainProgress, None, TrainingData]:
    """Read all labels, of the validation too: what is wrong with any is known before the first step."""
    collected = collect(settings, schema)
    samples, judged = collected.samples, collected.validation
    for message in collected.messages:
        yield TrainProgress("reading", 0, len(samples), message=message)
    for warning in (*collected.warnings, *check_sizes(settings, samples, judged)):
        yield TrainProgress("reading", 0, len(samples), warning=warning)
    index = yield from _index(samples, schema, settings, settings.index or folder.index)
    validation = None
    if judged:
        validation = yield from _index(judged, schema, settings, folder.validation_index)
    sampler = make_sampler(settings, index, schema)
    meaning = "no label has a pixel of {}: the network cannot learn it"
    if warning := warn_of_absent(index.counts.sum(axis=0), schema, meaning):
        yield TrainProgress("reading", len(samples), len(samples), warning=warning)
    if sampler.absent:
        names = name_few(sampler.absent)
        warning = f"only labels that may not be drawn by class have {names}: it is not drawn by class"
        yield TrainProgress("reading", len(samples), len(samples), warning=warning)
    trained_on = known_images(settings, index)
    if validation is not None and not settings.allow_training_images:
        refuse_trained_images(validation.samples, trained_on, "this very run", validation.image_digests)
    return TrainingData(index, sampler, validation, trained_on)


def _index(
    samples: Sequence[Sample], schema: ClassSchema, settings: TrainSettings, cache: Path
) -> Generator[TrainProgress, None, SampleIndex]:
    index = None
    for progress in build_index(samples, schema, tile=settings.crop, cache=cache):
        index = progress.index
        yield TrainProgress("reading", progress.done, progress.total)
    assert index is not None, "the last progress has the index"
    return index
