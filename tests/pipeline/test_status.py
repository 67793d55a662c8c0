"""How a run stands, from its ledger and its folder: at work, stopped, killed and done."""

import fcntl
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings
from pipeline.rethresholding import RethresholdRun, RethresholdSettings
from pipeline.settings import LabelSettings
from pipeline.status import RunStatus, read_status
from storage.account import LEDGER_ROW, MARGIN
from storage.budget import LEDGER_ENTRY_BYTES, measure_bytes
from storage.errors import BudgetError, MissingFileError, WorkspaceError
from storage.ledger import Entry, Ledger
from storage.lock_look import is_taken
from storage.workspace import Workspace

IMAGES = 4
SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Four images to label."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
    return LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(1.0,), device="cpu", out=tmp_path / "run"
    )


def label(settings: LabelSettings) -> RunStatus:
    """Label to the end, and read how the run stands."""
    with LabelRun(settings) as run:
        for _ in run:
            pass
    return read_status(Workspace(settings.out))


def counts(status: RunStatus) -> tuple[int | None, int, int, int | None]:
    """Total, done, failed and left."""
    return status.total, status.done, status.failed, status.left


def test_a_finished_run_is_complete(settings: LabelSettings) -> None:
    """All is done, nobody is at work, bytes are those on the disk, and the share of ignored pixels is the run's."""
    started = time.time()
    with LabelRun(settings) as run:
        for _ in run:
            pass
    status = read_status(run.workspace)
    assert counts(status) == (IMAGES, IMAGES, 0, 0)
    assert (status.at_work, status.killed, status.is_complete, status.command) == (False, False, True, "label")
    assert (status.images_per_second, status.seconds_left, status.seconds_at_work) == (None, None, None)
    assert status.used_bytes == status.forecast_bytes == measure_bytes(settings.out).total_bytes
    assert status.ignore_fraction == run.summary.ignore_fraction
    assert status.failures == ()
    assert status.seconds_since_label is not None
    assert 0 <= status.seconds_since_label <= time.time() - started + 1, "a file's clock may be a tick behind"


def test_bytes_are_the_same_from_within_the_folder(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, also that of the working folder itself, changes nothing; kept confidence counts."""
    label(settings.model_copy(update={"keep": "confidence"}))
    monkeypatch.chdir(settings.out)
    status = read_status(Workspace(Path()))
    assert status.used_bytes == measure_bytes(settings.out).total_bytes
    assert status.bytes_each is not None
    found = measure_bytes(settings.out)
    assert status.bytes_each == (found.label_bytes + found.store_bytes) / IMAGES + LEDGER_ENTRY_BYTES


def test_failures_are_told_with_their_reasons(settings: LabelSettings) -> None:
    """A failed item is neither done nor left; the latest one comes first."""
    (settings.images / "1.png").write_text("no image")
    assert counts(label(settings)) == (IMAGES, IMAGES - 1, 1, 0)
    (settings.images / "0.png").write_text("no image either")
    status = label(settings)
    assert counts(status) == (IMAGES, IMAGES - 2, 2, 0)
    assert not status.is_complete
    assert {f.key for f in status.failures} == {"0", "1"}
    assert str(settings.images / "0.png") in next(f.reason for f in status.failures if f.key == "0")
    assert status.failures[0].failed_ns >= status.failures[1].failed_ns > 0


def test_a_run_that_its_budget_stopped_lacks_room(settings: LabelSettings) -> None:
    """What is left, and that the budget will not do for it; with a larger one the same status is complete."""
    label(settings.model_copy(update={"out": settings.out.parent / "whole"}))
    largest = max(path.stat().st_size for path in (settings.out.parent / "whole/labels").iterdir())
    with LabelRun(settings) as run:
        assert run.workspace.account is not None
        run.workspace.account.limit = run.used_bytes + MARGIN + LEDGER_ROW + 2 * largest  # for one or two labels
        limited = settings.model_copy(update={"budget": run.workspace.account.limit})
        limited.write(run.workspace.settings, "label")
        with pytest.raises(BudgetError):
            list(run)
    status = read_status(run.workspace)
    assert status.total == IMAGES
    assert 0 < status.done < IMAGES
    assert status.left == IMAGES - status.done
    assert (status.at_work, status.killed, status.lacks_room) == (False, False, True)
    assert status.needed_bytes is not None
    assert status.forecast_bytes is None, "too few labels to tell"
    assert status.used_bytes < status.needed_bytes < 2 * measure_bytes(settings.out).total_bytes
    assert label(settings).is_complete


def test_a_run_at_work_is_seen_and_not_disturbed(settings: LabelSettings) -> None:
    """Between any two items the status is that of the moment, and the run goes on to its end."""
    seen: list[RunStatus] = []
    with LabelRun(settings) as run:
        first = read_status(run.workspace)
        seen.extend(read_status(run.workspace) for _ in run)
    assert counts(first) == (IMAGES, 0, 0, IMAGES)
    assert (first.at_work, first.images_per_second, first.seconds_left) == (True, 0, None)
    assert all(status.at_work for status in seen)
    assert counts(seen[-1]) == (IMAGES, IMAGES, 0, 0)
    assert seen[-1].images_per_second
    assert seen[-1].seconds_left == 0
    assert not seen[-1].may_hang
    assert not read_status(run.workspace).at_work


def test_failures_of_earlier_runs_are_left_while_they_are_tried_again(settings: LabelSettings) -> None:
    """At work, what failed before the run was started is work that is left."""
    (settings.images / "1.png").write_text("no image")
    label(settings)
    with LabelRun(settings) as run:
        assert counts(read_status(run.workspace)) == (IMAGES, IMAGES - 1, 0, 1)
        for _ in run:
            pass
        assert counts(read_status(run.workspace)) == (IMAGES, IMAGES - 1, 1, 0)


def test_labels_that_are_made_again_or_whose_images_are_gone_do_not_count(settings: LabelSettings) -> None:
    """Entries of before that the run does not believe are not done until it has made them again."""
    label(settings)
    (settings.images / "0.png").unlink()
    (settings.out / "labels/1.png").unlink()
    with LabelRun(settings) as run:
        assert counts(read_status(run.workspace)) == (3, 2, 0, 1)
        for _ in run:
            pass
    assert counts(read_status(run.workspace)) == (3, 3, 0, 0)


def test_items_returned_to_the_plan_are_left(settings: LabelSettings) -> None:
    """Once entries are taken out of the ledger, as a repair does, these items are no longer done."""
    label(settings)
    label(settings)
    with Ledger(settings.out / "ledger.sqlite") as ledger:
        ledger.forget(["0", "2"])
    assert counts(read_status(Workspace(settings.out))) == (IMAGES, 2, 0, 2)


def test_looking_never_keeps_a_run_from_starting(settings: LabelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that finds half-written files asks for the lock; a run that starts right then waits it out.

    However long the machine halts who looks.
    """
    workspace = Workspace(settings.out)
    label(settings)
    workspace.scratch.mkdir()
    assert read_status(workspace).killed
    with (settings.out / ".lock").open() as looking, monkeypatch.context() as patch:
        in_vain: list[Path] = []

        def look(lock_file: Path) -> bool:
            in_vain.append(lock_file)
            if len(in_vain) == 3:
                fcntl.flock(looking, fcntl.LOCK_UN)
            return is_taken(lock_file)

        patch.setattr("storage.lock_look.is_taken", look)
        fcntl.flock(looking, fcntl.LOCK_SH)
        workspace.lock().release()
        assert len(in_vain) == 3
    lock = workspace.lock()
    assert read_status(workspace).at_work
    with pytest.raises(WorkspaceError, match="in use by another"):
        workspace.lock()
    lock.release()
    (settings.out / ".lock").unlink()
    assert read_status(workspace).killed


def test_an_older_ledger_has_no_total(settings: LabelSettings) -> None:
    """Without a plan the counts are the ledger's, and what is left is not known."""
    label(settings)
    with sqlite3.connect(settings.out / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM run WHERE name = 'plan'")
    connection.close()
    status = read_status(Workspace(settings.out))
    assert counts(status) == (None, IMAGES, 0, None)
    assert (status.seconds_left, status.needed_bytes, status.started_ns, status.lacks_room) == (None, None, None, False)
    assert status.is_complete


@pytest.mark.parametrize("plan", ['{"total": 3}', '{"started": "yesterday"}', "7"])
def test_a_damaged_plan_hides_nothing_else(settings: LabelSettings, plan: str) -> None:
    """What is done is told as before; the total is not known."""
    label(settings)
    with sqlite3.connect(settings.out / "ledger.sqlite") as connection:
        connection.execute("UPDATE run SET value = ? WHERE name = 'plan'", (plan,))
    connection.close()
    status = read_status(Workspace(settings.out))
    assert status.total is None
    assert status.done


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """The message says what a run is."""
    with pytest.raises(MissingFileError, match="is no RUN: it has no labels"):
        read_status(Workspace(tmp_path))


def test_a_run_killed_within_a_commit_is_told_as_that(settings: LabelSettings) -> None:
    """A journal that nobody plays back while reading only: the message says what to do, and doing it helps."""
    label(settings)
    path, copy = settings.out / "ledger.sqlite", settings.out.parent / "copy"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE large (text TEXT)")
    connection.executemany("INSERT INTO large VALUES (?)", [("x" * 3000,)] * 200)  # more than fits: it is spilled
    shutil.copytree(settings.out, copy)
    connection.close()
    assert (copy / "ledger.sqlite-journal").stat().st_size
    with pytest.raises(WorkspaceError, match=r"ledger\.sqlite: .*if its run was killed, run the same"):
        read_status(Workspace(copy))
    assert label(settings.model_copy(update={"out": copy})).is_complete


def test_merged_and_rethresholded_runs_tell_their_plan(settings: LabelSettings) -> None:
    """Both record their total when they open; what continues a merge is `merge`."""
    label(settings.model_copy(update={"keep": "confidence"}))
    other = RethresholdSettings.checked(run=settings.out, threshold=0.9, out=settings.out.parent / "90")
    with RethresholdRun(other) as again:
        assert counts(read_status(again.workspace)) == (IMAGES, 0, 0, IMAGES)
        for _ in again:
            pass
    status = read_status(again.workspace)
    assert (counts(status), status.command) == ((IMAGES, IMAGES, 0, 0), "label")
    merge = MergeSettings(
        coarse=other.out,
        auto=settings.out,
        classes=str(settings.out / "classes.json"),
        out=settings.out.parent / "fill",
    )
    for _ in range(2):
        with MergeRun(merge) as merging:
            assert read_status(merging.workspace).at_work
            for _ in merging:
                pass
    status = read_status(merging.workspace)
    assert (counts(status), status.command, status.is_complete) == ((IMAGES, IMAGES, 0, 0), "merge", True)


def make_ledger(root: Path, ages: list[float], started: float, total: int = 100) -> Workspace:
    """A run at work whose labels are of these ages in seconds, and which was started so many seconds ago."""
    workspace = Workspace(root)
    workspace.labels.mkdir(parents=True)
    workspace.scratch.mkdir()
    (root / ".lock").touch()
    began = NOW - round(started * SECOND)
    with Ledger(workspace.ledger) as ledger:
        ledger.commit(
            Entry(
                key=f"{number:04}",
                status="done",
                settings_digest="d",
                height=10,
                width=10,
                bytes=1000,
                modified_ns=NOW - round(age * SECOND),
            )
            for number, age in enumerate(ages)
        )
        ledger.record_plan(
            {
                "total": total,
                "skipped": sum(age > started for age in ages),
                "started": datetime.fromtimestamp(began / SECOND, UTC).isoformat(),
                "labels_since_ns": began,
            }
        )
    return workspace


@pytest.mark.parametrize(
    ("ages", "started", "rate"),
    [
        pytest.param([1 + n / 2 for n in range(60)], 3600, 1.0, id="the last minute, where enough was made in it"),
        pytest.param([100 + n for n in range(30)], 3600, 0.1, id="five minutes, where a minute has too few"),
        pytest.param([10.0 + n for n in range(10)], 20, 0.5, id="since the start, where that was a moment ago"),
        pytest.param([2e5 + n for n in range(50)] + [5.0, 10.0], 20, 0.1, id="without the labels of days ago"),
        pytest.param([500.0 * n + 1 for n in range(20)], 10_000, 0.002, id="since the start, where items take long"),
        pytest.param([], 50, 0.0, id="nothing yet"),
    ],
)
def test_the_rate_is_that_of_late(tmp_path: Path, ages: list[float], started: float, rate: float) -> None:
    """Over the shortest time with enough items in it, never beyond the start of the run."""
    workspace = make_ledger(tmp_path / "run", ages, started)
    lock = workspace.lock()
    try:
        status = read_status(workspace, NOW)
    finally:
        lock.release()
    assert status.images_per_second == pytest.approx(rate, rel=0.25)
    assert status.done == len(ages)
    assert status.seconds_at_work == started
    if rate:
        assert status.images_per_second is not None
        assert status.seconds_left == pytest.approx((100 - len(ages)) / status.images_per_second)
    else:
        assert status.seconds_left is None


def test_a_run_that_writes_nothing_for_long_may_hang(tmp_path: Path) -> None:
    """Ten minutes of silence are too many at an image a second, and usual where an image takes five minutes."""
    silent = make_ledger(tmp_path / "quick", [600.0 + n for n in range(1000)], 3000, total=10_000)
    slow = make_ledger(tmp_path / "slow", [600.0 + 300 * n for n in range(20)], 9000)
    for workspace, hangs in ((silent, True), (slow, False)):
        lock = workspace.lock()
        status = read_status(workspace, NOW)
        lock.release()
        assert status.may_hang is hangs
        assert status.seconds_since_label == 600
        assert not read_status(workspace, NOW).may_hang, "nobody is at work on it"


def test_the_forecast_is_the_mean_of_what_was_made(tmp_path: Path) -> None:
    """Ten labels of a hundred: what is there, and ninety times what an item takes."""
    workspace = make_ledger(tmp_path / "run", [float(n) for n in range(10)], 60)
    status = read_status(workspace, NOW)
    ledger = workspace.ledger.stat().st_size
    assert status.bytes_each == 1000 + LEDGER_ENTRY_BYTES, "a new ledger's own size is no label's"
    assert status.forecast_bytes == 10_000 + ledger + 90 * status.bytes_each
    (workspace.root / "settings.toml").write_text("[label]\nbudget = 150000\n")
    assert read_status(workspace, NOW).lacks_room
    assert not replace(status, budget=10**9).lacks_room


def test_settings_that_cannot_be_read_hide_nothing_else(tmp_path: Path) -> None:
    """Without them there is no budget to tell, and the counts stand."""
    workspace = make_ledger(tmp_path / "run", [1.0], 60)
    (workspace.root / "settings.toml").write_text("[label")
    status = read_status(workspace, NOW)
    assert (status.budget, status.command, status.done) == (None, "label", 1)
