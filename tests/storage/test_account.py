"""The account of a run's bytes: nothing is given out twice, and never more than the limit."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.account import LEDGER_ROW, MARGIN, ByteAccount
from storage.errors import BudgetError
from storage.workspace import Workspace


def opened(limit: int | None, ledger: Path, used: int = 0) -> ByteAccount:
    """An account of a run whose ledger is that file."""
    account = ByteAccount(limit)
    account.open(used, ledger)
    return account


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(0, 60_000))
def test_reservations_never_pass_the_limit(counts: list[int], room: int) -> None:
    """Whatever is asked for, what is given stays below the limit and its margin; a refusal takes nothing."""
    account = opened(MARGIN + room, Path("no ledger"))
    given_out = 0
    for count in counts:
        try:
            account.reserve(count)
            given_out += count
        except BudgetError:
            assert given_out + count > room
        assert account.used == given_out <= room


def test_threads_share_the_room() -> None:
    """Of many threads that reserve at once, as many get something as there is room for."""
    account = opened(MARGIN + 50 * 100, Path("no ledger"))

    def reserve(_: int) -> bool:
        try:
            account.reserve(100)
        except BudgetError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(reserve, range(200))) == 50


def test_the_ledger_is_measured_once_its_entries_are_in_it(tmp_path: Path) -> None:
    """A label reserves a row of the ledger; once that is written, the file's own size counts instead."""
    ledger = tmp_path / "ledger"
    ledger.write_bytes(b"x" * 500)
    account = opened(None, ledger, used=1500)
    assert account.used == 1500
    account.reserve(10, rows=2)
    assert account.used == 1510 + 2 * LEDGER_ROW
    ledger.write_bytes(b"x" * 900)
    account.settle(rows=2)
    assert account.used == 1910


def test_a_budget_that_is_used_up_before_the_start_is_an_error(tmp_path: Path) -> None:
    """It says what is there and what to do."""
    with pytest.raises(BudgetError, match=r"take 5\.0 KB, .*larger --budget, of more than 69\.0 KB"):
        opened(MARGIN + 4999, tmp_path / "ledger", used=5000)


def test_files_that_belong_together_are_written_all_or_none(tmp_path: Path) -> None:
    """Where there is no room for all of them none appears; what replaces a file needs room while both are there."""
    workspace = Workspace(tmp_path, opened(MARGIN + 100, tmp_path / "ledger"))
    workspace.prepare()
    first, second = workspace.labels / "a.png", workspace.labels / "b/b.png"
    with pytest.raises(BudgetError, match="used up"):
        workspace.publish_together([(first, b"x" * 60), (second, b"x" * 60)])
    assert not first.exists()
    workspace.publish_together([(first, b"x" * 60), (second, b"x" * 40)])
    with pytest.raises(BudgetError):
        workspace.publish(first, b"z" * 60)
    assert first.read_bytes() == b"x" * 60
    assert workspace.account is not None
    workspace.account.limit = MARGIN + 150
    workspace.publish(first, b"y" * 50)
    assert first.read_bytes() == b"y" * 50
    assert workspace.account.used == 90


def test_what_could_not_be_written_is_given_back(tmp_path: Path) -> None:
    """An error while writing does not cost room."""
    account = opened(MARGIN + 100, tmp_path / "ledger")
    workspace = Workspace(tmp_path, account)
    workspace.prepare()
    (workspace.labels / "a").write_bytes(b"a file where a folder is needed")
    with pytest.raises(OSError, match="cannot make folder"):
        workspace.publish(workspace.labels / "a/b.png", b"x" * 50)
    assert account.used == 0


def test_the_runs_small_files_have_the_margin() -> None:
    """Settings and the list of failures find room where a label does not; beyond the limit nothing does."""
    account = opened(MARGIN + 100, Path("no ledger"), used=100)
    with pytest.raises(BudgetError):
        account.reserve(1)
    account.reserve(MARGIN, from_margin=True)
    with pytest.raises(BudgetError):
        account.reserve(1, from_margin=True)


def test_a_finished_run_may_have_any_budget() -> None:
    """Where nothing is to be written, what is there is no error."""
    account = ByteAccount(1000)
    account.open(5000, Path("no ledger"), to_write=False)
    account.reserve(10, from_margin=True)
    assert account.used == 5010
