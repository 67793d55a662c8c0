"""The plan of a labelling run: which items are left to do, decided before the first one is touched.

An item is done if, and only if, the ledger has an entry with these settings' digest and the file agrees with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from storage.layouts import Item, Listing
from storage.ledger import Entry, Ledger, label_agrees
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do, and what it found done."""

    to_do: tuple[Item, ...]
    done: tuple[Entry, ...]
    """Entries of items that are finished with these settings."""
    ambiguous: tuple[tuple[str, str], ...]
    """Images that share a label's name with another: (relative path, reason); each is a failed item."""

    @property
    def total(self) -> int:
        """Every image of the listing, whatever becomes of it."""
        return len(self.to_do) + len(self.done) + len(self.ambiguous)

    def failures(self, digest: str) -> Iterator[Entry]:
        """The failed entries of the items that cannot be labelled at all."""
        for key, reason in self.ambiguous:
            yield Entry(key=key, status="failed", settings_digest=digest, reason=reason)


def make_plan(listing: Listing, ledger: Ledger, workspace: Workspace, digest: str) -> Plan:
    """Split the images of a listing into those that are done and those to do.

    Args:
        listing: the images.
        ledger: what earlier runs recorded.
        workspace: where the labels are.
        digest: of the settings that decide pixels.
    """
    to_do: list[Item] = []
    done: list[Entry] = []
    for item in listing.items:
        entry = ledger.get(item.key)
        if (
            entry is not None
            and entry.status == "done"
            and entry.settings_digest == digest
            and entry.image_bytes == item.image.stat().st_size
            and label_agrees(entry, workspace.label_path(item.key))
        ):
            done.append(entry)
        else:
            to_do.append(item)
    return Plan(tuple(to_do), tuple(done), listing.ambiguous)
