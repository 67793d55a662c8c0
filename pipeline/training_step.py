"""One step of training: batches of crops in, changed weights out; and all that is needed to take the next one.

It knows no files; reading crops and keeping the state are in `pipeline.training`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipeline.batch_norm import synchronise_batch_norm
from pipeline.crops import KINDS, Batch
from pipeline.losses import Normaliser, training_loss
from pipeline.optimisation import WeightAverage, make_optimizer, rate_factor, set_learning_rate
from pipeline.training_settings import TrainingRecipe
from pipeline.two_scale import TwoScale, share_dropout
from storage.schema import IGNORE
from teacher.encoder_weights import load_encoder_weights
from teacher.networks.registry import NetworkSpec, build_network
from teacher.start_weights import load_start_weights


class StepReport(NamedTuple):
    """What a step says of itself, on the device: asking for a number would wait for it."""

    loss: Tensor
    """This process's part of the loss before the step, scalar float32; the parts of all processes add up to it."""
    by_kind: Tensor
    """(kind, 2) float32: sum of the joint prediction's loss over this process's valid pixels, and their number."""


class Trainer:
    """A network in training, with its optimiser and the average of its weights.

    Args:
        recipe: how it is trained.
        spec: what it is.
        steps: of the whole run.
        fabric: the device, and the other processes that train it.

    Raises:
        SettingsError: the network cannot be built.
        MissingFileError, CheckpointError: the weights to start from are not there, or do not fit.
    """

    step: int
    """Steps taken."""
    warning: str
    """What is worth saying of the weights it starts from; empty where there is nothing."""
    network: nn.Module
    average: nn.Module | None
    """The network with averaged weights; None where nothing is averaged."""

    def __init__(self, recipe: TrainingRecipe, spec: NetworkSpec, steps: int, fabric: Fabric) -> None:
        self.step = 0
        self.steps = steps
        self._recipe, self._fabric = recipe, fabric
        with self._random_numbers(0):
            network = build_network(spec)
        self.warning = load_given_weights(network, spec, recipe)
        share_dropout(network, fabric.global_rank, fabric.world_size)
        network = synchronise_batch_norm(network) if fabric.world_size > 1 else network
        # channels last: a step of tf_efficientnet_lite0 took 18 % less time so, on one CPU thread
        self.network = network.train().to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch leaves this form out of its types
        checkpointing = recipe.gradient_checkpointing
        self._module = fabric.setup_module(TwoScale(self.network, spec, recipe.precision, checkpointing=checkpointing))
        self._optimizer = make_optimizer(self.network, recipe)
        self._average = WeightAverage(self.network, recipe.ema) if recipe.ema else None
        self.average = None if self._average is None else self._average.module
        self._scaler = torch.amp.GradScaler(fabric.device.type, enabled=recipe.precision == "fp16")
        weights = {"fine": 1.0, "reviewed": 1.0, "auto": recipe.auto_weight, "coarse": recipe.coarse_weight}
        self._kind_weights = torch.tensor([weights[kind] for kind in KINDS])

    @property
    def learning_rate(self) -> float:
        """Of the next step, for all but the encoder."""
        factor = rate_factor(self.step, self.steps, warm_up=self._recipe.warm_up, power=self._recipe.power)
        return self._recipe.learning_rate * factor

    @contextlib.contextmanager
    def _random_numbers(self, batch: int) -> Iterator[None]:
        """Random numbers that depend on seed, step and batch alone; the caller's generator is left as it was."""
        device = self._fabric.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            sequence = np.random.default_rng([self._recipe.seed, self.step, batch])
            torch.manual_seed(int(sequence.integers(2**63)))
            yield

    def update(self, batches: Sequence[Batch]) -> StepReport:
        """Take a step: the gradients of all batches are added up, over all processes.

        The loss is a mean over the valid pixels of them all, so a batch with few of them does not count as much as one
        with many. Two numbers more than the gradients are sent between the processes.
        """
        set_learning_rate(self._optimizer, self.learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        norm = self._normaliser(batches)
        reports = []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self._fabric.no_backward_sync(self._module, enabled=not last), self._random_numbers(number):
                reports.append(self._backward(batch, norm))
        self._scaler.unscale_(self._optimizer)
        if self._recipe.max_gradient_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.max_gradient_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.network)
        self.step += 1
        return StepReport(*(torch.stack(parts).sum(dim=0) for parts in zip(*reports, strict=True)))

    def _normaliser(self, batches: Sequence[Batch]) -> Normaliser:
        # counted on the CPU, where the labels come from
        pixels = sum((self._kind_weights * batch.pixels.sum(dim=1)).sum() for batch in batches)
        images = sum(self._kind_weights[batch.kinds.long()].sum() for batch in batches)
        total = self._fabric.all_reduce(
            torch.stack([torch.as_tensor(pixels), torch.as_tensor(images)]), reduce_op="sum"
        )
        assert isinstance(total, Tensor), "a tensor was given"
        total = total.to(self._fabric.device, non_blocking=True)
        return Normaliser(total[0], total[1])

    def _backward(self, batch: Batch, norm: Normaliser) -> StepReport:
        device = self._fabric.device
        images, target = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.target))
        kinds = batch.kinds.to(device, non_blocking=True).long()
        recipe = self._recipe
        loss = training_loss(
            self._module(images),
            target.long(),
            self._kind_weights.to(device, non_blocking=True)[kinds],
            norm,
            loss=recipe.loss,
            auxiliary_weight=recipe.auxiliary_loss,
            scale_weight=recipe.scale_loss,
        )
        # data parallel training averages the gradients of the processes, whose losses are parts of one sum
        self._scaler.scale(loss.value * self._fabric.world_size).backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        by_kind = torch.zeros(len(KINDS), 2, device=device).index_add_(0, kinds, _by_image(loss.by_image, target))
        return StepReport(loss.value.detach(), by_kind)

    def state(self) -> dict[str, Any]:
        """All that decides the steps to come: plain values and tensors."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def load_given_weights(network: nn.Module, spec: NetworkSpec, recipe: TrainingRecipe) -> str:
    """Load the weights that a recipe starts from, where it names any.

    Args:
        network: built from `spec`; what is loaded replaces its start values.
        spec: what it is.
        recipe: names the files.

    Returns:
        What is worth saying of them; empty where there is nothing.

    Raises:
        MissingFileError, CheckpointError: they are not there, or do not fit.
    """
    if recipe.encoder_weights is not None:
        load_encoder_weights(network, recipe.encoder_weights)
    if recipe.start_weights is not None:
        return load_start_weights(network, spec.num_classes, recipe.start_weights)
    return ""


def _by_image(losses: Tensor, target: Tensor) -> Tensor:
    valid = (target != IGNORE).flatten(1).sum(dim=1)
    return torch.stack([losses.float(), valid.float()], dim=1)
