"""Notes of the ledger: what a job remembers of an item beyond its entry, recorded with it or not at all."""

from pathlib import Path

import pytest

from storage.ledger import Entry, Ledger


def test_a_note_is_kept_until_the_next_one_of_its_item(tmp_path: Path) -> None:
    """Notes survive closing the ledger; an entry that comes without one leaves the older note as it is."""
    entry = Entry(key="a/x", status="done", settings_digest="d")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.note("a/x") is None
        ledger.commit([entry], {"a/x": {"kept": [1, 2]}})
        ledger.commit([entry])
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.note("a/x") == {"kept": [1, 2]}
        ledger.commit([entry], {"a/x": {"kept": [3]}})
        assert ledger.note("a/x") == {"kept": [3]}
        assert list(ledger) == [entry]


def test_an_entry_and_its_note_are_recorded_together(tmp_path: Path) -> None:
    """Where the note cannot be written, the entry is not either."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(TypeError):
            ledger.commit([Entry(key="a/x", status="done", settings_digest="d")], {"a/x": {"no plain value": object()}})
        assert list(ledger) == []
        assert ledger.note("a/x") is None
