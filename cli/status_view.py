"""What `status` says: runs as blocks, as lines and as JSON, and what to do next."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.console import human_bytes, human_seconds
from cli.exit_codes import ExitCode
from cli.going_on import command_to_go_on
from storage.paths import is_remote

if TYPE_CHECKING:
    from pipeline.status import RunStatus

_SPARE = 1.05
"""A larger budget that is proposed leaves the forecast some room to be wrong."""


@dataclass(frozen=True, slots=True)
class Look:
    """How the runs that were asked for stand."""

    runs: tuple["RunStatus", ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """Folder and reason of the runs that could not be read."""

    @property
    def at_work(self) -> bool:
        """Whether any run is at work."""
        return any(run.at_work for run in self.runs)

    @property
    def exit_code(self) -> ExitCode:
        """What the exit status says of it."""
        if self.unreadable:
            return ExitCode.FAILED
        waiting = any(not run.at_work and not run.is_complete for run in self.runs)
        return ExitCode.SOME_ITEMS_FAILED if waiting else ExitCode.DONE

    def lines(self) -> list[str]:
        """A line a run, and one for all where there are several."""
        lines = [f"{run.root}: {_state(run)}; {_line(run)}" for run in self.runs]
        lines += [f"{folder}: not readable: {reason}" for folder, reason in self.unreadable]
        return [*lines, f"total: {self._total()}"] if len(lines) > 1 else lines

    def _total(self) -> str:
        sums = self._sums()
        parts = [f"{sum(run.at_work for run in self.runs)} of {len(self.runs)} at work"]
        if self.unreadable:
            parts.append(f"{len(self.unreadable)} not readable")
        parts.append(_counts(sums["total"], sums["done"], sums["failed"], sums["left"]))
        if sums["images_per_second"] is not None:
            parts.append(_speed(sums["images_per_second"], sums["seconds_left"]))
        parts.append(f"{human_bytes(sums['used_bytes'])} used")
        return "; ".join(parts)

    def _sums(self) -> dict[str, Any]:
        """Over all runs; what one of them does not say is not known of all."""
        rates = [run.images_per_second for run in self.runs if run.images_per_second is not None]
        waits = [run.seconds_left for run in self.runs if run.at_work]
        pixels, ignored = sum(run.pixels for run in self.runs), sum(run.ignored for run in self.runs)
        return {
            "total": _sum(run.total for run in self.runs),
            "done": sum(run.done for run in self.runs),
            "failed": sum(run.failed for run in self.runs),
            "left": _sum(run.left for run in self.runs),
            "images_per_second": sum(rates) if rates else None,
            # they work side by side, so the slowest is the last one
            "seconds_left": max((w for w in waits if w is not None), default=None) if None not in waits else None,
            "used_bytes": sum(run.used_bytes for run in self.runs),
            "forecast_bytes": _sum(run.forecast_bytes for run in self.runs),
            "ignore_fraction": ignored / pixels if pixels else None,
        }

    def as_json(self) -> dict[str, Any]:
        """The sums, and each run."""
        return {
            "at_work": self.at_work,
            "complete": not self.unreadable and all(run.is_complete for run in self.runs),
            **self._sums(),
            "runs": [_run_as_json(run) for run in self.runs],
            "unreadable": [{"run": folder, "reason": reason} for folder, reason in self.unreadable],
        }


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(n for n in known if n is not None)


def _run_as_json(run: "RunStatus") -> dict[str, Any]:
    return {
        "run": str(run.root),
        "command": run.command,
        "state": _state(run),
        "at_work": run.at_work,
        "killed": run.killed,
        "seconds_at_work": run.seconds_at_work,
        "total": run.total,
        "done": run.done,
        "failed": run.failed,
        "left": run.left,
        "images_per_second": run.images_per_second,
        "seconds_left": run.seconds_left,
        "seconds_since_label": run.seconds_since_label,
        "may_hang": run.may_hang,
        "used_bytes": run.used_bytes,
        "budget": run.budget,
        "forecast_bytes": run.forecast_bytes,
        "lacks_room": run.lacks_room,
        "ignore_fraction": run.ignore_fraction,
        "workers": [dataclasses.asdict(worker) for worker in run.workers],
        "failures": [{"key": f.key, "reason": f.reason} for f in run.failures],
        "next": next_steps(run),
    }


def block(run: "RunStatus") -> list[str]:
    """A run in some lines."""
    working = "" if run.seconds_at_work is None else f", for {human_seconds(run.seconds_at_work)}"
    lines = [f"{run.root}: {_state(run)}{working}", f"  {_counts(run.total, run.done, run.failed, run.left)}"]
    if run.images_per_second is not None:
        lines.append(f"  {_speed(run.images_per_second, run.seconds_left)}")
    lines += _workers(run)
    lines.append(f"  {_bytes(run)}")
    if run.ignore_fraction is not None:
        lines.append(f"  {run.ignore_fraction:.1%} of the pixels ignored")
    if run.seconds_since_label is not None:
        lines.append(f"  last label {human_seconds(run.seconds_since_label)} ago")
    lines += [f"  failed: {f.key}: {' '.join(f.reason.split())}" for f in run.failures]
    if run.failed > len(run.failures):
        lines.append(f"  all reasons are in {run.root / 'failed.txt'}, once it has ended")
    return lines + [f"next: {step}" for step in next_steps(run)]


def _workers(run: "RunStatus") -> list[str]:
    """How the workers are, the slowest of those that work and all that are not used."""
    ready = sorted((w for w in run.workers if w.state == "ready"), key=lambda worker: worker.rate)
    opening = sum(worker.state == "opening" for worker in run.workers)
    refused = [worker for worker in run.workers if worker.state not in ("opening", "ready")]
    if not run.workers:
        return []
    text = f"  {len(ready)} workers" + (f", {opening} more load the teacher" if opening else "")
    ready = [worker for worker in ready if worker.rate]
    if ready:
        text += f"; the slowest, {ready[0].name}, {ready[0].rate:.2f} images/s, the fastest {ready[-1].rate:.2f}"
    troubled = [f"  {worker.name}: {problem}" for worker in run.workers for problem in worker.problems]
    return [text, *(f"  not used: {worker.name}: {worker.state}" for worker in refused), *troubled]


def _state(run: "RunStatus") -> str:
    if run.at_work:
        return "at work, but may hang" if run.may_hang else "at work"
    if run.killed:
        return "killed"
    if run.left:
        return "stopped"
    if run.failed:
        return "finished, some failed"
    return "done" if run.total is not None else "not at work"


def _line(run: "RunStatus") -> str:
    parts = [_counts(run.total, run.done, run.failed, run.left)]
    if run.images_per_second is not None:
        parts.append(_speed(run.images_per_second, run.seconds_left))
    parts.append(_bytes(run))
    if run.seconds_since_label is not None:
        parts.append(f"last label {human_seconds(run.seconds_since_label)} ago")
    return "; ".join(parts)


def _counts(total: int | None, done: int, failed: int, left: int | None) -> str:
    if total is None or left is None:
        return f"{done} done, {failed} failed, of how many is not known"
    return f"{done} of {total} done, {failed} failed, {left} left"


def _speed(rate: float, seconds_left: float | None) -> str:
    remaining = "" if seconds_left is None else f", {human_seconds(seconds_left)} left"
    return f"{rate:.2f} images/s{remaining}"


def _bytes(run: "RunStatus") -> str:
    used = f"{human_bytes(run.used_bytes)} used"
    if run.budget is not None:
        used = f"{human_bytes(run.used_bytes)} of {human_bytes(run.budget)} used"
    if not run.left or run.forecast_bytes is None:
        return used
    return f"{used}, about {human_bytes(run.forecast_bytes)} in the end"


def next_steps(run: "RunStatus") -> list[str]:
    """What to do about how a run stands, the first thing first."""
    again = command_to_go_on(run.command, run.root)
    if run.at_work:
        steps = []
        if run.may_hang:
            steps.append("look at its process; once it is stopped, the same command goes on where it was")
        if run.lacks_room:
            steps.append(f"the budget will not do; after its clean stop: {again}{_budget(run)}")
        return steps
    if not run.is_complete:
        return [again + (_budget(run) if run.lacks_room else "")]
    if is_remote(run.root):
        return [f"copy it to a FOLDER, such as with `aws s3 sync {run.root} FOLDER`, and autocoarse verify FOLDER"]
    return [f"autocoarse verify {run.root}"]


def _budget(run: "RunStatus") -> str:
    if run.needed_bytes is None:
        return " --budget with more than it has"
    # what is kept free for the ledger comes on top, which is less than 1 MB
    return f" --budget {math.ceil(_SPARE * run.needed_bytes / 1e6) + 1}MB"


def cut(lines: Sequence[str], width: int) -> list[str]:
    """Lines that take one row each on a terminal."""
    return [line if len(line) < width else line[: width - 2] + "…" for line in lines]
