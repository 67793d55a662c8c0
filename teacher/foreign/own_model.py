"""A network of ours in the place of a foreign one: for a class table, or for an attention that was fitted later."""

from torch import Tensor

from teacher.network_predictor import NetworkPredictor
from teacher.normalisation import shift_and_scale


class OwnModel:
    """A network of ours at one scale, satisfies `teacher.foreign.contract.ForeignModel`.

    Args:
        predictor: that has the network.
        labels: its classes.
        digest: of the teacher that it is of.
    """

    def __init__(self, predictor: NetworkPredictor, labels: tuple[str, ...], digest: str) -> None:
        self._predictor, self.labels, self.digest = predictor, labels, digest

    @property
    def name(self) -> str:
        """Of the network."""
        return self._predictor.name

    @property
    def weight_bytes(self) -> int:
        """Of parameters and buffers."""
        return self._predictor.weight_bytes

    def facts(self) -> dict[str, str]:
        """Of the network."""
        return self._predictor.facts()

    def __call__(self, images: Tensor, _scale: float, /) -> Tensor:
        """As `ForeignModel`."""
        spec = self._predictor.spec
        logits, _, _ = self._predictor.network()(shift_and_scale(images.clone(), spec.mean, spec.std), attend=False)
        return logits.float()
