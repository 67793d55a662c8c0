"""Pairing images with labels, and reading the pairs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.samples import collect_samples, read_sample
from storage.errors import LabelError, LayoutError, MissingFileError
from storage.schema import ClassSchema


def write(path: Path, values: object) -> None:
    """Write an image, or a label, from its values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def write_pair(root: Path, key: str) -> None:
    """Write an image and its label in mirrored trees."""
    write(root / f"images/{key}.png", np.zeros((8, 6, 3)))
    write(root / f"labels/{key}.png", np.zeros((8, 6)))


def test_pairs_by_mirrored_path_whatever_the_suffix(tmp_path: Path) -> None:
    """A jpg image and its png label in mirrored trees are one sample."""
    write(tmp_path / "images/town/a.jpg", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/town/a.png", np.zeros((8, 6)))
    (sample,) = collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=False).samples
    assert (sample.key, sample.kind, sample.image.name) == ("town/a", "auto", "a.jpg")


def test_cityscapes_names_are_paired(tmp_path: Path) -> None:
    """In the Cityscapes layout an image finds its labelIds, which are source ids."""
    write(tmp_path / "leftImg8bit/train/x/x_1_leftImg8bit.png", np.zeros((8, 6, 3)))
    write(tmp_path / "gtFine/train/x/x_1_gtFine_labelIds.png", np.zeros((8, 6)))
    (sample,) = collect_samples(tmp_path, tmp_path, "fine", "cityscapes", partial=False).samples
    assert sample.label.ids == "source"


def test_an_image_that_is_its_own_label_is_refused(tmp_path: Path) -> None:
    """The folder of the labels, given for both, is an error: a network would learn to copy what it sees."""
    write_pair(tmp_path, "a")
    with pytest.raises(LayoutError, match=r"a\.png is given as an image and as its own label"):
        collect_samples(tmp_path / "labels", tmp_path / "labels", "fine", partial=False)


def test_missing_fine_label_is_refused_with_names_and_count(tmp_path: Path) -> None:
    """Images without a fine label stop the run; the first few are named and all are counted."""
    write_pair(tmp_path, "labelled")
    for name in "abcd":
        write(tmp_path / f"images/{name}.png", np.zeros((8, 6, 3)))
    with pytest.raises(LayoutError, match=r"4 of 5 images of .* no fine label in .*: a, b, c, \.\.\.; add the labels"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False)


def test_missing_auto_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    """Images without a label are left out where that is allowed, and so are labels without an image."""
    write_pair(tmp_path, "labelled")
    write(tmp_path / "images/failed.png", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/other.png", np.zeros((8, 6)))
    collection = collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=True)
    assert [s.key for s in collection.samples] == ["labelled"]
    assert collection.images_without_label == ("failed",)
    assert collection.labels_without_image == ("other",)


def test_no_pair_at_all_is_refused(tmp_path: Path) -> None:
    """Trees that do not mirror each other are an error that shows what was looked for and what is there."""
    write(tmp_path / "images/a.png", np.zeros((8, 6, 3)))
    write(tmp_path / "labels/town/a.png", np.zeros((8, 6)))
    with pytest.raises(LayoutError, match=r"looked for a\.png among labels such as town/a\.png"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "auto", partial=True)
    with pytest.raises(MissingFileError, match="no image folder"):
        collect_samples(tmp_path / "nowhere", tmp_path / "labels", "fine", partial=False)


def test_images_that_share_a_key_are_refused(tmp_path: Path) -> None:
    """Two images for one label are an error: nobody knows which is meant."""
    write_pair(tmp_path, "labelled")
    write(tmp_path / "images/labelled.jpg", np.zeros((8, 6, 3)))
    with pytest.raises(LayoutError, match=r"labelled\.jpg and labelled\.png would share the label"):
        collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False)


def test_size_mismatch_names_both_files_when_read(tmp_path: Path, schema: ClassSchema) -> None:
    """A label of another size than its image is named with its image and both sizes."""
    write_pair(tmp_path, "a")
    write(tmp_path / "images/a.png", np.zeros((8, 7, 3)))
    (sample,) = collect_samples(tmp_path / "images", tmp_path / "labels", "fine", partial=False).samples
    with pytest.raises(LabelError, match=r"labels/a\.png is 6x8 but its image .*images/a\.png is 7x8"):
        read_sample(sample, schema)
