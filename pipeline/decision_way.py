"""How a teacher decides in a run: at which scales, by which thresholds, and what is kept.

It is small and goes to every worker. Nothing here needs torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.soft_store import Keep

if TYPE_CHECKING:
    from teacher.networks.prediction import Fusion


@dataclass(frozen=True, slots=True)
class DecisionWay:
    """How a teacher decides."""

    scales: tuple[float, ...]
    """At which it predicts, from the lowest to the highest."""
    fusion: "Fusion"
    flip: bool
    thresholds: tuple[float, ...]
    """One for all classes, or one a class."""
    keep: Keep
    keep_steps: int
    temperature: float = 1.0
    attention: bool = False
    """Whether it is to say how much each scale counts."""
