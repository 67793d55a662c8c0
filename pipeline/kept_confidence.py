"""The soft store of a labelling run: claimed for it, grown to its items, and written through its workspace.

What a chunk holds is in `storage.soft_store`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.errors import ForeignSettingsError
from storage.ledger import Ledger
from storage.soft_store import SoftStore, StoreForm
from storage.workspace import Workspace


def claim_store(workspace: Workspace, form: StoreForm) -> SoftStore:
    """Make the store of a run, or find it as it was.

    Raises:
        ForeignSettingsError: there is one that holds something else.
        WorkspaceError: it cannot be written.
    """
    store = SoftStore.find(workspace.soft)
    if store is None:
        workspace.publish(workspace.soft / "zarr.json", form.group_metadata())
        return SoftStore(workspace.soft, form)
    if store.form != form:
        raise ForeignSettingsError(
            f"{workspace.soft} keeps {store.form.keep} in {store.form.steps} steps of {len(store.form.classes)} "
            f"classes, asked for are {form.keep} in {form.steps} steps of {len(form.classes)}; repeat what is there, "
            f"or choose another --out"
        )
    return store


@dataclass(slots=True)
class StoreWriter:
    """Where each item's chunk goes; threads may share it."""

    workspace: Workspace
    store: SoftStore
    slots: dict[str, int]
    """By key."""
    earlier: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(height, width) of images that were labelled before, by key."""

    @classmethod
    def open(cls, workspace: Workspace, store: SoftStore, ledger: Ledger, keys: Iterable[str]) -> "StoreWriter":
        """Give every item a slot, and room to the arrays that are there.

        Args:
            workspace: of the run.
            store: of the run.
            ledger: of the run.
            keys: of all items that are to be labelled.
        """
        wanted = list(keys)
        slots = ledger.give_slots(wanted)
        writer = cls(workspace, store, slots)
        for size in store.array_sizes():
            workspace.publish(writer._metadata_path(size), writer._metadata(size))
        for key in wanted:
            if (entry := ledger.get(key)) is not None and entry.status == "done":
                writer.earlier[key] = (entry.height, entry.width)
        return writer

    def files(self, key: str, planes: npt.NDArray[np.uint8]) -> list[tuple[Path, bytes]]:
        """The files that keep an item's planes: its chunk, and where its size is new the array's metadata."""
        height, width = planes.shape[1:]
        size = (height, width)
        before = self.earlier.get(key)
        if before is not None and before != size:  # the image was replaced by one of another size
            self.store.chunk_path(self.slots[key], before).unlink(missing_ok=True)
        files = [(self.store.chunk_path(self.slots[key], size), self.store.form.encode(planes))]
        if not (metadata := self._metadata_path(size)).is_file():  # two threads may write it; they write the same
            files.insert(0, (metadata, self._metadata(size)))
        return files

    def _metadata_path(self, size: tuple[int, int]) -> Path:
        return self.store.array_path(size) / "zarr.json"

    def _metadata(self, size: tuple[int, int]) -> bytes:
        return self.store.form.array_metadata(size, 1 + max(self.slots.values(), default=0))
