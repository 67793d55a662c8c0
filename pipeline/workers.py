"""Who labels: the one small interface that a run knows, and the process of the command itself as its simplest case.

What a worker does with its items is `labeller`'s; the workers of a cluster are in `dask_workers`.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from pipeline.labeller import Labeller
from pipeline.worker_view import WorkerView
from storage.layouts import Item
from storage.ledger import Entry

Record = Callable[[list[Entry]], list[Entry]]
"""Records entries, and gives those that are recorded."""


class Workers(Protocol):
    """One process, or many: what labels items."""

    @property
    def name(self) -> str:
        """Where they are; empty for the process itself."""

    @property
    def dashboard(self) -> str:
        """Address of a page that shows them; empty where there is none."""

    def label(self, items: Iterator[Item], count: int, record: Record) -> Iterator[Entry]:
        """Label items; each becomes one entry, in whatever order.

        Args:
            items: taken as they are needed, never all at once.
            count: how many there are.
            record: called in this thread, also with what was finished when an error, or the consumer, ends the work.

        Yields:
            The entries that are recorded.

        Raises:
            BudgetError, DiskFullError, WorkspaceError: as `Labeller.label`.
            WorkerError: there is nobody to do the work.
        """

    def view(self) -> tuple[WorkerView, ...]:
        """How each worker stands; nothing where there is but the process itself."""

    def close(self) -> None:
        """Let the workers go."""


class OneProcess:
    """The process itself: one device, no dask."""

    name = dashboard = ""

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller

    def label(self, items: Iterator[Item], count: int, record: Record) -> Iterator[Entry]:  # noqa: ARG002 - the interface's
        """As `Workers.label`; entries come in the order of the items."""
        return self._labeller.label(items, record)

    def view(self) -> tuple[WorkerView, ...]:
        """Nothing: it is the run itself."""
        return ()

    def close(self) -> None:
        """There is nothing to let go."""
