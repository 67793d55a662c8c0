"""The soft store of a labelling run: claimed for it, grown to its items, and written through its workspace.

What a chunk holds is in `storage.soft_store`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import ForeignSettingsError
from storage.ledger import Ledger
from storage.soft_store import SoftStore, StoreForm
from storage.workspace import Workspace

_PAGE = 4104
"""Bytes that a page of the ledger takes in its journal."""


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


def release_slots(workspace: Workspace, ledger: Ledger, keys: Iterable[str]) -> None:
    """Keep nothing any more of items: their chunks go first, as a slot may become another item's.

    Raises:
        ForeignSettingsError: the run's store is none that this version reads.
    """
    slots = ledger.slots()
    if not slots:
        return
    given_up = {key: slots[key] for key in keys if key in slots}
    if (store := SoftStore.find(workspace.soft)) is not None:
        freed = store.remove(given_up.values())
        if workspace.account is not None:
            workspace.account.reserve(-freed)
    ledger.take_slots(given_up)


@dataclass(frozen=True, slots=True)
class StoreWriter:
    """Where each item's chunk goes; threads may share it."""

    workspace: Workspace
    store: SoftStore
    slots: dict[str, int]
    """By key."""

    @classmethod
    def open(cls, workspace: Workspace, store: SoftStore, ledger: Ledger, keys: Iterable[str]) -> "StoreWriter":
        """Give every item a slot, and room to the arrays that are there; what is to be kept anew is thrown away.

        So an item that has a chunk has that of its label, wherever a run is stopped.

        Args:
            workspace: of the run.
            store: of the run; it is made where it is missing.
            ledger: of the run.
            keys: of all items that are to be labelled.

        Raises:
            BudgetError: there is no room for their slots.
            WorkspaceError: the store or the ledger cannot be written.
        """
        wanted = list(keys)
        if not (group := store.root / "zarr.json").is_file():
            workspace.publish(group, store.form.group_metadata())
        known = ledger.slots()
        # twice in the ledger, by key and by slot, and as much again where its pages are half full
        new = [key for key in wanted if key not in known]
        room = sum(4 * (len(key.encode()) + 8) for key in new)
        account = workspace.account
        if account is not None:  # while they are written, the journal has the pages that change
            room += min(account.ledger_bytes, 2 * _PAGE * len(new))
        if account is not None:
            account.reserve(room)
        slots = ledger.give_slots(wanted)
        if account is not None:
            account.settle(rows=0)
            account.reserve(-room)
        writer = cls(workspace, store, slots)
        if sizes := store.array_sizes():
            freed = store.remove(slots[key] for key in wanted)
            if account is not None:
                account.reserve(-freed)
        for size in sizes:
            workspace.publish(writer._metadata_path(size), writer._metadata(size))
        return writer

    def files(self, key: str, planes: npt.NDArray[np.uint8]) -> list[tuple[Path, bytes]]:
        """The files that keep an item's planes: its chunk, and where its size is new the array's metadata."""
        height, width = planes.shape[1:]
        size = (height, width)
        return [*self.new_array(size), (self.chunk_path(key, size), self.store.form.encode(planes))]

    def chunk_path(self, key: str, size: tuple[int, int]) -> Path:
        """Where the planes of an item of a size (height, width) are to be kept."""
        return self.store.chunk_path(self.slots[key], size)

    def new_array(self, size: tuple[int, int]) -> list[tuple[Path, bytes]]:
        """The metadata of the array of a size (height, width); nothing where it is there."""
        path = self._metadata_path(size)
        return [] if path.is_file() else [(path, self._metadata(size))]  # threads may write it twice, and the same

    def _metadata_path(self, size: tuple[int, int]) -> Path:
        return self.store.array_path(size) / "zarr.json"

    def _metadata(self, size: tuple[int, int]) -> bytes:
        return self.store.form.array_metadata(size, 1 + max(self.slots.values(), default=0))
