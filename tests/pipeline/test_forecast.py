"""The forecast of a run's bytes: said once there is something to go by, and once only."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import forecast as module
from pipeline.forecast import ENOUGH, Forecast, Made
from pipeline.publishing import publish_label
from storage.account import MARGIN, ByteAccount
from storage.budget import LEDGER_BYTES
from storage.label_map import LabelMap
from storage.ledger import Entry
from storage.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A run that has made nothing yet; its budget is set by the tests."""
    account = ByteAccount(None)
    account.open(0, tmp_path / "ledger")
    workspace = Workspace(tmp_path / "run", account)
    workspace.prepare()
    return workspace


def make(workspace: Workspace, forecast: Forecast, count: int) -> None:
    """Label so many images alike, of shapes that come again and again, as a strong compressor likes it."""
    values = np.tile(np.random.default_rng(0).integers(0, 3, (8, 40), np.uint8).repeat(3, 1), (12, 1))
    assert workspace.account is not None
    for number in range(count):
        entry = publish_label(workspace, f"{number}", LabelMap(values, 3), {}, settings_digest="")
        workspace.account.settle(rows=1)
        forecast.add(entry)


def test_the_total_is_known_after_a_few_labels(workspace: Workspace) -> None:
    """What each label has taken, for all that are left."""
    forecast = Forecast(workspace, done=Made(), left=100)
    assert forecast.total is None
    make(workspace, forecast, ENOUGH)
    assert workspace.account is not None
    assert forecast.total == round(100 * workspace.account.used / ENOUGH)
    assert forecast.shortage() is None


def test_a_run_that_is_gone_on_with_knows_at_once(workspace: Workspace) -> None:
    """Labels of earlier runs are what it goes by, without what an empty run takes; advice comes from them, too."""
    assert workspace.account is not None
    make(workspace, Forecast(workspace, done=Made(), left=10), 10)
    done = [Entry(key=f"{n}", status="done", settings_digest="", bytes=100) for n in range(10)]
    workspace.account.reserve(LEDGER_BYTES + 10_000 - workspace.account.used)
    forecast = Forecast(workspace, Made.of(done), left=30)
    assert forecast.total == LEDGER_BYTES + 40_000
    workspace.account.limit = LEDGER_BYTES + 39_500 + MARGIN
    shortage = forecast.shortage()
    assert shortage is not None
    assert shortage.fitting


def test_a_shortage_is_told_once_with_what_would_fit(workspace: Workspace) -> None:
    """The budget is too small for `fast` labels and large enough for smaller ones."""
    assert workspace.account is not None
    forecast = Forecast(workspace, done=Made(), left=100)
    make(workspace, forecast, ENOUGH)
    total = forecast.total
    assert total is not None
    workspace.account.limit = round(0.99 * total) + MARGIN
    shortage = forecast.shortage()
    assert shortage is not None
    assert (shortage.bytes, shortage.is_budget) == (total, True)
    assert shortage.fitting[0] == "--png small"
    assert forecast.shortage() is None, "told once"


def test_what_nothing_makes_fit_is_said_so(workspace: Workspace) -> None:
    """Where even the smallest preset is too large, nothing is advised."""
    assert workspace.account is not None
    forecast = Forecast(workspace, done=Made(), left=100)
    make(workspace, forecast, ENOUGH)
    workspace.account.limit = workspace.account.used + MARGIN
    shortage = forecast.shortage()
    assert shortage is not None
    assert shortage.fitting == ()


def test_the_disk_counts_where_it_has_less_room(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space is a limit like a budget."""
    forecast = Forecast(workspace, done=Made(), left=100)
    make(workspace, forecast, ENOUGH)
    monkeypatch.setattr(module, "free_bytes", lambda _: 500)
    shortage = forecast.shortage()
    assert shortage is not None
    assert workspace.account is not None
    assert (shortage.room, shortage.is_budget) == (workspace.account.used + 500, False)


def test_the_preset_in_use_is_no_advice(workspace: Workspace) -> None:
    """What the run does already would not help; small labels, which are mostly provenance, do not hide that."""
    assert workspace.account is not None
    forecast = Forecast(workspace, done=Made(), left=100, preset="smallest")
    make(workspace, forecast, ENOUGH)
    total = forecast.total
    assert total is not None
    workspace.account.limit = round(0.99 * total) + MARGIN
    shortage = forecast.shortage()
    assert shortage is not None
    assert shortage.fitting == ()
