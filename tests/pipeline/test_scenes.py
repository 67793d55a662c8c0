"""Generated scenes: repeatable, legally labelled, and with coarse labels that miss what a hurried human misses."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline import scene_things
from pipeline.scenes import _HURRY, SCHEMA, SPLITS, Scene, generate_scene, write_scene_set
from storage.errors import SettingsError, WorkspaceError
from storage.label_png import read_label_png
from storage.layouts import list_images, list_labels
from storage.schema import IGNORE, load_schema

SIZE = (96, 128)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Forty scenes of one set."""
    return [generate_scene(5, index, SIZE) for index in range(40)]


def index_of(name: str) -> int:
    """The class index of a name in the scenes' schema."""
    return load_schema(SCHEMA).names.index(name)


def pixels(scene: Scene) -> tuple[npt.NDArray[np.uint8], ...]:
    """All arrays of a scene."""
    return scene.image, scene.fine, scene.coarse


def test_a_scene_depends_on_seed_and_index_alone(scenes: list[Scene]) -> None:
    """A scene made on its own equals the one made after others, to the last pixel."""
    alone = generate_scene(5, 17, SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(pixels(alone), pixels(scenes[17]), strict=True))


@pytest.mark.parametrize(("seed", "index"), [(5, 1), (6, 0)])
def test_another_seed_or_index_gives_another_scene(scenes: list[Scene], seed: int, index: int) -> None:
    """Changing seed or index changes the image and the truth."""
    other = generate_scene(seed, index, SIZE)
    assert not np.array_equal(other.image, scenes[0].image)
    assert not np.array_equal(other.fine, scenes[0].fine)


@pytest.mark.parametrize("size", [(61, 83), (83, 61), (32, 32), (64, 201)])
def test_sizes_are_honoured(size: tuple[int, int]) -> None:
    """Any height and width come out as asked for, odd ones too."""
    scene = generate_scene(0, 3, size)
    assert scene.image.shape == (*size, 3)
    assert scene.fine.shape == scene.coarse.shape == size
    assert {array.dtype for array in pixels(scene)} == {np.dtype(np.uint8)}


def test_the_truth_labels_every_pixel(scenes: list[Scene]) -> None:
    """Fine labels hold class indices and no ignore; coarse labels hold class indices or ignore."""
    classes = len(load_schema(SCHEMA))
    assert all(scene.fine.max() < classes for scene in scenes)
    assert all(set(np.unique(scene.coarse)) <= {*range(classes), IGNORE} for scene in scenes)


def test_the_painters_and_the_schema_count_alike() -> None:
    """The class indices that are painted, and the annotator's habits, are in the order of the schema."""
    names = load_schema(SCHEMA).names
    assert tuple(_HURRY) == names
    assert {name: getattr(scene_things, name.upper()) for name in names} == {name: i for i, name in enumerate(names)}


def test_every_class_occurs(scenes: list[Scene]) -> None:
    """Over forty scenes each class of the schema is seen in at least ten."""
    seen = np.array([np.bincount(scene.fine.ravel(), minlength=len(load_schema(SCHEMA))) > 0 for scene in scenes])
    assert seen.sum(0).min() >= 10


def test_coarse_labels_are_right_where_they_label(scenes: list[Scene]) -> None:
    """At least 99.5 % of the coarsely labelled pixels have their true class."""
    labelled = sum(int((s.coarse != IGNORE).sum()) for s in scenes)
    right = sum(int((s.coarse == s.fine).sum()) for s in scenes)
    assert right / labelled >= 0.995


def test_coarse_labels_cover_most_but_not_all(scenes: list[Scene]) -> None:
    """On average 60 to 85 % of the pixels are labelled coarsely."""
    coverage = np.mean([(s.coarse != IGNORE).mean() for s in scenes])
    assert 0.60 <= coverage <= 0.85


def test_coarse_labels_miss_thin_and_small_things(scenes: list[Scene]) -> None:
    """Poles and signs are never labelled coarsely, and of the people's pixels less than a tenth."""
    for name, most in (("pole", 0.0), ("sign", 0.0), ("person", 0.1)):
        true = sum(int((s.fine == index_of(name)).sum()) for s in scenes)
        coarse = sum(int((s.coarse == index_of(name)).sum()) for s in scenes)
        assert coarse <= most * true, name


def test_coarse_labels_keep_clear_of_borders(scenes: list[Scene]) -> None:
    """No pixel beside another true class is labelled coarsely."""
    for scene in scenes:
        across = scene.fine[:, 1:] != scene.fine[:, :-1]
        down = scene.fine[1:] != scene.fine[:-1]
        for beside in (scene.coarse[:, 1:][across], scene.coarse[:, :-1][across], scene.coarse[1:][down]):
            assert (beside == IGNORE).all()


@pytest.mark.parametrize(("seed", "index", "size"), [(0, 0, (31, 64)), (0, 0, (64, 31)), (-1, 0, SIZE), (0, -1, SIZE)])
def test_impossible_scenes_are_refused(seed: int, index: int, size: tuple[int, int]) -> None:
    """Too small a size, or a negative seed or index, is an error of its own kind."""
    with pytest.raises(SettingsError, match="expected"):
        generate_scene(seed, index, size)


def test_a_scene_set_is_mirrored_trees(tmp_path: Path) -> None:
    """Images and labels lie under equal keys, splits share no scene, and progress counts every scene once."""
    assert list(write_scene_set(tmp_path, 2, (2, 3, 1), (48, 64))) == [1, 2, 3, 4, 5, 6]
    images = [item.key for item in list_images(tmp_path / "images").items]
    assert [key.split("/")[0] for key in images] == ["train"] * 2 + ["train_extra"] * 3 + ["val"]
    assert len({key.split("/")[1] for key in images}) == 6
    assert sorted(list_labels(tmp_path / "labels_fine")) == images
    assert sorted(list_labels(tmp_path / "labels_coarse")) == [k for k in images if k.startswith("train_extra/")]


def test_files_hold_what_was_generated(tmp_path: Path) -> None:
    """The images and labels read back from a scene set are the generated ones, numbered through the splits."""
    list(write_scene_set(tmp_path, 2, (1, 1, 1), (48, 64)))
    schema = load_schema(SCHEMA)
    for index, split in enumerate(SPLITS):
        scene, name = generate_scene(2, index, (48, 64)), f"{split}/scene_{index:05d}.png"
        with Image.open(tmp_path / "images" / name) as image:
            assert np.array_equal(np.asarray(image), scene.image)
        assert np.array_equal(read_label_png(tmp_path / "labels_fine" / name, schema).values, scene.fine)
    coarse = read_label_png(tmp_path / "labels_coarse/train_extra/scene_00001.png", schema)
    assert np.array_equal(coarse.values, generate_scene(2, 1, (48, 64)).coarse)


def test_negative_counts_are_refused(tmp_path: Path) -> None:
    """A split cannot have fewer than no scenes, and nothing is written."""
    with pytest.raises(SettingsError, match="train_extra"):
        list(write_scene_set(tmp_path, 0, (1, -1, 1), SIZE))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the way of the folder is a workspace error with the folder's path."""
    (tmp_path / "file").touch()
    with pytest.raises(WorkspaceError, match="file/set/images/train"):
        list(write_scene_set(tmp_path / "file" / "set", 0, (1, 1, 1), SIZE))
