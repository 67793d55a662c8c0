"""A network of another library that predicts for a teacher: in the classes of a schema, at several scales.

Its labels become classes by adding up probabilities. That is done where it predicts, before anything is enlarged: so
the softmax of what is handed on is the model's own, up to what enlarging does to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from storage.errors import CheckpointError, SettingsError
from teacher.execution import exact
from teacher.foreign.contract import ForeignModel
from teacher.fusion import scales_of, size_at_scale
from teacher.late_fusion import View
from teacher.network_predictor import predict_views
from teacher.networks.prediction import Fusion, Network, ScalePrediction
from teacher.normalisation import normalise

_LEAST = 1e-22
"""Probability of a class that has none, beside that of the most likely label: a logit has to be finite."""


class Grouping(nn.Module):
    """From logits of labels to logits of classes whose softmax adds up the labels' probabilities.

    Args:
        targets: the class of each label, None where it is none.
        classes: how many there are. With labels that are of none there is one output more, of those.
    """

    membership: Tensor

    def __init__(self, targets: Sequence[int | None], classes: int) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.has_others = None in self.targets
        outputs = classes + self.has_others
        places = [classes if target is None else target for target in self.targets]
        self._order = None
        if sorted(places) == list(range(outputs)):
            self._order = [places.index(output) for output in range(outputs)]
        membership = torch.zeros(outputs, len(places))
        membership[places, range(len(places))] = 1
        self.register_buffer("membership", membership)

    def forward(self, logits: Tensor) -> Tensor:
        """Add up.

        Args:
            logits: (batch, label, h, w), float32.

        Returns:
            (batch, class, h, w), float32. Where each class is one label they are the labels' logits, untouched.
        """
        if self._order is not None:
            return logits if self._order == sorted(self._order) else logits[:, self._order]
        top = logits.amax(dim=1, keepdim=True)
        sums = torch.einsum("cl,blhw->bchw", self.membership, (logits - top).exp_())
        return sums.clamp_(min=_LEAST).log_().add_(top)


class ForeignPredictor:
    """A foreign model as it predicts; satisfies `teacher.predictor.Predictor`.

    Args:
        model: that predicts.
        grouping: from its labels to classes.
        device: where it is.
        attention: that was fitted to it, from logits (batch, class, h, w) of a scale, and the number of larger scales,
            to its weight against these, (batch, 1, h, w) float32 in [0, 1]; None: scales are averaged.
        remarks: as of `Predictor`.
    """

    can_tile = False
    tells_scales = True
    attention_scales: tuple[float, ...] = ()
    problems: tuple[str, ...] = ()
    planned: Network | None = None

    def __init__(
        self,
        model: ForeignModel,
        grouping: Grouping,
        device: torch.device,
        attention: nn.Module | None = None,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.model, self.device, self.remarks = model, device, remarks
        self.grouping = grouping.to(device)
        self.attention = None if attention is None else attention.to(device).eval()

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name

    @property
    def has_others(self) -> bool:
        """Whether it has labels that are of no class."""
        return self.grouping.has_others

    @property
    def fusion(self) -> Fusion:
        """By attention where there is one, else as a mean."""
        return "average" if self.attention is None else "hierarchical"

    @property
    def weight_bytes(self) -> int:
        """As far as the model tells."""
        return self.model.weight_bytes

    def facts(self) -> dict[str, str]:
        """What the model says of itself."""
        return self.model.facts()

    def predict(
        self, images: Tensor, scales: Sequence[float], fusion: Fusion, *, flip: bool = False, tile: int | None = None
    ) -> list[View]:
        """As `Predictor.predict`."""
        if tile is not None:
            raise SettingsError(f"a teacher of the kind {self.name} does not predict in tiles; leave out the tile")
        size = (images.shape[1], images.shape[2])
        by_size = {size_at_scale(size, scale): (n, scale) for n, scale in enumerate(scales_of(fusion, scales))}

        def network(scaled: Tensor, /, *, attend: bool = True) -> ScalePrediction:
            larger, scale = by_size[scaled.shape[-2], scaled.shape[-1]]
            logits = self._class_logits(scaled, scale)
            weight = None if self.attention is None or not attend else self.attention(logits, larger)
            return ScalePrediction(logits, weight, None)

        unit = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # a foreign model shifts and scales by itself
        with exact(self.device):  # the fitted attention too
            return predict_views(network, normalise(images, *unit), scales, fusion, flip=flip)

    def release(self) -> None:
        """Nothing is kept."""

    def _class_logits(self, images: Tensor, scale: float) -> Tensor:
        logits = self.model(images, scale)
        labels = len(self.grouping.targets)
        if logits.ndim != 4 or logits.shape[:2] != (len(images), labels):
            raise CheckpointError(
                f"{self.name} gives logits {tuple(logits.shape)} for {len(images)} images, expected ({len(images)}, "
                f"{labels}, height, width): say what its outputs are, by labels = [...] in a description of the teacher"
            )
        return self.grouping(logits.float())  # type: ignore[no-any-return] # modules return Any
