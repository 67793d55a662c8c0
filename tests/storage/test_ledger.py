"""The ledger: what is committed stays, failures are counted, and a label is believed only if it agrees."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.agreement import image_agrees, label_agrees
from storage.broken_ledger import is_broken
from storage.errors import BrokenLedgerError, DiskFullError, WorkspaceError
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest

DONE = Entry(
    key="a/x", status="done", settings_digest="d", height=2, width=3, ignored=1, bytes=5, counts=(4, 1), seconds=0.5
)


def test_entries_are_read_back_as_they_were(tmp_path: Path) -> None:
    """A committed entry survives closing the ledger."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([DONE])
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert list(ledger) == [DONE]
        assert ledger.get("a/x") == DONE
        assert ledger.get("a/y") is None


def test_repeated_failures_are_counted_and_success_replaces_them(tmp_path: Path) -> None:
    """Each run that fails on an item adds an attempt; the item's one entry tells the last outcome."""
    failed = Entry(key="a/x", status="failed", settings_digest="d", reason="torn")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([failed])
        ledger.commit([failed])
        entry = ledger.get("a/x")
        assert entry is not None
        assert entry.attempts == 2
        assert not ledger.has_labels()
        ledger.commit([DONE])
        assert list(ledger) == [DONE]
        assert ledger.has_labels()


def test_failures_of_what_is_no_longer_listed_are_forgotten(tmp_path: Path) -> None:
    """Only failed entries whose key is not given go; what is done stays."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([Entry(key=k, status="failed", settings_digest="d", reason="torn") for k in ("b", "c")])
        ledger.commit([DONE])
        ledger.forget_failures(frozenset({"c", "d"}))
        assert [e.key for e in ledger] == ["a/x", "c"]
        assert ledger.done_keys() == {"a/x"}


def test_settings_are_remembered(tmp_path: Path) -> None:
    """The settings that the labels were made with are those last claimed."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.settings is None
        ledger.claim({"threshold": 0.5, "scales": [0.5, 1.0]})
        assert ledger.settings == {"threshold": 0.5, "scales": [0.5, 1.0]}


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Garbage in the ledger's place is an error, not a new ledger."""
    (tmp_path / "l.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(WorkspaceError, match="cannot open the ledger"):
        Ledger(tmp_path / "l.sqlite")


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("UPDATE run SET value = '{\"scales\": [' WHERE name = 'settings'", lambda ledger: ledger.settings),
        ("UPDATE notes SET value = 'torn'", lambda ledger: ledger.note("a/x")),
        ("UPDATE entries SET counts = '[1, '", lambda ledger: ledger.get("a/x")),
        ("UPDATE entries SET counts = '5'", list),
        ("UPDATE entries SET height = 'two'", list),
        ("UPDATE entries SET sha256 = X'00ff'", list),
        ("UPDATE entries SET reason = CAST(X'e9e9' AS TEXT)", list),
        ("DROP TABLE slots; CREATE TABLE slots (other)", lambda ledger: ledger.slots()),
        ("DELETE FROM run", lambda ledger: ledger),
        ("DROP TABLE run", lambda ledger: ledger),
    ],
)
def test_what_no_run_has_written_is_damage(tmp_path: Path, change: str, read: Callable[[Ledger], object]) -> None:
    """Pages may be whole and what they hold may not: it is one kind of error, which says what to do."""
    path = tmp_path / "l.sqlite"
    (tmp_path / "settings.toml").touch()
    with Ledger(path) as ledger:
        ledger.claim({"scales": [0.5, 1.0]})
        ledger.commit([DONE], {"a/x": {"note": 1}})
    connection = sqlite3.connect(path)
    connection.executescript(change)
    connection.close()

    def look() -> None:
        with Ledger(path, read_only=True) as ledger:
            read(ledger)

    with pytest.raises(BrokenLedgerError, match=f"autocoarse verify {tmp_path} --rebuild"):
        look()


@pytest.mark.parametrize("change", ["", "CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"])
def test_a_ledger_that_a_run_has_only_begun_needs_nothing_but_the_run(tmp_path: Path, change: str) -> None:
    """Whoever looks while it is made, or after a kill just then, is not sent to make it anew from labels."""
    path = tmp_path / "l.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(change)
    connection.close()
    path.touch()
    with pytest.raises(BrokenLedgerError, match="run the same `label` command again"):
        Ledger(path, read_only=True)
    with Ledger(path) as ledger:
        assert not ledger.has_entries()


def test_a_ledger_that_cannot_be_opened_keeps_no_lock(tmp_path: Path) -> None:
    """Also while its error is still looked at."""
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.commit([DONE])
    connection = sqlite3.connect(path, timeout=0)
    connection.execute("UPDATE run SET value = '99' WHERE name = 'format'")
    connection.commit()
    with pytest.raises(WorkspaceError, match="has format 99") as caught:
        Ledger(path)
    connection.execute("DELETE FROM entries")
    connection.commit()
    connection.close()
    assert caught.value


def test_the_ledger_of_a_run_in_a_store_is_fetched_again(tmp_path: Path) -> None:
    """Its copy is better than what labels tell: the message says how it comes back."""
    (tmp_path / "copy.json").write_text("{}")
    (tmp_path / "ledger.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(BrokenLedgerError, match="goes on with the copy in the store"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_label_agrees_by_size_and_time_or_by_hash(tmp_path: Path) -> None:
    """A copied run has other times and is believed by its hash; a changed file is not."""
    path = tmp_path / "x.png"
    path.write_bytes(b"12345")
    entry = Entry(
        key="x",
        status="done",
        settings_digest="d",
        bytes=5,
        modified_ns=path.stat().st_mtime_ns,
        sha256=file_digest(path),
    )
    assert label_agrees(entry, path)
    os.utime(path, ns=(1, 1))
    assert label_agrees(entry, path)
    path.write_bytes(b"12346")
    os.utime(path, ns=(1, 1))
    assert not label_agrees(entry, path)
    path.write_bytes(b"123456")
    assert not label_agrees(entry, path)
    path.unlink()
    assert not label_agrees(entry, path)


def test_an_image_agrees_by_the_same_rule(tmp_path: Path) -> None:
    """Size first, then time, then the hash: an image that was replaced by one of its size is found out."""
    path = tmp_path / "x.bmp"
    path.write_bytes(b"12345")
    entry = Entry(
        key="x",
        status="done",
        settings_digest="d",
        image_bytes=5,
        image_modified_ns=path.stat().st_mtime_ns,
        image_sha256=file_digest(path),
    )
    os.utime(path, ns=(1, 1))
    assert image_agrees(entry, path)
    path.write_bytes(b"12346")
    os.utime(path, ns=(1, 1))
    assert not image_agrees(entry, path)


def test_what_cannot_be_looked_at_does_not_agree(tmp_path: Path) -> None:
    """A folder, a link that leads nowhere or round in a circle, and a path through a file are no labels."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").touch()
    entry = Entry(key="x", status="done", settings_digest="d", bytes=(tmp_path / "folder").stat().st_size)
    for name in ("folder", "dangling", "circle", "file/x"):
        assert not label_agrees(entry, tmp_path / name)
        assert not image_agrees(entry, tmp_path / name)


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger: ledger.claim({"long": "x" * 10**5}),
        lambda ledger: ledger.record_plan({"long": "x" * 10**5}),
        lambda ledger: ledger.give_slots(f"{n}" * 100 for n in range(1000)),
        lambda ledger: ledger.commit([DONE], {"a/x": {"long": "x" * 10**5}}),
    ],
)
def test_a_full_disk_is_one_kind_of_error(tmp_path: Path, write: Callable[[Ledger], object]) -> None:
    """Whatever was to be written: what was there stays, and the message says what to do."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([DONE])
        (pages,) = ledger._connection.execute("PRAGMA page_count").fetchone()
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFullError, match="run the same command again"):
            write(ledger)
        assert list(ledger) == [DONE]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("SQLITE_IOERR_READ", True),
        ("SQLITE_CORRUPT_INDEX", True),
        ("SQLITE_IOERR_WRITE", False),
        ("SQLITE_IOERR_FSYNC", False),
        ("SQLITE_IOERR_LOCK", False),
        ("SQLITE_BUSY", False),
        ("SQLITE_FULL", False),
    ],
)
def test_a_disk_that_takes_nothing_is_no_damage(name: str, damage: bool) -> None:
    """A ledger that cannot be read is damaged; one that cannot be written or locked, as with a quota, is not."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, name)
    assert is_broken(error) == damage
