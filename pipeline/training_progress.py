"""What a training run reports while it works, and what it ends with.

Nothing here computes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.scores import Scores
from pipeline.training_plan import TrainingPlan
from pipeline.training_watch import Figures


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run ends with."""

    checkpoint: Path
    steps: int
    seconds: float
    """Spent on the steps, over all the runs that it took."""
    scores: Scores | None
    """On the validation set, if there is one: of the averaged weights where there is an average."""
    raw_scores: Scores | None = None
    """Of the weights as they are after the last step, where there is an average beside them."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far a training run is."""

    phase: Literal["reading", "training", "statistics", "validating", "finished"]
    done: int
    """Labels read, steps taken, batches of images that statistics are taken from, or images validated, of `total`."""
    total: int
    figures: Figures | None = None
    """Of the steps since the last figures; in the training phase."""
    learning_rate: float | None = None
    """With the figures."""
    plan: TrainingPlan | None = None
    """What the run will take, once, before the first step."""
    message: str = ""
    """What someone who waits should know, once: that an earlier run is taken up again, or what reviewed labels
    replace."""
    warning: str = ""
    """What someone may want to mend, once: a class without pixels, images without a label."""
    result: TrainResult | None = None
    """With phase "finished", the last one."""
