"""What one sees of a training run: figures gathered over some steps, a log of lines, and TensorBoard's events.

It decides nothing, and asks the device for numbers only where a line is due.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pipeline.crops import KINDS, Batch
from pipeline.pictures import contact_sheet
from pipeline.scores import Scores
from pipeline.training_state import TrainingFolder
from pipeline.training_step import StepReport
from storage.schema import ClassSchema

_PICTURES = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """What some steps gave, over all processes."""

    loss: float
    loss_by_kind: dict[str, float]
    """Mean over the valid pixels of each kind of label, of the joint prediction alone."""
    labelled: float
    """Share of the crops' pixels that have a label, in [0, 1]."""
    crops_per_second: float
    loading: float
    """Share of the time spent on waiting for crops, in [0, 1]; of the first process."""


class Meter:
    """Gathers what the steps report; its sums stay on the device until they are asked for.

    Args:
        fabric: the device, and the other processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._reset()

    def _reset(self) -> None:
        self._loss = torch.zeros((), device=self._fabric.device)
        self._by_kind = torch.zeros(len(KINDS), 2, device=self._fabric.device)
        self._steps = self._crops = self._pixels = 0
        self._waited = 0.0
        self._started = time.perf_counter()

    def add(self, report: StepReport, batches: Sequence[Batch], waited: float) -> None:
        """Count a step, the seconds it waited for its crops among them."""
        self._loss += report.loss
        self._by_kind += report.by_kind
        self._steps += 1
        self._crops += sum(len(batch.target) for batch in batches)
        self._pixels += sum(batch.target.numel() for batch in batches)
        self._waited += waited

    def take(self) -> tuple[Figures, float]:
        """The figures since the last call, and the seconds since; every process must ask at the same step."""
        own = torch.cat([self._loss.reshape(1), self._by_kind.flatten()])
        summed = self._fabric.all_reduce(own, reduce_op="sum")
        assert isinstance(summed, Tensor), "a tensor was given"
        loss, *rest = summed.tolist()
        seconds = time.perf_counter() - self._started
        world = self._fabric.world_size
        pairs = zip(KINDS, rest[::2], rest[1::2], strict=True)
        figures = Figures(
            loss=loss / self._steps,
            loss_by_kind={kind: total / pixels for kind, total, pixels in pairs if pixels},
            labelled=sum(rest[1::2]) / (self._pixels * world),
            crops_per_second=self._crops * world / seconds,
            loading=self._waited / seconds,
        )
        self._reset()
        return figures, seconds

    def restart(self) -> None:
        """Start the clock now: what came since the last figures was no step."""
        self._started = time.perf_counter()


class MixCounter:
    """Counts what an epoch's crops held, by kind and class.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self.crops: npt.NDArray[np.int64] = np.zeros(len(KINDS), np.int64)
        self.pixels: npt.NDArray[np.int64] = np.zeros((len(KINDS), classes), np.int64)

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.crops += np.bincount(batch.kinds.numpy(), minlength=len(KINDS))
        self.pixels += batch.pixels.numpy()

    def state(self) -> Tensor:
        """All counts, one int64 vector."""
        return torch.from_numpy(np.concatenate([self.crops, self.pixels.ravel()]))

    def load(self, state: Tensor) -> None:
        """Go on from what `state` gave."""
        counts = state.cpu().numpy()
        self.crops = counts[: len(KINDS)].copy()
        self.pixels = counts[len(KINDS) :].reshape(self.pixels.shape).copy()

    def line(self, schema: ClassSchema) -> dict[str, Any]:
        """The counts as plain values; kinds without a crop are left out."""
        return {
            kind: {
                "crops": int(self.crops[position]),
                "pixels": dict(zip(schema.names, self.pixels[position].tolist(), strict=True)),
            }
            for position, kind in enumerate(KINDS)
            if self.crops[position]
        }


class Watcher:
    """Writes the log and TensorBoard's events of a run. One process of a run has one.

    Args:
        folder: the run's.
        schema: names and colours of the classes.
        step: from which on it writes; what an earlier run wrote beyond is outdated.
    """

    def __init__(self, folder: TrainingFolder, schema: ClassSchema, step: int) -> None:
        # imported late: it takes a second
        from torch.utils.tensorboard.writer import SummaryWriter

        self._folder, self._schema = folder, schema
        folder.rewind_log(step)
        self._events = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def close(self) -> None:
        """Write out what is still held back."""
        self._events.close()

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def figures(self, figures: Figures, step: int, rate: float) -> None:
        """Write what some steps gave."""
        by_kind = {f"loss_{kind}": loss for kind, loss in figures.loss_by_kind.items()}
        speed = {"crops_per_second": figures.crops_per_second, "loading": figures.loading}
        line = {"loss": figures.loss, **by_kind, "labelled": figures.labelled, "learning_rate": rate, **speed}
        self._folder.append_log({"step": step, **line})
        losses = {f"loss/{kind}": loss for kind, loss in figures.loss_by_kind.items()}
        rest = {"loss/total": figures.loss, "labelled": figures.labelled, "learning_rate": rate}
        self._scalars({**losses, **rest, **{f"speed/{name}": value for name, value in speed.items()}}, step)

    def mix(self, counter: MixCounter, step: int, epoch: int) -> None:
        """Write what an epoch's crops held."""
        line = counter.line(self._schema)
        self._folder.append_log({"step": step, "epoch": epoch, "mix": line})
        self._scalars({f"mix/{kind}": counts["crops"] for kind, counts in line.items()}, step)

    def scores(self, scores: Scores, step: int, weights: str) -> None:
        """Write a validation of the "averaged" or the "raw" weights."""
        self._folder.append_log({"step": step, "weights": weights, "miou": scores.miou, "iou": scores.iou})
        by_class = {f"iou_{weights}/{name}": iou for name, iou in scores.iou.items() if iou is not None}
        self._scalars({f"miou/{weights}": scores.miou, **by_class}, step)

    def pictures(self, batch: Batch, predicted: Sequence[npt.NDArray[np.uint8]], step: int) -> None:
        """Show crops with their labels and what the network says, each (height, width) uint8 class indices."""
        rows = [
            (image.permute(1, 2, 0).numpy(), label.numpy(), prediction)
            for image, label, prediction in zip(batch.images, batch.target, predicted, strict=True)
        ]
        sheet = np.asarray(contact_sheet(rows[:_PICTURES], ("image", "label", "prediction"), self._schema))
        self._events.add_image("crops", sheet, step, dataformats="HWC")
