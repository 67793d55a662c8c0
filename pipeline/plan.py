"""The plan of a labelling run: which items are left to do, decided before the first one is touched.

An item is done if, and only if, the ledger has an entry with these settings' digest and the files agree with it.
A label that this run did not make is never replaced: its item is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.run_folder import reason_to_keep
from storage.errors import WorkspaceError
from storage.layouts import Item, Listing
from storage.ledger import Entry, Ledger, image_agrees, label_agrees
from storage.soft_store import SoftStore
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, and what it found done."""

    to_do: tuple[Item, ...]
    done: tuple[Entry, ...]
    """Entries of items that are finished with these settings."""
    refused: tuple[tuple[str, str], ...]
    """Images that cannot be labelled as things lie: (key, or relative path where it has none, reason)."""

    @property
    def total(self) -> int:
        """Every image of the listing, whatever becomes of it."""
        return len(self.to_do) + len(self.done) + len(self.refused)

    def failures(self, digest: str) -> Iterator[Entry]:
        """The failed entries of the images that are refused."""
        for key, reason in self.refused:
            yield Entry(key=key, status="failed", settings_digest=digest, reason=reason)


def make_plan(
    listing: Listing, ledger: Ledger, workspace: Workspace, digest: str, store: SoftStore | None = None
) -> Plan:
    """Split the images of a listing into those that are done, those to do, and those that are refused.

    Args:
        listing: the images.
        ledger: what earlier runs recorded.
        workspace: where the labels are.
        digest: of the settings that decide pixels.
        store: where confidence is to be kept; what has none there is not done.
    """
    slots = {} if store is None else ledger.slots()
    to_do: list[Item] = []
    done: list[Entry] = []
    refused = list(listing.problems)
    for item in listing.items:
        try:
            label = workspace.label_path(item.key)
        except WorkspaceError as error:
            refused.append((item.key, f"{item.image}: {error}"))
            continue
        entry = ledger.get(item.key)
        if (
            entry is not None
            and entry.status == "done"
            and entry.settings_digest == digest
            and image_agrees(entry, item.image)
            and label_agrees(entry, label)
            and (store is None or _is_kept(store, slots.get(item.key), entry))
        ):
            done.append(entry)
        elif reason := reason_to_keep(label, digest, "the image labelled"):
            refused.append((item.key, reason))
        else:
            to_do.append(item)
    return Plan(tuple(to_do), tuple(done), tuple(refused))


def _is_kept(store: SoftStore, slot: int | None, entry: Entry) -> bool:
    """Whether there is a chunk of an item; whether it is whole, `verify` says."""
    return slot is not None and store.chunk_path(slot, (entry.height, entry.width)).is_file()
