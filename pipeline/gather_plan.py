"""The plan of gathering runs into one: what their ledgers hold of each item, and what is left to take.

An item is done if, and only if, the new run has an entry of it that one of the runs has too, and its files agree; or
one that proves itself for an image that has changed since the runs labelled it. It opens no file of the runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.gather_source import GatherSource
from pipeline.run_folder import reason_to_keep
from storage.agreement import image_agrees, label_agrees
from storage.errors import LayoutError, WorkspaceError
from storage.layouts import Listing
from storage.ledger import Entry, Ledger
from storage.soft_store import SoftStore
from storage.workspace import Workspace

_CONFLICTS_NAMED = 10


@dataclass(frozen=True, slots=True)
class Task:
    """An item that is to be taken, or to be recorded as failed."""

    key: str
    """Or the relative path of an image that has none."""
    runs: tuple[int, ...] = ()
    """Positions of the runs that have its label, to be tried in this order."""
    failed_in: int | None = None
    """Position of a run in which it has failed."""
    reason: str = ""
    """Why it cannot be taken; empty otherwise."""


@dataclass(slots=True)
class Holdings:
    """What the runs hold, by key."""

    done: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions of the runs in which an item is done."""
    failed: dict[str, int] = field(default_factory=dict)
    """Position of a run in which an item has failed."""
    duplicates: list[str] = field(default_factory=list)
    """Keys of the items that are done in more than one run, with the same label."""

    @classmethod
    def of(cls, sources: Sequence[GatherSource]) -> "Holdings":
        """Read the ledgers.

        Raises:
            LayoutError: runs have different labels of an item; the message names them.
        """
        found = cls()
        conflicts: list[str] = []
        for number, source in enumerate(sources):
            alone = (number,)
            for entry in source.ledger:  # quickly: a run at work cannot commit meanwhile
                if entry.status == "failed":
                    found.failed[entry.key] = number
                elif (others := found.done.get(entry.key)) is None:
                    found.done[entry.key] = alone
                else:
                    other = sources[others[0]]
                    if (before := other.ledger.get(entry.key)) is not None and before.sha256 != entry.sha256:
                        conflicts.append(f"{_label(other, entry.key)} and {_label(source, entry.key)}")
                    elif len(others) == 1:
                        found.duplicates.append(entry.key)
                    found.done[entry.key] = others + alone
        if conflicts:
            more = f"\n  and {len(conflicts) - _CONFLICTS_NAMED} more" if len(conflicts) > _CONFLICTS_NAMED else ""
            named = "".join(f"\n  {pair}" for pair in conflicts[:_CONFLICTS_NAMED])
            raise LayoutError(
                f"two runs have different labels of one image:{named}{more}\ngather without the run that is out of date"
            )
        return found


def _label(source: GatherSource, key: str) -> Path:
    return source.workspace.labels / f"{key}.png"


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """What is to do, and what nobody has done."""

    to_do: tuple[Task, ...]
    missing: tuple[str, ...]
    """Keys of the images that no run has an entry of."""


@dataclass(frozen=True)
class GatherPlanner:
    """What a plan is made from."""

    sources: Sequence[GatherSource]
    held: Holdings
    listing: Listing | None
    """The images that the new run is to have; None where they are not known."""
    workspace: Workspace
    """Of the new run, as all that follows."""
    ledger: Ledger
    digest: str
    """Of the settings of all runs."""
    store: SoftStore | None
    """Where confidence is kept; what has none there is not done."""

    @cached_property
    def images(self) -> dict[str, Path]:
        """Image by key."""
        return {} if self.listing is None else {item.key: item.image for item in self.listing.items}

    @cached_property
    def _refused(self) -> dict[str, str]:
        return {} if self.listing is None else dict(self.listing.problems)

    @cached_property
    def _slots(self) -> dict[str, int]:
        return {} if self.store is None else self.ledger.slots()

    def count_gone(self) -> int:
        """How many labels the runs have of images that are not there any more."""
        if self.listing is None:
            return 0
        # an image that lost its key to another one is there all the same
        there = self.images.keys() | {PurePosixPath(name).with_suffix("").as_posix() for name in self._refused}
        return len(self.held.done.keys() - there)

    def plan(self, count: Callable[[Entry], None]) -> GatherPlan:
        """Make the plan.

        Args:
            count: is called with the entry of every item that is done.
        """
        to_do: list[Task] = []
        missing: list[str] = []
        failed = {key for key in self.held.failed if self.listing is None or key in self.images}
        for key in sorted(self.held.done.keys() | failed | self.images.keys() | self._refused.keys()):
            made = self.ledger.get(key)
            runs = self.held.done.get(key, ())
            try:
                label = self.workspace.label_path(key)
            except WorkspaceError as error:
                to_do.append(Task(key, reason=f"{key}: {error}"))
                continue
            if made is not None and self._is_done(made, runs, label):
                count(made)
            elif runs:
                reason = reason_to_keep(label, self.digest, "the label gathered")
                to_do.append(Task(key, reason=reason) if reason else Task(key, runs))
            elif key in self._refused:
                to_do.append(Task(key, reason=self._refused[key]))
            elif key in failed:
                to_do.append(Task(key, failed_in=self.held.failed[key]))
            else:
                missing.append(key)
        # what is missing has not failed, whatever an earlier call found
        self.ledger.forget_failures(frozenset(task.key for task in to_do))
        return GatherPlan(tuple(to_do), tuple(missing))

    def _is_done(self, made: Entry, runs: tuple[int, ...], label: Path) -> bool:
        image = self.images.get(made.key)
        return (
            made.status == "done"
            and made.settings_digest == self.digest
            and label_agrees(made, label)
            and (image is None or image_agrees(made, image))
            and self._is_of_runs(made, runs, has_image=image is not None)
            and self._is_kept(made)
        )

    def _is_of_runs(self, made: Entry, runs: tuple[int, ...], *, has_image: bool) -> bool:
        theirs = [entry for run in runs if (entry := self.sources[run].ledger.get(made.key)) is not None]
        if any(entry.sha256 == made.sha256 and entry.image_sha256 == made.image_sha256 for entry in theirs):
            return True
        # labelled in the new run itself: its image is proven to be the one that is there, and theirs is another
        return not theirs or (has_image and all(entry.image_sha256 != made.image_sha256 for entry in theirs))

    def _is_kept(self, made: Entry) -> bool:
        slot = self._slots.get(made.key)
        if self.store is None:
            return True
        return slot is not None and self.store.chunk_path(slot, (made.height, made.width)).is_file()
