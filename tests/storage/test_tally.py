"""What a ledger's entries add up to: the same whatever the groups, and never in the way of its run."""

import threading
import time
from pathlib import Path

import pytest

from storage import tally as module
from storage.errors import WorkspaceError
from storage.ledger import Entry, Ledger
from storage.tally import Failure, tally


def done(key: str, written: int, size: int = 10) -> Entry:
    """A label of 2x3 pixels, one of them ignored."""
    return Entry(
        key=key, status="done", settings_digest="d", height=2, width=3, ignored=1, bytes=size, modified_ns=written
    )


def failed(key: str, moment: int) -> Entry:
    """An item that failed at a moment."""
    return Entry(key=key, status="failed", settings_digest="d", reason=f"torn {key}", modified_ns=moment)


@pytest.mark.parametrize("group", [1, 2, 3, 20_000])
def test_sums_do_not_depend_on_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    """Counts, bytes, pixels, moments and the latest failures are those of all entries."""
    monkeypatch.setattr(module, "_GROUP", group)
    monkeypatch.setattr(module, "_FAILURES", 2)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        entries = [done("a", 100), failed("b", 300), done("c", 200, 7), failed("d", 500), done("e", 150)]
        ledger.commit([*entries, failed("f", 400)])
        got = tally(ledger, [0, 150, 201, 400])
    assert (got.done, got.failed, got.bytes, got.pixels, got.ignored) == (3, 3, 27, 18, 3)
    assert got.done_since == (3, 2, 0, 0)
    assert got.failed_since == (3, 3, 3, 2)
    assert got.last_label_ns == 200
    assert got.failures == (Failure("d", "torn d", 500), Failure("f", "torn f", 400))


def test_an_empty_ledger_adds_up_to_nothing(tmp_path: Path) -> None:
    """No entry, no sum, no failure."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        got = tally(ledger, [5])
    assert (got.done, got.failed, got.done_since, got.last_label_ns, got.failures) == (0, 0, (0,), 0, ())


def test_a_failure_is_stamped_when_it_is_committed(tmp_path: Path) -> None:
    """So that the latest ones are known; a moment that is given stays."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([failed("a", 0), failed("b", 5)])
        got = {f.key: f.failed_ns for f in tally(ledger, []).failures}
    assert got["a"] > 10**18
    assert got["b"] == 5


def test_a_plan_is_what_was_last_recorded_and_an_older_ledger_has_none(tmp_path: Path) -> None:
    """The plan is one value, replaced by the next run's."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.plan is None
        ledger.record_plan({"total": 3})
        ledger.record_plan({"total": 4, "skipped": 1})
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert ledger.plan == {"total": 4, "skipped": 1}


def test_a_run_commits_while_its_entries_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that never pause and a writer get along: no commit fails, and no read."""
    monkeypatch.setattr(module, "_GROUP", 50)
    path = tmp_path / "l.sqlite"
    problems: list[Exception] = []
    ended = threading.Event()
    reads: list[int] = []

    def look() -> None:
        while not ended.is_set():
            try:
                with Ledger(path, read_only=True) as ledger:
                    reads.append(tally(ledger, [0]).done)
            except WorkspaceError as error:
                problems.append(error)

    with Ledger(path) as ledger:
        ledger.commit(done(f"{number:05}", number) for number in range(1000))
        watchers = [threading.Thread(target=look) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        try:
            for number in range(1000, 1060):
                ledger.commit([done(f"{number:05}", number)])
            while not (reads or problems):
                time.sleep(0.001)
        finally:
            ended.set()
            for watcher in watchers:
                watcher.join()
    assert not problems
    assert reads
    assert all(1000 <= count <= 1060 for count in reads)


def test_what_cannot_be_read_is_an_error_with_its_file(tmp_path: Path) -> None:
    """A table that is not there, as in a damaged ledger, is named with what to do."""
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(WorkspaceError, match=r"l\.sqlite: no such table"):
        ledger.read("SELECT 1 FROM nowhere")
