"""The table of a report's items, filled while they are measured; plain columns, as there may be many.

What is measured of an item is in `report_measure`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.report_form import ItemColumns, State
from pipeline.report_measure import Measured
from pipeline.report_sources import ReportItem
from storage.layouts import pairing_key

_Shares = list[float | None]


@dataclass(slots=True)
class ItemTable:
    """The columns of all items that were added, in their order."""

    audited: Mapping[str, float]
    """By pairing key, the disagreement that an audit found; taken where the labels themselves are not compared."""
    items: list[ReportItem] = field(default_factory=list)
    confidence: _Shares = field(default_factory=list)
    disagreement: _Shares = field(default_factory=list)
    error: _Shares = field(default_factory=list)

    def add(self, item: ReportItem, measured: Measured) -> None:
        """Add an item."""
        self.items.append(item)
        self.confidence.append(measured.confidence)
        found = measured.disagreement
        self.disagreement.append(self.audited.get(pairing_key(item.key)) if found is None else found)
        self.error.append(measured.error)

    @property
    def ignore(self) -> _Shares:
        """Share of pixels without a class, as the ledger says."""
        return [
            entry.ignored / (entry.height * entry.width) if (entry := item.entry) and entry.status == "done" else None
            for item in self.items
        ]

    @property
    def badness(self) -> _Shares:
        """By how much an item deserves a look: its error, else its disagreement, else what is ignored."""
        known = (column for column in (self.error, self.disagreement) if any(v is not None for v in column))
        return next(known, self.ignore)

    def columns(self, thumbs: Sequence[int | None]) -> ItemColumns:
        """The table for the page.

        Args:
            thumbs: of each item the number of its thumbnail.
        """
        names = [_folder(item.key) for item in self.items]
        folders = sorted(set(names))
        places = {name: place for place, name in enumerate(folders)}
        entries = [item.entry for item in self.items]
        return ItemColumns(
            key=tuple(item.key for item in self.items),
            folders=tuple(folders),
            folder=tuple(places[name] for name in names),
            width=tuple(0 if entry is None else entry.width for entry in entries),
            height=tuple(0 if entry is None else entry.height for entry in entries),
            state=tuple(_state(item) for item in self.items),
            reviewed=tuple(item.reviewed for item in self.items),
            ignore=tuple(self.ignore),
            confidence=tuple(self.confidence),
            disagreement=tuple(self.disagreement),
            error=tuple(self.error),
            classes=tuple(
                tuple(index for index, count in enumerate(entry.counts) if count) if entry is not None else ()
                for entry in entries
            ),
            thumb=tuple(thumbs),
        )


def _folder(key: str) -> str:
    return PurePosixPath(key).parent.as_posix()


def _state(item: ReportItem) -> State:
    return "left" if item.entry is None else item.entry.status
