"""A run against soft labels, and what it will take once it is finished."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.run_budget import LedgerCounts, Projection, SoftBytes, count_ledger, project, soft_alternatives
from storage.budget import LEDGER_BYTES, measure_bytes
from storage.ledger import Entry, Ledger


@pytest.fixture
def run(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """A run that has labelled two of four images and failed at a third."""
    for name in ("a", "b", "c", "d"):
        make_image(tmp_path / "images" / f"{name}.png", (4, 6))
    root = tmp_path / "run"
    (root / "labels").mkdir(parents=True)
    with Ledger(root / "ledger.sqlite") as ledger:
        ledger.claim({"classes": ["road", "sky", "pole"]})
        for name in ("a", "b"):
            (root / "labels" / f"{name}.png").write_bytes(b"x" * 100)
            ledger.commit([Entry(key=name, status="done", settings_digest="1", height=4, width=6, bytes=100)])
        ledger.commit([Entry(key="c", status="failed", settings_digest="1", reason="damaged")])
    (root / "settings.toml").write_text(f'[label]\nimages = "{(tmp_path / "images").as_posix()}"\nlayout = "folder"\n')
    return root


def test_soft_labels_of_the_same_pixels_are_exact(run: Path) -> None:
    """Pixels and classes come from the ledger; a failed item has none."""
    expected = SoftBytes(48, 3, {"fp32": 576, "fp16": 288, "uint8": 144})
    assert soft_alternatives(run, count_ledger(run), None) == expected


def test_classes_may_be_given_where_the_ledger_does_not_say(run: Path) -> None:
    """A ledger without classes is taken with those that are given, and without them there is a reason."""
    with Ledger(run / "ledger.sqlite") as ledger:
        ledger.claim({"other": 1})
    counts = count_ledger(run)
    assert isinstance(counts, LedgerCounts)
    assert "give --classes" in str(soft_alternatives(run, counts, None))
    found = soft_alternatives(run, counts, 2)
    assert isinstance(found, SoftBytes)
    assert (found.pixels, found.classes) == (48, 2)


def test_an_unfinished_run_is_projected_at_the_mean_of_what_is_done(run: Path) -> None:
    """Two images are left, the failed one among them: each adds a label, a share of the store and of the entries."""
    (run / "soft").mkdir()
    (run / "soft" / "c.0").write_bytes(b"x" * 1000)
    found = measure_bytes(run)
    each = (200 + 1000 + max(0, found.ledger_bytes - LEDGER_BYTES)) / 2
    assert project(run, found, count_ledger(run)) == Projection(2, 2, each, round(found.total_bytes + 2 * each))


def test_what_cannot_be_projected_has_a_reason(run: Path, tmp_path: Path) -> None:
    """Nothing done, all done, images moved away, settings of another command, no ledger, a damaged one."""
    found, counts = measure_bytes(run), count_ledger(run)
    assert isinstance(counts, LedgerCounts)
    assert "no label is done" in str(project(run, found, LedgerCounts(frozenset(), 0, 0, 3)))
    everything = LedgerCounts(frozenset("abcd"), 96, 400, 3)
    assert "every image is labelled" in str(project(run, found, everything))
    (tmp_path / "images").rename(tmp_path / "moved")
    assert "no image folder" in str(project(run, found, counts))
    (run / "settings.toml").write_text("[merge]\n")
    assert "a run of `merge` has no images" in str(project(run, found, counts))
    (run / "ledger.sqlite").write_text("no ledger at all, but long enough to be looked at")
    assert "ledger" in str(project(run, found, count_ledger(run)))
    (run / "ledger.sqlite").unlink()
    assert project(run, found, count_ledger(run)) == "there is no ledger"
