"""Several teachers as one: by the mean of their probabilities, or where they agree.

Each member predicts at all scales and is fused by itself, at the images' size; only then are they one. On the device
that takes 12 bytes a pixel and class for each image of a batch, beside what a member takes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from storage.errors import SettingsError
from teacher.description import Combine
from teacher.fusion import ScaledPrediction
from teacher.late_fusion import View, joint_logits
from teacher.networks.prediction import Fusion, Network
from teacher.predictor import Predictor

_LEAST = 1e-12
"""Probability of a class that no member gives any: a logit has to be finite."""


class EnsemblePredictor:
    """Several predictors of the same classes, on one device; satisfies `teacher.predictor.Predictor`.

    Args:
        members: two and more.
        classes: of the schema.
        combine: "average"; or "agreement": where the members' most likely classes differ, the pixel is of no class, and
            elsewhere the confidence is the mean of theirs.
    """

    can_tile = False
    tells_scales = False
    attention_scales: tuple[float, ...] = ()
    planned: Network | None = None

    def __init__(self, members: Sequence[Predictor], classes: int, combine: Combine) -> None:
        self.members, self.classes, self.combine = tuple(members), classes, combine

    @property
    def name(self) -> str:
        """Of all of them."""
        return f"{self.combine} of {', '.join(member.name for member in self.members)}"

    @property
    def device(self) -> torch.device:
        """Of all of them."""
        return self.members[0].device

    @property
    def fusion(self) -> Fusion:
        """Hierarchical where a member is; it stands for what each member is made for."""
        own = {member.fusion for member in self.members}
        return "average" if own == {"average"} else "single" if own == {"single"} else "hierarchical"

    @property
    def has_others(self) -> bool:
        """Whether a pixel may be of no class."""
        return self.combine == "agreement" or any(member.has_others for member in self.members)

    @property
    def problems(self) -> tuple[str, ...]:
        """Of all of them."""
        return tuple(problem for member in self.members for problem in member.problems)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Of all of them, each by its number."""
        return tuple(f"{n} {m.name}: {remark}" for n, m in enumerate(self.members, start=1) for remark in m.remarks)

    @property
    def weight_bytes(self) -> int:
        """Of all of them."""
        return sum(member.weight_bytes for member in self.members)

    def facts(self) -> dict[str, str]:
        """Of each by its number."""
        return {
            f"{number} {member.name}, {name}": fact
            for number, member in enumerate(self.members, start=1)
            for name, fact in member.facts().items()
        }

    def predict(
        self, images: Tensor, scales: Sequence[float], fusion: Fusion, *, flip: bool = False, tile: int | None = None
    ) -> list[View]:
        """As `Predictor.predict`: one prediction, at the images' size, of the logarithm of the joint probabilities."""
        if tile is not None:
            raise SettingsError("several teachers together do not predict in tiles; leave out the tile")
        size = (images.shape[1], images.shape[2])
        summed, first, disagree = None, None, None
        for member in self.members:
            how = member.fusion if fusion == self.fusion or member.fusion == "explicit" else fusion
            views = member.predict(images, scales, how, flip=flip)
            shares = self._shares(joint_logits(views, size), member)
            likely = shares.argmax(dim=1) if self.combine == "agreement" else None
            if summed is None:
                summed, first = shares, likely
            else:
                summed += shares
            if likely is not None and first is not None:
                differs = likely != first
                disagree = differs if disagree is None else disagree | differs
        assert summed is not None, "there are members"
        summed /= len(self.members)
        if disagree is not None:
            summed[:, :-1].masked_fill_(disagree.unsqueeze(1), 0.0)
            summed[:, -1].masked_fill_(disagree, 1.0)
        return [(ScaledPrediction(summed.clamp_(min=_LEAST).log_().contiguous(), None, size),)]

    def _shares(self, logits: Tensor, member: Predictor) -> Tensor:
        """Probabilities (batch, class, height, width), with the share of no class last where any member has one."""
        shares = logits.softmax(dim=1)
        if self.has_others and not member.has_others:
            return torch.cat([shares, torch.zeros_like(shares[:, :1])], dim=1)
        return shares

    def release(self) -> None:
        """Of all of them."""
        for member in self.members:
            member.release()
