"""One process's part in a training run: steps, saved states, validations and checkpoints, from the index on.

How the labels are read, and how several processes come about, is in `training` and `distributed`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.crops import Batch
from pipeline.scores import Scores
from pipeline.training_data import TrainingData, decisive_settings, read_batches
from pipeline.training_plan import plan_training
from pipeline.training_progress import TrainProgress, TrainResult
from pipeline.training_results import Results
from pipeline.training_settings import TrainSettings
from pipeline.training_state import TrainingFolder
from pipeline.training_step import Trainer
from pipeline.training_watch import Meter, MixCounter, Watcher
from storage.errors import TrainingError, WorkerError
from storage.schema import ClassSchema

SAVE_SECONDS = 120
"""A state is saved with the first line of the log after this long, even if `checkpoint_every` steps are not done."""

LOG_EVERY = 10
"""Steps between two lines of the log; their loss is the mean over these steps."""

Value = TypeVar("Value")


class TrainingRun:
    """Trains a network from where its folder says it is, to the end.

    Args:
        fabric: the device, and the other processes.
        settings: of the run.
        schema: its classes.
        folder: where the first process writes.
        data: what is learned from, and what it is judged on.

    Raises:
        SettingsError, MissingFileError, CheckpointError: the network cannot be made.
    """

    def __init__(
        self, fabric: Fabric, settings: TrainSettings, schema: ClassSchema, folder: TrainingFolder, data: TrainingData
    ) -> None:
        self._fabric, self._settings, self._schema, self._folder, self._data = fabric, settings, schema, folder, data
        self._index = data.index
        self._spec = settings.spec(len(schema))
        self._steps = settings.total_steps(data.sampler.epoch_crops)
        self._decisive = decisive_settings(settings, schema, data.index)
        self._trainer = Trainer(settings, self._spec, self._steps, fabric)
        self._results = Results(fabric, settings, schema, folder, data, self._trainer, self._decisive)
        self._mix = MixCounter(len(schema))
        self._seconds = 0.0
        self._best = -1.0
        self._saved = time.perf_counter()

    @property
    def _first(self) -> bool:
        return bool(self._fabric.is_global_zero)

    def train(self) -> Iterator[TrainProgress]:
        """Take the steps that are left.

        Raises:
            ForeignSettingsError: the folder holds a run with other settings.
            CheckpointError: no saved state can be read.
            TrainingError: the loss is no number any more.
            WorkspaceError: the folder cannot be written.
            ImageError, LabelError: an image or a label has become unreadable.
        """
        yield from self._resume()
        trainer = self._trainer
        if trainer.step == self._steps:
            return
        if self._first:
            plan = plan_training(self._settings, self._schema, self._data)
            yield TrainProgress("reading", len(self._index.samples), len(self._index.samples), plan=plan)
        watcher = Watcher(self._folder, self._schema, trainer.step) if self._first else None
        meter = Meter(self._fabric)
        left = (trainer.step, self._steps)
        batches_left = read_batches(self._settings, self._data, self._schema, left, self._fabric)
        try:
            for batches, waited in _timed(batches_left):
                rate = trainer.learning_rate
                meter.add(trainer.update(batches), batches, waited)
                self._count_mix(batches, watcher)
                settings = self._settings
                if not any(map(self._is_due, (LOG_EVERY, settings.checkpoint_every, settings.validate_every))):
                    yield TrainProgress("training", trainer.step, self._steps)
                    continue
                yield self._report(meter, rate, watcher)
                yield from self._validate_if_due(watcher, batches[0])
                self._save_if_due()
                meter.restart()  # validating and saving are no part of the steps
        finally:
            if watcher is not None:
                watcher.close()

    def _is_due(self, every: int | None) -> bool:
        step = self._trainer.step
        return step == self._steps or (every is not None and step % every == 0)

    def _resume(self) -> Iterator[TrainProgress]:
        """Bring the folder and the trainer to where an earlier run stopped."""
        state, warnings = self._folder.load_state(self._decisive)
        if self._first:
            self._folder.tidy()
            self._settings.write(self._folder.settings, "train")
        step = 0 if state is None else int(state["step"])
        first = self._fabric.broadcast(step)
        if step != first:
            raise WorkerError(
                f"this process finds the run in {self._folder.root} at step {step}, the first one at step {first}: "
                f"--out must be a folder that all machines see alike; run the same command again"
            )
        for warning in warnings:
            yield TrainProgress("training", 0, self._steps, warning=warning)
        if state is None:
            if self._trainer.warning:
                yield TrainProgress("training", 0, self._steps, warning=self._trainer.warning)
            return
        self._trainer.load_state(state)
        self._seconds, self._best = float(state["seconds"]), float(state["best"])
        if self._first:  # it has counted for all of them
            self._mix.load(state["mix"])
        how = "is finished" if step == self._steps else "goes on"
        message = f"the run in {self._folder.root} {how} at step {step} of {self._steps}"
        yield TrainProgress("training", step, self._steps, message=message)

    def _count_mix(self, batches: list[Batch], watcher: Watcher | None) -> None:
        """Count what the crops held; an epoch's line is written with the step in which it ends."""
        for batch in batches:
            self._mix.add(batch)
        step, crops, length = self._trainer.step, self._settings.crops_a_step, self._data.sampler.epoch_crops
        epoch = step * crops // length
        ended = epoch > (step - 1) * crops // length
        if ended or step == self._steps:  # the last one may end early
            mix = self._summed_mix()
            if watcher is not None:
                watcher.mix(mix, step, epoch if ended else epoch + 1)
            self._mix = MixCounter(len(self._schema))

    def _summed_mix(self) -> MixCounter:
        mix = MixCounter(len(self._schema))
        summed = self._fabric.all_reduce(self._mix.state().to(self._fabric.device), reduce_op="sum")
        assert isinstance(summed, Tensor), "a tensor was given"
        mix.load(summed)
        return mix

    def _report(self, meter: Meter, rate: float, watcher: Watcher | None) -> TrainProgress:
        figures, seconds = meter.take()
        self._seconds += seconds
        step = self._trainer.step
        if not math.isfinite(figures.loss):
            raise TrainingError(
                f"the loss is {figures.loss} at step {step}: training diverged; lower the learning rate "
                f"({self._settings.learning_rate}) and choose another --out"
            )
        if watcher is not None:
            watcher.figures(figures, step, rate)
        return TrainProgress("training", step, self._steps, figures=figures, learning_rate=rate)

    def _save_if_due(self) -> None:
        late = self._fabric.broadcast(time.perf_counter() - self._saved > SAVE_SECONDS)
        if not late and not self._is_due(self._settings.checkpoint_every):
            return
        mix = self._summed_mix()
        if not self._first:
            self._mix = MixCounter(len(self._schema))
            return
        self._mix = mix
        self._folder.save_state(
            {
                **self._trainer.state(),
                "settings": self._decisive,
                "seconds": self._seconds,
                "best": self._best,
                "mix": mix.state(),
            }
        )
        self._saved = time.perf_counter()

    def _validate_if_due(self, watcher: Watcher | None, batch: Batch) -> Iterator[TrainProgress]:
        every, step = self._settings.validate_every, self._trainer.step
        if every is None or not self._is_due(every) or step == self._steps:  # the last step's is part of the finish
            return
        validated = False
        for name in self._results.names:
            network = yield from self._results.in_use(name)
            teacher = self._results.teacher(network)
            scores = yield from self._results.validate(teacher)
            if watcher is not None:
                watcher.scores(scores, step, name)
            if not validated:
                self._keep_if_best(scores, name, network)
                if watcher is not None:
                    images = [image.permute(1, 2, 0).numpy() for image in batch.images]
                    watcher.pictures(batch, teacher.label(images, self._settings.scales, threshold=0), step)
            validated = True

    def _keep_if_best(self, scores: Scores, name: str, network: nn.Module) -> None:
        if scores.miou > self._best:
            self._best = scores.miou
            if self._first:
                self._results.write(self._folder.best_checkpoint, network, name, {"miou": scores.miou})

    def finish(self) -> Iterator[TrainProgress]:
        """Write the checkpoints and judge them, unless an earlier run has done so in the same way and they are whole.

        Raises:
            ImageError, LabelError: an image or a label to learn from, or to validate on, cannot be used.
            WorkspaceError: the folder cannot be written.
        """
        folder, settings = self._folder, self._settings
        judged_on = None if self._data.validation is None else self._data.validation.digest
        how = {"images_and_labels": judged_on, "scales": list(settings.scales), "precision": settings.precision}
        lost, metrics = self._results.lost(), self._fabric.broadcast(folder.load_metrics())
        if metrics is not None:  # they were whole when it was written
            for reason in lost.values():
                warning = f"{reason}: it is made anew from the state of the last step"
                yield TrainProgress("training", self._steps, self._steps, warning=warning)
        if lost or metrics is None or metrics["validated"] != how:
            networks = yield from self._results.written(lost)
            validation: dict[str, Any] = {}
            if settings.val_images is not None:
                watcher = Watcher(folder, self._schema, self._steps) if self._first else None
                for name, network in networks.items():
                    judged = yield from self._results.validate(self._results.teacher(network))
                    if watcher is not None:
                        watcher.scores(judged, self._steps, name)
                    if not validation and settings.validate_every is not None:
                        self._keep_if_best(judged, name, network)
                    validation[name] = asdict(judged)
                if watcher is not None:
                    watcher.close()
            metrics = {"steps": self._steps, "seconds": self._seconds, "validated": how, "validation": validation}
            if self._first:
                folder.save_metrics(metrics)
        scores = {name: Scores(**values) for name, values in metrics["validation"].items()}
        result = TrainResult(
            folder.checkpoint,
            self._steps,
            self._seconds,
            scores=scores.get("averaged", scores.get("raw")),
            raw_scores=scores.get("raw") if "averaged" in scores else None,
        )
        yield TrainProgress("finished", self._steps, self._steps, result=result)


def _timed(values: Iterator[Value]) -> Iterator[tuple[Value, float]]:
    """Values, and the seconds that each was waited for."""
    while True:
        started = time.perf_counter()
        try:
            value = next(values)
        except StopIteration:
            return
        yield value, time.perf_counter() - started
