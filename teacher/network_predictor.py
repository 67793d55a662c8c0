"""A network of ours that predicts for a teacher."""

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from teacher.execution import Execution
from teacher.fusion import predict_scales
from teacher.late_fusion import View
from teacher.networks.prediction import Fusion, Network
from teacher.networks.registry import NetworkSpec
from teacher.normalisation import normalise
from teacher.tiling import tiled
from teacher.weights import state_digest


def predict_views(
    network: Network, images: Tensor, scales: Sequence[float], fusion: Fusion, *, flip: bool
) -> list[View]:
    """Predict a batch at several scales and, with flip, its mirror image too, mirrored back.

    Args:
        network: what predicts.
        images: (batch, 3, height, width), float, as the network takes them.
        scales: ratios to the images, 1.0 among them.
        fusion: what is to become of the predictions.
        flip: predict the mirrored images too.

    Raises:
        SettingsError, ImageError: as `teacher.fusion.predict_scales`.
    """
    views: list[View] = [predict_scales(network, images, scales, fusion)]
    if flip:
        mirrored = predict_scales(network, images.flip(-1), scales, fusion)
        views.append(tuple(prediction.mirrored() for prediction in mirrored))
    return views


class NetworkPredictor:
    """A network of the registry as it is run for inference; satisfies `teacher.predictor.Predictor`.

    Args:
        network: built from `spec`, with its weights; it is put into evaluation mode.
        spec: what the network is, and how its images are normalised.
        device: where it is run.
        half: the type in which it computes; None: float32.
        compiled: have torch compile it; see `teacher.execution`.
        take_over: change the network itself instead of a copy.
    """

    has_others = False
    can_tile = True
    tells_scales = True
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        network: nn.Module,
        spec: NetworkSpec,
        device: torch.device,
        half: torch.dtype | None,
        *,
        compiled: bool = False,
        take_over: bool = False,
    ) -> None:
        self.spec = spec
        self._execution = Execution(network.eval(), device, half, compiled=compiled, take_over=take_over)

    @property
    def name(self) -> str:
        """Of the network."""
        return self.spec.network

    @property
    def device(self) -> torch.device:
        """Where it is run."""
        return self._execution.device

    @property
    def fusion(self) -> Fusion:
        """For which it was trained."""
        return self.spec.attention

    @property
    def attention_scales(self) -> tuple[float, ...]:
        """As `Predictor.attention_scales`."""
        return self.spec.attention_scales

    @property
    def problems(self) -> tuple[str, ...]:
        """As `Execution.problems`."""
        return self._execution.problems

    @property
    def weight_bytes(self) -> int:
        """Of parameters and buffers."""
        return self._execution.weight_bytes

    @property
    def planned(self) -> Network:
        """The network, also where it is compiled or recorded as graphs."""
        return self._execution.run_eagerly

    def facts(self) -> dict[str, str]:
        """Encoder and normalisation."""
        encoder = {} if self.spec.encoder is None else {"encoder": self.spec.encoder}
        numbers = {name: " ".join(f"{v:g}" for v in getattr(self.spec, name)) for name in ("mean", "std")}
        return encoder | numbers

    def network(self, tile: int | None = None) -> Network:
        """What predicts from normalised images, as it is run.

        Args:
            tile: side of the tiles in which larger images are predicted, in pixels, as `teacher.tiling.tiled` does;
                None: images are predicted whole.

        Raises:
            SettingsError: the tile leaves no room for its overlap.
        """
        return self._execution if tile is None else tiled(self._execution, tile)

    def predict(
        self, images: Tensor, scales: Sequence[float], fusion: Fusion, *, flip: bool = False, tile: int | None = None
    ) -> list[View]:
        """As `Predictor.predict`."""
        normalised = normalise(images, self.spec.mean, self.spec.std)
        return predict_views(self.network(tile), normalised, scales, fusion, flip=flip)

    def release(self) -> None:
        """As `Execution.release`."""
        self._execution.release()


def network_digest(network: nn.Module, spec: NetworkSpec) -> str:
    """Hash of all that decides what a network predicts: weights, form and normalisation; hexadecimal sha256."""
    content = [state_digest(network.state_dict()), spec.to_dict()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
