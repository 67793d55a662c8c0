"""The soft store of a labelling run: claimed for it, grown to its items, and written through its workspace.

What a chunk holds is in `storage.soft_store`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import ForeignSettingsError
from storage.ledger import Ledger
from storage.soft_store import SoftStore, StoreForm
from storage.workspace import Workspace

_PAGE = 4104
"""Bytes that a page of the ledger takes in its journal."""

_PAGE_KEYS = 1000


def find_store(workspace: Workspace, form: StoreForm) -> SoftStore:
    """The store of a run, which may have to be made yet.

    Raises:
        ForeignSettingsError: there is one that holds something else.
    """
    store = SoftStore.find(workspace.soft)
    if store is not None and store.form != form:
        raise ForeignSettingsError(
            f"{workspace.soft} keeps {store.form.keep} in {store.form.steps} steps of {len(store.form.classes)} "
            f"classes, asked for are {form.keep} in {form.steps} steps of {len(form.classes)}; repeat what is there, "
            f"or choose another --out"
        )
    return store or SoftStore(workspace.soft, form)


def release_slots(workspace: Workspace, ledger: Ledger, keys: Callable[[], Iterable[str]]) -> None:
    """Keep nothing any more of items: their chunks go first, as a slot may become another item's.

    Args:
        workspace: of the run.
        ledger: of the run.
        keys: gives those of the items, as often as it is asked.

    Raises:
        ForeignSettingsError: the run's store is none that this version reads.
    """
    if not ledger.slot_count:
        return
    if (store := SoftStore.find(workspace.soft)) is not None:
        _free(workspace, store, _marked(ledger, keys()))
    for page in _pages(keys()):
        ledger.take_slots(page)


def _pages(keys: Iterable[str]) -> Iterator[list[str]]:
    """A few at a time: one transaction for each would take too long, and one for all too much room in the journal."""
    left = iter(keys)
    while page := list(islice(left, _PAGE_KEYS)):
        yield page


def _marked(ledger: Ledger, keys: Iterable[str]) -> bytearray:
    """By slot, whether it is one of these items."""
    marked = bytearray(ledger.slot_count)
    for key in keys:
        if (slot := ledger.slot(key)) is not None:
            marked[slot] = 1
    return marked


def _free(workspace: Workspace, store: SoftStore, unwanted: bytearray) -> None:
    freed = store.remove(unwanted)
    if workspace.account is not None:
        workspace.account.reserve(-freed)


@dataclass(frozen=True, slots=True)
class StoreWriter:
    """Where each item's chunk goes; small, and threads and processes may share it."""

    workspace: Workspace
    store: SoftStore
    slot_count: int
    """How many items have a chunk, or may get one."""

    @classmethod
    def open(
        cls, workspace: Workspace, store: SoftStore, ledger: Ledger, keys: Callable[[], Iterable[str]]
    ) -> "StoreWriter":
        """Give every item a slot, and room to the arrays that are there; what is to be kept anew is thrown away.

        So an item that has a chunk has that of its label, wherever a run is stopped.

        Args:
            workspace: of the run.
            store: of the run; it is made where it is missing.
            ledger: of the run.
            keys: gives those of all items that are to be labelled, as often as it is asked.

        Raises:
            BudgetError: there is no room for their slots.
            WorkspaceError: the store or the ledger cannot be written.
        """
        if not (group := store.root / "zarr.json").is_file():
            workspace.publish(group, store.form.group_metadata())
        for page in _pages(keys()):
            _give_slots(workspace, ledger, page)
        writer = cls(workspace, store, ledger.slot_count)
        if sizes := store.array_sizes():
            _free(workspace, store, _marked(ledger, keys()))
        for size in sizes:
            workspace.publish(writer._metadata_path(size), writer._metadata(size))
        return writer

    def files(self, slot: int, planes: npt.NDArray[np.uint8]) -> list[tuple[Path, bytes]]:
        """The files that keep an item's planes: its chunk, and where its size is new the array's metadata."""
        height, width = planes.shape[1:]
        size = (height, width)
        return [*self.new_array(size), (self.store.chunk_path(slot, size), self.store.form.encode(planes))]

    def new_array(self, size: tuple[int, int]) -> list[tuple[Path, bytes]]:
        """The metadata of the array of a size (height, width); nothing where it is there."""
        path = self._metadata_path(size)
        return [] if path.is_file() else [(path, self._metadata(size))]  # threads may write it twice, and the same

    def _metadata_path(self, size: tuple[int, int]) -> Path:
        return self.store.array_path(size) / "zarr.json"

    def _metadata(self, size: tuple[int, int]) -> bytes:
        return self.store.form.array_metadata(size, self.slot_count)


def _give_slots(workspace: Workspace, ledger: Ledger, keys: Sequence[str]) -> None:
    """Give slots within the budget; raises BudgetError where it has no room for them."""
    new = [key for key in keys if ledger.slot(key) is None]
    account = workspace.account
    if account is None or not new:
        ledger.give_slots(new)
        return
    # twice in the ledger, by key and by slot, and as much again where its pages are half full
    room = sum(4 * (len(key.encode()) + 8) for key in new)
    # while they are written, the journal has the pages that change
    room += min(account.ledger_bytes, 2 * _PAGE * len(new))
    account.reserve(room)
    ledger.give_slots(new)
    account.settle(rows=0)
    account.reserve(-room)
