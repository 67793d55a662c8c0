"""Which images of a RUN a selection means."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audit_file import Audit, ImageAudit, write_audit
from pipeline.quality import ClassQuality
from pipeline.selection import select
from storage.errors import AutocoarseError, LayoutError, MissingFileError, SettingsError
from storage.ledger import Ledger
from storage.soft_store import SoftStore, StoreForm
from storage.workspace import Workspace

LABELS = {
    "a/1": [[0, 0, 0, 0], [0, 0, 0, 255]],
    "a/2": [[1, 255, 255, 255], [255, 255, 255, 255]],
    "b/3": [[0, 1, 1, 255], [0, 0, 0, 255]],
}


@pytest.fixture
def run(tmp_path: Path, make_run: Callable[..., Path], make_image: Callable[..., object]) -> Workspace:
    """A run of three labels in two folders."""
    for key in LABELS:
        make_image(tmp_path / f"images/{key}.png", (2, 4))
    return Workspace(make_run(tmp_path / "run", tmp_path / "images", LABELS))


def test_a_selection_chooses_by_class_ignore_folder_or_all(run: Workspace) -> None:
    """Each kind of selection gives its images, in its own order."""
    assert select(run, ["all"]) == ("a/1", "a/2", "b/3")
    assert select(run, ["ignore:2"]) == ("a/2", "b/3")
    assert select(run, ["class:pole"]) == ("b/3", "a/2")
    assert select(run, ["class:pole:1"]) == ("b/3",)
    assert select(run, ["folder:a"]) == ("a/1", "a/2")


def test_several_selections_give_all_that_any_of_them_means_once(run: Workspace) -> None:
    """The first comes first; what the next adds comes behind."""
    assert select(run, ["class:pole:1", "folder:a", "ignore:1"]) == ("b/3", "a/1", "a/2")


def test_listed_keys_are_taken_with_or_without_a_suffix(run: Workspace, tmp_path: Path) -> None:
    """A list of image files is a list of keys; one that is unknown is named."""
    listed = tmp_path / "keys.txt"
    listed.write_text("b/3.png\n\na/1\n")
    assert select(run, [f"keys:{listed}"]) == ("b/3", "a/1")
    listed.write_text("a/1\nc/9\n")
    with pytest.raises(LayoutError, match="no done item for c/9"):
        select(run, [f"keys:{listed}"])


def test_the_worst_are_those_of_the_audit(run: Workspace) -> None:
    """The audit's own order counts; images that the run has no label of are passed over."""
    with pytest.raises(MissingFileError, match=r"autocoarse audit .*--coarse DIR"):
        select(run, ["worst:2"])
    images = tuple(ImageAudit(key, 8, 8, 8, 4, 0.5, None) for key in ("b/3", "gone", "a/2", "a/1"))
    nothing = dict.fromkeys(("precision", "precision_low", "precision_high", "coverage"))
    none = dict.fromkeys(("floor_images", "floor_pixels", "images_without_coarse", "images_without_auto", "unknown"), 0)
    by_class: dict[str, Any] = {
        "classes": (ClassQuality("road", 0.5, None, None, None, None, 0, 0, enough=False),),
        "drawn_images": (0,),
        "confusion": ((0, 0),),
    }
    empty: dict[str, Any] = {"bias": (), "folders": (), **by_class}
    audit = Audit(kind="audit", version=1, labels="run", coarse="coarse", images=images, **nothing, **none, **empty)
    write_audit(run.audit, audit)
    assert select(run, ["worst:2"]) == ("b/3", "a/2")


def test_the_least_confident_come_first_where_confidence_is_kept(run: Workspace) -> None:
    """The mean of what was kept decides; without it the message says what to do."""
    with pytest.raises(MissingFileError, match="label with --keep confidence"):
        select(run, ["confidence:1"])
    store = SoftStore(run.soft, StoreForm("confidence", 100, ("road", "pole", "sky")))
    files = [(store.root / "zarr.json", store.form.group_metadata())]
    files.append((store.array_path((2, 4)) / "zarr.json", store.form.array_metadata((2, 4), 3)))
    for slot, code in enumerate((80, 40, 60)):
        planes = np.stack([np.zeros((2, 4), np.uint8), np.full((2, 4), code, np.uint8)])
        files.append((store.chunk_path(slot, (2, 4)), store.form.encode(planes)))
    run.scratch.mkdir()
    run.publish_together(files)
    with Ledger(run.ledger) as ledger:
        ledger.give_slots(LABELS)
    assert select(run, ["confidence:2"]) == ("a/2", "b/3")


@pytest.mark.parametrize(
    ("selection", "error", "match"),
    [
        ("", SettingsError, "expected all, worst:N"),
        ("best:3", SettingsError, "expected all, worst:N"),
        ("all:3", SettingsError, "selects nothing"),
        ("worst", SettingsError, "selects nothing"),
        ("ignore:0", SettingsError, "ignore:100"),
        ("worst:-1", SettingsError, "no number of images"),
        ("class:pool", SettingsError, "did you mean pole"),
        ("class:sky", LayoutError, "selects none of the 3"),
        ("folder:c", LayoutError, "there are a, b"),
        ("keys:/nowhere", MissingFileError, "one key a line"),
    ],
)
def test_a_selection_that_means_nothing_is_explained(
    run: Workspace, selection: str, error: type[AutocoarseError], match: str
) -> None:
    """Whatever is asked for in vain says why, and what would do."""
    with pytest.raises(error, match=match):
        select(run, [selection])


def test_the_classes_are_those_that_the_run_was_made_with(run: Workspace) -> None:
    """The ledger says what they are, not a file that somebody may have changed."""
    run.classes.write_text(json.dumps({"classes": [{"name": "other"}]}))
    assert select(run, ["class:road:1"]) == ("a/1",)
