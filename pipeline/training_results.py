"""The networks that come out of a training run: as they are used, judged, and written.

When that is done is the run's to decide.
"""

import copy
import zipfile
from collections import Counter
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline.precise_statistics import take_statistics
from pipeline.scores import Scores
from pipeline.settings import settings_digest
from pipeline.training_data import TrainingData
from pipeline.training_progress import TrainProgress
from pipeline.training_settings import TrainSettings
from pipeline.training_state import TrainingFolder
from pipeline.training_step import Trainer
from pipeline.training_validation import validate_together
from storage.errors import ImageError
from storage.schema import ClassSchema
from teacher import Teacher
from teacher.checkpoint import load_checkpoint, save_checkpoint
from teacher.loading import network_with
from teacher.weights import StateDict


class Results:
    """What a trainer's networks become. Every process must take part, but for the writing.

    Args:
        fabric: the device, and the other processes.
        settings: of the run.
        schema: its classes.
        folder: where the first process writes.
        data: what is learned from, and what it is judged on.
        trainer: has the networks, as they are at its step.
        decisive: what decides the weights, for their record.
    """

    def __init__(
        self,
        fabric: Fabric,
        settings: TrainSettings,
        schema: ClassSchema,
        folder: TrainingFolder,
        data: TrainingData,
        trainer: Trainer,
        decisive: Mapping[str, Any],
    ) -> None:
        self._fabric, self._settings, self._schema, self._folder = fabric, settings, schema, folder
        self._data, self._trainer, self._decisive = data, trainer, decisive
        self._spec = settings.spec(len(schema))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks; first the averaged one, where there is one: it is the result."""
        return ("raw",) if self._trainer.average is None else ("averaged", "raw")

    @property
    def _paths(self) -> dict[str, Path]:
        return dict(zip(self.names, (self._folder.checkpoint, self._folder.raw_checkpoint), strict=False))

    def in_use(self, name: str) -> Generator[TrainProgress, None, nn.Module]:
        """A network with the weights of one in training, and with batch norm's statistics of whole images.

        Raises:
            ImageError: an image for the statistics has become unreadable.
        """
        trained = self._trainer.network if name == "raw" else self._trainer.average
        assert trained is not None, "one of the names"
        network = self._network({key: tensor.clone() for key, tensor in trained.state_dict().items()}, name)
        if self._settings.precise_bn:
            samples = self._data.index.samples
            try:
                for done, total in take_statistics(network, self._spec, self._settings, samples, self._fabric):
                    yield TrainProgress("statistics", done, total)
            except ImageError as error:
                raise ImageError(
                    f"{error}. Batch norms take their statistics from it: put it back as it was, and run the same "
                    f"command again, which goes on from the last saved state"
                ) from error
        return network

    def _network(self, weights: StateDict, where: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # some encoders draw start values all the same
            network = network_with(self._spec, weights, where).eval()
        return network.to(self._fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # torch leaves this form out of its types

    def teacher(self, network: nn.Module) -> Teacher:
        """A network in use as a teacher."""
        own = copy.deepcopy(network)  # a teacher freezes its network
        return Teacher.of_network(own, self._spec, self._schema, str(self._fabric.device), self._settings.precision)

    def validate(self, teacher: Teacher) -> Generator[TrainProgress, None, Scores]:
        """The scores of a network in use, as a teacher, on the validation images.

        Raises:
            LayoutError, ImageError, LabelError: an image or a label to validate on cannot be used.
        """
        for done, total, scores in validate_together(teacher, self._settings, self._fabric):
            if scores is not None:
                return scores
            yield TrainProgress("validating", done, total)
        raise AssertionError("the last has the scores")

    def lost(self) -> dict[str, str]:
        """Names of the networks whose checkpoint has to be written, with why: it is not there, or not whole.

        Where the result is not there, what else is there may be another run's.
        """
        lost = {}
        if self._fabric.is_global_zero:
            for name, path in self._paths.items():
                if not path.exists():
                    lost[name] = f"{path} is not there"
                elif not self._folder.checkpoint.exists():
                    lost[name] = f"{path} is there without {self._folder.checkpoint}"
                elif not _is_whole(path):
                    lost[name] = f"{path} is damaged"
        return self._fabric.broadcast(lost)

    def written(self, lost: Collection[str]) -> Generator[TrainProgress, None, dict[str, nn.Module]]:
        """The networks in use by their names, as they are in the checkpoints.

        Args:
            lost: names of those whose checkpoints are to be written first.

        Raises:
            CheckpointError: one of the others is no checkpoint of this version.
            WorkspaceError: the folder cannot be written.
        """
        networks = {}
        for name, path in self._paths.items():
            if name in lost:
                networks[name] = yield from self.in_use(name)
            else:
                networks[name] = self._network(load_checkpoint(path).state_dict, str(path))
        if self._fabric.is_global_zero:
            for name in (name for name in reversed(self.names) if name in lost):  # the result comes last: then all is
                self.write(self._paths[name], networks[name], name, {})
        return networks

    def write(self, path: Path, network: nn.Module, name: str, more: Mapping[str, Any]) -> None:
        """Write a network in use as a checkpoint, with the record of its training.

        Raises:
            WorkspaceError: the disk is full or the folder is not writable.
        """
        record = {
            "step": self._trainer.step,
            "seed": self._settings.seed,
            "weights": name,
            "settings": settings_digest(self._decisive),
            "samples": dict(Counter(sample.kind for sample in self._data.index.samples)),
            "images": self._data.trained_on,
            **more,
        }
        save_checkpoint(path, network, self._spec, self._schema, record)


def _is_whole(path: Path) -> bool:
    """Whether a checkpoint's bytes are those that were written, by their sums: torch reads other weights unaware."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # noqa: BLE001 - a torn archive makes its reader raise nearly anything
        return False
