"""How a worker stands, as those see it who look on: the command's own progress, and `status` by way of the ledger."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerView:
    """How one worker stands, for those who look on."""

    name: str
    """Of the host and the process."""
    state: str
    """`opening`: it loads the teacher; `ready`; or why it is not used."""
    device: str
    labelled: int
    """Items of which it has sent entries."""
    rate: float
    """Items a second while it is at work; 0 before the first."""
    problems: tuple[str, ...] = ()
    """What was asked of it and it had to give up, as compiling where there is no compiler; labels are the same."""
