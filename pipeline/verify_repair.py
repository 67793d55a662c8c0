"""The repair of a verification: what is damaged goes back to the plan, so that the next run makes it again.

Only files that the run has made itself are deleted; whoever calls has the workspace's lock.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.run_folder import reason_to_keep
from pipeline.verify_problem import Problem
from storage.errors import WorkspaceError
from storage.ledger import Ledger
from storage.soft_store import SoftStore
from storage.workspace import Workspace


@dataclass(slots=True)
class Repaired:
    """What a repair did."""

    returned: list[str] = field(default_factory=list)
    """Keys of the items that the next run makes again."""
    removed: list[str] = field(default_factory=list)
    """Labels that were never recorded and are deleted: paths in the RUN."""
    kept: list[tuple[str, str]] = field(default_factory=list)
    """What could not be repaired: (key, or path in the RUN, why)."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Where a repair works."""

    workspace: Workspace
    ledger: Ledger
    digest: str
    """Of the run's settings."""
    store: SoftStore | None
    slots: Mapping[str, int]
    lost: Collection[str]
    """Keys of the items whose image is gone, or not known to be there."""

    def run(self, damaged: Iterable[str], others: Iterable[Problem]) -> Repaired:
        """Return items to the plan.

        Args:
            damaged: keys of the done items that are damaged.
            others: what is wrong beside them; leftovers of the run's own are deleted.

        Raises:
            OSError: a file cannot be deleted; what was deleted before is returned to the plan.
            WorkspaceError: the ledger cannot be written.
        """
        done = Repaired()
        try:
            for key in damaged:
                if reason := self._delete(key):
                    done.kept.append((key, reason))
                else:
                    done.returned.append(key)
        finally:
            # after the files: should this fail, a missing file is found missing by the next run all the same
            self.ledger.forget(done.returned)
        for problem in others:
            if problem.own:
                (self.workspace.root / problem.key).unlink(missing_ok=True)
                done.removed.append(problem.key)
            elif problem.damage:
                done.kept.append((problem.key, problem.reason))
        return done

    def _delete(self, key: str) -> str:
        """Delete an item's label and chunk; or say why not: not the run's own, or nothing could make them again."""
        if key in self.lost:
            return "what it was made from is not there to make it again; bring that back, or the label from a backup"
        try:
            label = self.workspace.label_path(key)
        except WorkspaceError as error:
            return str(error)
        if reason := reason_to_keep(label, self.digest, "the item made again"):
            return reason
        entry = self.ledger.get(key)
        if self.store is not None and entry is not None and key in self.slots:
            self.store.chunk_path(self.slots[key], (entry.height, entry.width)).unlink(missing_ok=True)
        label.unlink(missing_ok=True)
        return ""
