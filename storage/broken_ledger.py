"""What is said of a ledger that is damaged or lost, wherever it is met: that no label is, and what makes it anew.

It does not make it; `verify --rebuild` does.
"""

import sqlite3
from pathlib import Path

from storage.errors import BrokenLedgerError

COPY_MEMORY = "copy.json"
"""File beside the ledger of a run in a store: what its driver knows of the copy there."""

SETTINGS = "settings.toml"
"""File in the folder of a run: its settings, which no run writes before its ledger has them."""

_BROKEN = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""A table that is missing, pages that are none, and a file that is none."""

_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
"""A disk that does not give its content; one that takes none, or no lock, says nothing of the ledger."""


def is_broken(error: Exception) -> bool:
    """Whether an error says that a ledger is damaged, and not that it is in use, not writable or to be rolled back.

    Args:
        error: of SQLite, or of Python, which cannot read SQLite's own message where that quotes what is damaged.
    """
    # what Python itself finds, such as text that is no UTF-8, has no code; extended codes have the plain one below
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _BROKEN or code in _UNREADABLE


def broken_ledger(path: Path, what: str) -> BrokenLedgerError:
    """The error that says what is wrong with a ledger, and what to do.

    Args:
        path: of the ledger.
        what: is wrong.
    """
    if (path.parent / COPY_MEMORY).is_file():
        return BrokenLedgerError(
            f"{what}; no label is lost: move {path} away, with its -journal where there is one, and run the same "
            f"`label` command again, which goes on with the copy in the store"
        )
    if not (path.parent / SETTINGS).is_file():
        return BrokenLedgerError(
            f"{what}; there is no {SETTINGS} beside it, as where a run is starting, or was ended then: run the "
            f"same `label` command again, and where that says the same, move {path} away first"
        )
    return BrokenLedgerError(
        f"{what}; no label is lost: `autocoarse verify {path.parent} --rebuild` makes the ledger anew from the labels"
    )
