"""One step of training: a batch of crops in, changed weights out; and all that is needed to take the next one.

It knows no files; reading crops and keeping the state are in `pipeline.training`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.losses import training_loss
from pipeline.optimisation import MAX_GRADIENT_NORM, make_optimizer, rate_factor, set_learning_rate
from pipeline.training_settings import TrainSettings
from teacher.encoder_weights import load_encoder_weights
from teacher.fusion import training_forward
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network
from teacher.normalisation import normalise

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network in training, with its optimiser.

    Args:
        settings: how it is trained.
        spec: what it is.
        device: where.

    Raises:
        SettingsError: the network cannot be built.
        MissingFileError, CheckpointError: the encoder weights are not there, or do not fit.
    """

    step: int
    """Steps taken."""
    network: nn.Module

    def __init__(self, settings: TrainSettings, spec: NetworkSpec, device: torch.device) -> None:
        self.step = 0
        self._settings, self._spec, self._device = settings, spec, device
        with self._random_numbers():
            network = build_network(spec)
        if settings.encoder_weights is not None:
            load_encoder_weights(network, settings.encoder_weights)
        # channels last: a step of tf_efficientnet_lite0 took 18 % less time so, on one CPU thread
        self.network = network.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch leaves this form out of its types
        encoder_rate = settings.encoder_rate if settings.encoder_weights is not None else 1.0
        self._optimizer = make_optimizer(self.network, settings.network, encoder_rate)
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    @contextlib.contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Random numbers that depend on the seed and the step alone; the caller's own generator is left as it was."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(np.random.default_rng([self._settings.seed, self.step, 0]).integers(2**63)))
            yield

    def update(self, images: Tensor, target: Tensor) -> Tensor:
        """Take a step.

        Args:
            images: (batch, 3, height, width) uint8 RGB.
            target: (batch, height, width) uint8, class indices or 255.

        Returns:
            The loss before the step, scalar float32, on the device.
        """
        images = normalise(images.to(self._device).permute(0, 2, 3, 1), self._spec.mean, self._spec.std)
        images = images.contiguous(memory_format=torch.channels_last)
        factor = rate_factor(self.step, self._settings.steps)
        set_learning_rate(self._optimizer, self._settings.learning_rate * factor)
        self._optimizer.zero_grad(set_to_none=True)
        with self._random_numbers():
            prediction = training_forward(self._predict, images)
        loss = training_loss(prediction, target.to(self._device).long())
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves backward untyped
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step += 1
        return loss.detach()

    def _predict(self, images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        dtype = _DTYPES[self._settings.precision]
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype != torch.float32):
            prediction: ScalePrediction = self.network(images, attend=attend)
        return prediction

    def state(self) -> dict[str, Any]:
        """All that decides the steps to come: plain values and tensors."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
