"""Layouts: which images there are, what their keys are, and which label belongs to which."""

import os
import sys
from pathlib import Path

import pytest

from storage.errors import LayoutError, MissingFileError
from storage.layouts import list_images, list_labels, pairing_key
from storage.ledger import Entry, Ledger


def touch(root: Path, *names: str) -> None:
    """Make empty files; listing reads none of them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_images_are_found_in_all_folders_in_one_order(tmp_path: Path) -> None:
    """The listing is recursive, sorted, and leaves out hidden files and what is no image."""
    touch(tmp_path, "b/2.jpg", "a/1.PNG", "a/.hidden.png", ".cache/x.png", "a/notes.txt", "top.jpeg")
    assert [i.key for i in list_images(tmp_path).items] == ["a/1", "b/2", "top"]


def test_names_with_dots_and_spaces_keep_them(tmp_path: Path) -> None:
    """Only the last suffix is cut off."""
    touch(tmp_path, "a b/frame.001.png", "frame.001.v2.png")
    assert [i.key for i in list_images(tmp_path).items] == ["a b/frame.001", "frame.001.v2"]


def test_images_that_share_a_stem_are_ambiguous_and_others_stay(tmp_path: Path) -> None:
    """Two images that would share a label are both reported, the rest is listed."""
    touch(tmp_path, "a.jpg", "a.png", "b.png")
    listing = list_images(tmp_path)
    assert [i.key for i in listing.items] == ["b"]
    assert [name for name, _ in listing.problems] == ["a.jpg", "a.png"]
    assert "rename all but one" in listing.problems[0][1]
    assert listing.keys == {"a.jpg", "a.png", "b"}


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has UTF-8 names only")
def test_a_name_that_is_not_utf8_is_a_problem_and_others_stay(tmp_path: Path) -> None:
    """Such a name can be neither a key nor printed: the image is reported by an escaped name, the rest is listed."""
    touch(tmp_path, "b.png", os.fsdecode(b"caf\xe9.png"))
    listing = list_images(tmp_path)
    assert [i.key for i in listing.items] == ["b"]
    ((name, reason),) = listing.problems
    assert name == r"'caf\udce9.png'"
    assert "rename it" in reason
    reason.encode()


def test_an_output_folder_inside_is_left_out(tmp_path: Path) -> None:
    """Labels of an earlier run are not taken for images."""
    touch(tmp_path, "a.png", "run/labels/a.png")
    assert [i.key for i in list_images(tmp_path, exclude=[tmp_path / "run"]).items] == ["a"]


def test_an_empty_or_missing_folder_says_so(tmp_path: Path) -> None:
    """No images and no folder are two different messages."""
    with pytest.raises(LayoutError, match="no images found"):
        list_images(tmp_path)
    with pytest.raises(MissingFileError, match="no image folder"):
        list_images(tmp_path / "gone")


def test_cityscapes_images_and_labels_pair_by_city_and_frame(tmp_path: Path) -> None:
    """leftImg8bit and gtFine files of a frame share a pairing key; only label ids are taken, with their kind."""
    touch(
        tmp_path,
        "leftImg8bit/val/ulm/ulm_000_leftImg8bit.png",
        "leftImg8bit/val/ulm/ulm_000_other.png",
        "gtFine/val/ulm/ulm_000_gtFine_labelIds.png",
        "gtFine/val/ulm/ulm_000_gtFine_color.png",
        "gtFine/val/ulm/ulm_000_gtFine_instanceIds.png",
    )
    items = list_images(tmp_path, "cityscapes").items
    labels = list_labels(tmp_path, "cityscapes")
    assert [i.key for i in items] == ["val/ulm/ulm_000_leftImg8bit"]
    assert list(labels) == ["val/ulm/ulm_000"] == [pairing_key(items[0].key)]
    assert labels["val/ulm/ulm_000"].ids == "source"


def test_cityscapes_train_ids_are_class_indices(tmp_path: Path) -> None:
    """_labelTrainIds are read as class indices; where both exist, label ids win unless --ids says class."""
    touch(tmp_path, "ulm/x_gtCoarse_labelTrainIds.png")
    assert list_labels(tmp_path, "cityscapes")["ulm/x"].ids == "class"
    touch(tmp_path, "ulm/x_gtCoarse_labelIds.png")
    assert list_labels(tmp_path, "cityscapes")["ulm/x"].ids == "source"
    assert list_labels(tmp_path, "cityscapes", "class")["ulm/x"].path.stem.endswith("TrainIds")


def test_cityscapes_labels_in_the_layout_of_folders_are_told_apart_by_its_own(tmp_path: Path) -> None:
    """Two labels of a frame are ambiguous there, and the message names the layout that knows their endings."""
    touch(tmp_path, "x_gtFine_labelIds.png", "x_gtFine_labelTrainIds.png")
    with pytest.raises(LayoutError, match="both labels of x; keep one, or say --layout cityscapes"):
        list_labels(tmp_path)


def test_fine_and_coarse_in_one_root_must_be_told_apart(tmp_path: Path) -> None:
    """A root with both kinds of label is refused rather than guessed."""
    touch(tmp_path, "gtFine/a_gtFine_labelIds.png", "gtCoarse/a_gtCoarse_labelIds.png")
    with pytest.raises(LayoutError, match="both gtFine and gtCoarse"):
        list_labels(tmp_path, "cityscapes")


@pytest.mark.parametrize("named", [".", "labels"])
def test_a_run_is_a_label_folder_of_class_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """What `label --out` made, or the labels in it, are class indices, whatever the layout and ids say."""
    touch(tmp_path, "labels/a/x_leftImg8bit.png")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.commit([Entry(key="a/x_leftImg8bit", status="done", settings_digest="d")])
    assert list_labels(tmp_path / named, "cityscapes", "source")["a/x"].ids == "class"
    monkeypatch.chdir(tmp_path / named)
    assert list_labels(Path(), "cityscapes", "source")["a/x"].ids == "class"


@pytest.mark.parametrize("named", [".", "labels"])
def test_only_what_is_done_is_a_label_of_a_run(tmp_path: Path, named: str) -> None:
    """A label that a failed item left behind, or that no entry speaks of, is not used."""
    touch(tmp_path, "labels/a.png", "labels/b.png", "labels/c.png")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.commit([Entry(key="a", status="done", settings_digest="d")])
        ledger.commit([Entry(key="b", status="failed", settings_digest="d", reason="torn")])
    assert list(list_labels(tmp_path / named)) == ["a"]


def test_a_folder_named_labels_is_a_run_s_only_beside_a_ledger(tmp_path: Path) -> None:
    """Anybody's labels/ is read as it is asked for."""
    touch(tmp_path, "labels/a.png")
    assert list_labels(tmp_path / "labels", ids="source")["a"].ids == "source"


def test_a_label_folder_without_labels_says_what_was_looked_for(tmp_path: Path) -> None:
    """The message names the patterns of the layout."""
    touch(tmp_path, "a.png")
    with pytest.raises(LayoutError, match=r"_gtFine_labelIds\.png"):
        list_labels(tmp_path, "cityscapes")
