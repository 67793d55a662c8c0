"""How a training run is shown: its plan before the first step, and its progress; for all commands that train."""

from typing import TYPE_CHECKING

from cli.console import Console, Stages, human_bytes, human_seconds

if TYPE_CHECKING:
    from pipeline.training_plan import TrainingPlan
    from pipeline.training_progress import TrainProgress

_UNITS = {"reading": "labels", "training": "steps", "statistics": "batches", "validating": "images"}


def plan_lines(plan: "TrainingPlan") -> list[str]:
    """A plan in a few lines."""
    lines = [
        (
            f"{plan.network}: {plan.parameters / 1e6:.1f} million parameters; at least "
            f"{human_bytes(plan.memory_bytes)} on each device ({human_bytes(plan.state_bytes)} weights and optimiser, "
            f"{human_bytes(plan.activation_bytes)} activations)"
        ),
        f"{plan.steps} steps of {plan.crops_a_step} crops in {_count(plan.processes, 'process', 'processes')}",
    ]
    for kind, part in plan.kinds.items():
        lines.append(
            f"  {kind}: {part.images} images, {part.labelled_pixels / 1e6:.1f} million labelled pixels; about "
            f"{part.crops} crops, {part.epochs:.1f} of each image"
        )
    lines.append(
        f"at least {human_seconds(plan.seconds)}, by the speed of a plain convolution on this machine's "
        f"{plan.device}; the steps themselves soon tell"
    )
    return lines


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


class TrainingView:
    """Shows the progress of one training run after the other.

    Args:
        console: where text goes.
        stages: where progress goes.
        plans: whether plans are shown.
    """

    def __init__(self, console: Console, stages: Stages, *, plans: bool = True) -> None:
        self._console, self._stages, self._plans = console, stages, plans
        self._note = ""

    def show(self, progress: "TrainProgress", prefix: str = "") -> None:
        """Show how far a run is; `prefix` stands before the stage's name."""
        if progress.message:
            self._console.say(progress.message)
        if progress.warning:
            self._console.warn(progress.warning)
        if progress.plan is not None and self._plans:
            for line in plan_lines(progress.plan):
                self._console.say(line)
        if progress.figures is not None:
            figures = progress.figures
            self._note = (
                f"loss {figures.loss:.3f}, rate {progress.learning_rate:.2g}, {figures.crops_per_second:.1f} images/s, "
                f"{figures.labelled:.0%} labelled"
            )
        if progress.phase != "finished":
            note = self._note if progress.phase == "training" else ""
            stage = prefix + progress.phase
            self._stages.show(stage, progress.done, progress.total, note, _UNITS[progress.phase])
