"""The account of a run's bytes: what lies under its folder, and what may still be written there.

Whoever writes reserves first; threads share an account. Where the bytes go is the workspace's.
"""

import threading
from pathlib import Path

from storage.errors import BudgetError

LEDGER_ROW = 2048
"""Bytes that a ledger grows by for an entry at most, of a few hundred classes, until it is measured again."""

MARGIN = 64_000
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
        self._granted = 0
        self._ledger: Path | None = None
        self._ledger_bytes = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are there or reserved."""
        with self._lock:
            return self._taken()

    @property
    def room(self) -> int | None:
        """Bytes that may still be reserved or granted; None: nobody limits them."""
        if self.limit is None:
            return None
        with self._lock:
            return max(0, self.limit - self._taken() - self._granted - MARGIN)

    def grant(self, count: int) -> None:
        """Promise bytes to another process, which keeps an account of its own of them.

        Raises:
            BudgetError: there is no room for them; nothing is granted.
        """
        with self._lock:
            used = self._taken() + self._granted
            if self.limit is not None and used + count + MARGIN > self.limit:
                raise BudgetError(f"the budget of {_kb(self.limit)} has no room for {_kb(count)} more")
            self._granted += count

    def take_back(self, count: int, used: int = 0, rows: int = 0) -> None:
        """End a grant.

        Args:
            count: as it was given.
            used: bytes of it that were written.
            rows: entries that the ledger will get for them.
        """
        with self._lock:
            self._granted -= count
            self._used += used
            self._rows += rows

    def recount(self, used: int) -> None:
        """Begin anew from what was measured: bytes of all files, the ledger's among them; grants stay."""
        with self._lock:
            self._measure()
            self._used, self._rows = used - self._ledger_bytes, 0

    @property
    def ledger_bytes(self) -> int:
        """Bytes of the ledger, when it was last measured."""
        with self._lock:
            return self._ledger_bytes

    def open(self, used: int, ledger: Path, *, to_write: bool = True) -> None:
        """Say what is there already.

        Args:
            used: bytes of all files, the ledger's among them.
            ledger: file that grows by itself.
            to_write: whether anything is to be written.

        Raises:
            BudgetError: that leaves no room for what is to be written.
        """
        with self._lock:
            self._ledger = ledger
            self._measure()
            self._used = used - self._ledger_bytes
        if not to_write:
            self.limit = None  # a run that is finished may be looked at with any budget
        if self.limit is not None and used + MARGIN > self.limit:
            raise BudgetError(
                f"a budget of {_kb(self.limit)} leaves no room for labels: ledger, settings and what is there take "
                f"{_kb(used)}, and {_kb(MARGIN)} are kept free for the ledger; give a larger --budget, of more than "
                f"{_kb(used + MARGIN)}"
            )

    def reserve(self, count: int, rows: int = 0, *, from_margin: bool = False) -> None:
        """Take bytes before they are written.

        Args:
            count: how many; negative where a file is replaced by a smaller one.
            rows: entries that the ledger will get.
            from_margin: they are for one of the run's few small files, for which the margin is there.

        Raises:
            BudgetError: they would pass the limit; nothing is taken.
        """
        margin = 0 if from_margin else MARGIN
        with self._lock:
            used, more = self._taken(), count + rows * LEDGER_ROW
            if self.limit is not None and more > 0 and used + more + self._granted + margin > self.limit:
                raise BudgetError(
                    f"the budget of {_kb(self.limit)} is used up: the run's files take {_kb(used)}, "
                    f"{_kb(MARGIN)} are kept free for the ledger, and what is next would take {_kb(more)}"
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
            self._measure()

    def _taken(self) -> int:
        """Bytes that are there or reserved; the lock is held, as for what follows."""
        return self._used + self._rows * LEDGER_ROW + self._ledger_bytes

    def _measure(self) -> None:
        try:
            self._ledger_bytes = 0 if self._ledger is None else self._ledger.stat().st_size
        except FileNotFoundError:
            self._ledger_bytes = 0


def _kb(count: int) -> str:
    return f"{count / 1000:,.1f} KB"
