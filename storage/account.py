"""The account of a run's bytes: what lies under its folder, and what may still be written there.

Whoever writes reserves first; threads share an account. Where the bytes go is the workspace's.
"""

import threading
from pathlib import Path

from storage.errors import BudgetError

LEDGER_ROW = 2048
"""Bytes that a ledger grows by for an entry at most, of a few hundred classes, until it is measured again."""

MARGIN = 64 * 1024
"""Bytes that are never given out: the ledger's journal while it commits, the list of failures, half-filled pages."""


class ByteAccount:
    """Bytes under a run's folder against a limit.

    Args:
        limit: bytes that all files of the run may take together; None: as many as the disk has.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._used = 0
        self._rows = 0
        self._watched: dict[Path, int] = {}
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are there or reserved."""
        with self._lock:
            return self._used + self._rows * LEDGER_ROW + sum(self._watched.values())

    @property
    def ledger_bytes(self) -> int:
        """Bytes of the ledger, when it was last measured."""
        with self._lock:
            return sum(self._watched.values())

    def open(self, used: int, ledger: Path) -> None:
        """Say what is there already.

        Args:
            used: bytes of all files, the ledger's among them.
            ledger: file that grows by itself.

        Raises:
            BudgetError: that is more than the limit, or leaves no room for a label.
        """
        with self._lock:
            self._watched = {ledger: _size(ledger)}
            self._used = used - self._watched[ledger]
        if self.limit is not None and used + MARGIN > self.limit:
            raise BudgetError(
                f"a budget of {self.limit} bytes has no room for labels: the run's files take {used} bytes already, "
                f"and {MARGIN} are kept free for its ledger; give a larger --budget"
            )

    def reserve(self, count: int, rows: int = 0) -> None:
        """Take bytes before they are written.

        Args:
            count: how many; negative where a file is replaced by a smaller one.
            rows: entries that the ledger will get.

        Raises:
            BudgetError: they would pass the limit; nothing is taken.
        """
        with self._lock:
            used = self._used + (self._rows + rows) * LEDGER_ROW + sum(self._watched.values()) + count
            if self.limit is not None and count > 0 and used + MARGIN > self.limit:
                raise BudgetError(
                    f"the budget of {self.limit} bytes is used up: the run's files take {used - count} and the next "
                    f"label would take {count} more"
                )
            self._used += count
            self._rows += rows

    def settle(self, rows: int) -> None:
        """Measure the ledger again once entries are in it.

        Args:
            rows: how many of those that were reserved.
        """
        with self._lock:
            self._rows -= rows
            self._watched = {path: _size(path) for path in self._watched}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
