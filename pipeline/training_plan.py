"""The plan of a training run: what it will take and how often it sees each kind of label, before its first step.

Sizes and operations of the network are counted in `training_cost`; the crops are drawn in `sampling`.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.training_cost import device_speed, measure_cost
from pipeline.training_data import TrainingData
from pipeline.training_settings import TrainSettings
from storage.errors import SettingsError
from storage.schema import ClassSchema
from teacher.device import find_device


@dataclass(frozen=True, slots=True)
class KindPlan:
    """How a run uses the samples of one kind."""

    images: int
    labelled_pixels: int
    crops: int
    """Expected over the whole run."""
    epochs: float
    """How often each of the images is expected to be cut from."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training run will take."""

    network: str
    parameters: int
    state_bytes: int
    """On each device: weights, gradients, the optimiser's state and the average."""
    activation_bytes: int
    """On each device: what is kept of a batch for its gradients."""
    steps: int
    crops_a_step: int
    """Over all devices and accumulated batches."""
    processes: int
    kinds: dict[str, KindPlan]
    seconds: float
    """At least: operations by the speed of a convolution on `device`. Light encoders take several times as long."""
    device: str
    """What the speed was measured on."""

    @property
    def memory_bytes(self) -> int:
        """Expected on each device at least; libraries and fragments come on top."""
        return self.state_bytes + self.activation_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "memory_bytes": self.memory_bytes}


def plan_training(settings: TrainSettings, schema: ClassSchema, data: TrainingData) -> TrainingPlan:
    """Plan a training run. No label is read, and no memory taken for the network.

    Raises:
        SettingsError: the network cannot be built.
    """
    spec = settings.spec(len(schema))
    cost = measure_cost(spec, settings)
    steps = settings.total_steps(data.sampler.epoch_crops)
    try:
        device = find_device(settings.device)
    except SettingsError:  # a plan for another machine
        device = find_device("cpu")
    return TrainingPlan(
        network=settings.network if settings.encoder is None else f"{settings.network} on {settings.encoder}",
        parameters=cost.parameters,
        state_bytes=cost.state_bytes,
        activation_bytes=cost.activation_bytes,
        steps=steps,
        crops_a_step=settings.crops_a_step,
        processes=settings.world,
        kinds=_plan_kinds(data, steps * settings.crops_a_step),
        seconds=cost.flops * settings.accumulate * steps / device_speed(device, settings.precision),
        device=str(device),
    )


def _plan_kinds(data: TrainingData, all_crops: int) -> dict[str, KindPlan]:
    images = Counter(sample.kind for sample in data.index.samples)
    pixels: Counter[str] = Counter()
    for sample, counts in zip(data.index.samples, data.index.counts, strict=True):
        pixels[sample.kind] += int(counts.sum())
    kinds: dict[str, KindPlan] = {}
    for kind, share in data.sampler.expected_mix().items():
        if images[kind]:
            crops = share * all_crops
            kinds[kind] = KindPlan(images[kind], pixels[kind], round(crops), crops / images[kind])
    return kinds
