"""What a run will take on the disk in the end, from what it has taken so far, and what would take less.

It warns; the account keeps the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import get_args

from storage.account import MARGIN
from storage.budget import LEDGER_BYTES, free_bytes
from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.label_png import LabelFormat, Preset, encode_label_png, read_label_values
from storage.ledger import Entry
from storage.schema import MAX_CLASSES
from storage.workspace import Workspace

ENOUGH = 8
"""Labels after which the mean is believed; the first ones of a set come from one folder, and more do not help that."""

TRIED = 6
"""Labels that are encoded again to see what another preset would save."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """The forecast that there will not be room for all."""

    bytes: int
    """That all files of the run will take."""
    room: int
    """That they may take, by the budget or by the free space."""
    is_budget: bool
    """Whether the budget is what they will not fit; otherwise it is the disk."""
    fitting: tuple[str, ...]
    """What would fit from here on, in the words of the command's options; the smallest change first."""


@dataclass(frozen=True, slots=True)
class Made:
    """Labels that there are already."""

    count: int = 0
    bytes: int = 0
    keys: tuple[str, ...] = ()
    """Of the last ones."""

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> "Made":
        """What entries of done items add up to."""
        return cls(len(entries), sum(entry.bytes for entry in entries), tuple(e.key for e in entries[-TRIED:]))


class Forecast:
    """The bytes of a run, foretold.

    Args:
        workspace: of the run; its account says what it takes.
        done: what earlier runs have made.
        left: items that are to be labelled, or fail.
        preset: of the labels that are to be made.
    """

    def __init__(self, workspace: Workspace, done: Made, left: int, preset: Preset = "fast") -> None:
        assert workspace.account is not None, "a run that forecasts counts its bytes"
        self._workspace, self._account, self._preset = workspace, workspace.account, preset
        self._start, self._start_ledger = self._account.used, self._account.ledger_bytes
        self._left, self._made = left, 0
        # until this run has made enough of its own, what earlier ones have made is what there is to go by
        self._labels, self._label_bytes = done.count, done.bytes
        self._earlier = max(0, self._start - LEDGER_BYTES) / done.count if done.count >= ENOUGH else None
        self._last = list(done.keys)
        self._warned = False

    def add(self, entry: Entry) -> None:
        """Count an item of this run."""
        self._left -= 1
        if entry.status == "done":
            self._made += 1
            self._labels += 1
            self._label_bytes += entry.bytes
            self._last = [*self._last[1 - TRIED :], entry.key]

    @property
    def bytes_each(self) -> float | None:
        """Bytes of an item with all that belongs to it; None before enough are made."""
        if self._made >= ENOUGH:
            return (self._account.used - self._start) / self._made
        return self._earlier

    @property
    def total(self) -> int | None:
        """Bytes of all files of the run once it is finished; None before that can be said."""
        each = self.bytes_each
        return None if each is None else round(self._account.used + each * self._left)

    def shortage(self) -> Shortage | None:
        """The shortage that is foreseen, the first time that one is; None otherwise, and ever after."""
        total = self.total
        if self._warned or total is None or not self._left:
            return None
        used, limit = self._account.used, self._account.limit
        on_disk = used + free_bytes(self._workspace.root)
        by_budget = on_disk if limit is None else limit - MARGIN
        room = min(by_budget, on_disk)
        if total <= room:
            return None
        self._warned = True
        return Shortage(total, room, by_budget <= on_disk and limit is not None, self._fitting(room))

    def _fitting(self, room: int) -> tuple[str, ...]:
        """The choices under which what is left would fit."""
        each, used = self.bytes_each, self._account.used
        assert each is not None, "a shortage was foreseen from it"
        label = self._label_bytes / self._labels
        ledger = self._account.ledger_bytes
        row = (ledger - self._start_ledger) / self._made if self._made >= ENOUGH else ledger / self._labels
        kept = max(0.0, each - label - row)
        saved = self._saved_by_presets()
        choices = []
        for drop_store, preset in product(
            (False, True) if self._workspace.soft.is_dir() else (False,), get_args(Preset)
        ):
            still_kept = 0.0 if drop_store else kept
            is_as_now = preset == self._preset and not drop_store
            if not is_as_now and used + self._left * (label * saved[preset] + row + still_kept) <= room:
                choices.append(" ".join([f"--png {preset}", *(["--keep none"] if drop_store else [])]))
        return tuple(choices[:2])

    def _saved_by_presets(self) -> dict[Preset, float]:
        """What each preset would take, as a share of what the present one does, by encoding the last labels again."""
        sizes: dict[Preset, int] = dict.fromkeys(get_args(Preset), 0)
        for key in self._last:
            try:
                label = LabelMap(read_label_values(self._workspace.label_path(key)), MAX_CLASSES)
            except (LabelError, OSError):
                continue  # gone meanwhile; the others tell
            for preset in sizes:
                sizes[preset] += len(encode_label_png(label, form=LabelFormat(preset)))
        now = sizes[self._preset]
        return {preset: size / now if now else 1.0 for preset, size in sizes.items()}
