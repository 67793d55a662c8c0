"""The contract of those who label: the same whether it is this process, processes of this machine, or a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.verification import Verification
from storage.account import MARGIN
from storage.budget import measure_bytes
from storage.errors import BudgetError
from storage.ledger import Ledger

IMAGES = 10

Label = Callable[..., LabelRun]


@pytest.fixture(params=["one process", "local processes", "cluster"])
def make_run(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]
) -> Label:
    """Open a run of ten noise images, whoever labels them; a corrupt one comes with `corrupt`."""
    who: dict[str, Any] = {}
    if request.param == "local processes":
        who = {"workers": 2}
    elif request.param == "cluster":
        who = {"scheduler": request.getfixturevalue("standing_cluster").address}
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number % 3}/{number}.png", (40, 56), number)

    def make(out: str = "run", **more: object) -> LabelRun:
        wanted: dict[str, Any] = {"scales": (0.5, 1.0), "device": "cpu", **who, **more}
        return LabelRun(
            LabelSettings(images=tmp_path / "images", teacher=str(tiny_teacher), out=tmp_path / out, **wanted)
        )

    return make


def files(run: LabelRun) -> dict[str, bytes]:
    """Labels of a run, and the chunks of what is kept."""
    root = run.workspace.root
    found = [*run.workspace.labels.rglob("*.png"), *run.workspace.soft.rglob("c.*")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_labels_and_what_is_kept_do_not_depend_on_who_labels(make_run: Label, tmp_path: Path) -> None:
    """Byte for byte those of one process; one entry an item; a corrupt image is one failed entry; nothing is redone."""
    (tmp_path / "images/bad.png").write_bytes(b"no image")
    with make_run(keep="confidence") as run:
        entries = list(run)
    assert sorted(entry.key for entry in entries) == sorted([f"{n % 3}/{n}" for n in range(IMAGES)] + ["bad"])
    assert (run.summary.labelled, run.summary.failed) == (IMAGES, 1)
    with make_run("alone", keep="confidence", workers=None, scheduler=None) as alone:
        assert [entry.key for entry in alone if entry.status == "failed"] == ["bad"]
    assert files(run) == files(alone)
    assert len(files(run)) == 2 * IMAGES
    with Verification(run.workspace.root, workers=1) as verification:
        list(verification)
    assert not [problem for problem in verification.summary.problems if "bad" not in str(problem)]

    (tmp_path / "images/bad.png").unlink()
    with make_run(keep="confidence") as again:
        assert list(again) == []
        assert (again.summary.skipped, again.summary.failed) == (IMAGES, 0)


def test_a_run_that_is_broken_off_has_recorded_what_was_made(make_run: Label, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops listening, or presses Ctrl-C, leaves a ledger that agrees with the labels; the rest comes later."""
    monkeypatch.setattr("pipeline.dask_workers._END_SECONDS", 300)  # a worker may be late where the machine is busy
    with make_run() as run:
        entries = iter(run)
        first = next(entries)
        entries.close()  # type: ignore[attr-defined] # a generator
        with Ledger(run.workspace.ledger, read_only=True) as ledger:
            recorded = {entry.key for entry in ledger}
        assert first.key in recorded
        assert recorded == {path.removeprefix("labels/").removesuffix(".png") for path in files(run)}
    with make_run() as rest:
        assert {entry.key for entry in rest} | recorded == {f"{n % 3}/{n}" for n in range(IMAGES)}
    assert rest.summary.skipped == len(recorded)


def test_a_budget_is_never_passed(make_run: Label) -> None:
    """The run stops before the label that would not fit, tells so, and goes on with a larger budget."""
    with make_run("free", workers=None, scheduler=None) as free:
        list(free)
    everything = measure_bytes(free.workspace.root).total_bytes
    limit = everything + MARGIN + 1000
    with make_run(budget=limit) as run:
        with pytest.raises(BudgetError, match="budget"):
            list(run)
        assert measure_bytes(run.workspace.root).total_bytes <= limit
        made = run.summary.labelled
    assert 0 < made < IMAGES
    with make_run(budget=10 * limit) as rest:
        assert len(list(rest)) == IMAGES - made
    assert files(rest) == files(free)
