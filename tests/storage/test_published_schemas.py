"""The built-in schemas of public data sets are the tables that the data sets and well-known packages publish."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from storage.model_labels import bit_colour
from storage.schema import ALIASES, IGNORE, ClassSchema, builtin_schemas, load_schema


def digest(lines: Sequence[object]) -> str:
    """A short hash of a published list, one entry a line."""
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()[:16]


def source_ids(schema: ClassSchema) -> list[int]:
    """The value of each class in the data set's own files; none of these data sets has two for a class."""
    assert all(len(info.source_ids) == 1 for info in schema.classes)
    return [info.source_ids[0] for info in schema.classes]


@pytest.mark.parametrize(
    ("name", "names", "colours"),
    [
        ("ade20k", "f9dbd8a75a0722c9", "fb7e0adc0ee14589"),
        ("bdd100k", "5995d02d6c574d51", "199c300911ed7c23"),
        ("cityscapes", "5995d02d6c574d51", "199c300911ed7c23"),
        ("pascal-voc", "301e5e4e2a9a7ab6", "7cff46e848d530c2"),
    ],
)
def test_names_and_colours_are_those_of_mmsegmentation(name: str, names: str, colours: str) -> None:
    """Both lists hash as those of mmsegmentation 1.2.2, mmseg/utils/class_names.py, without spaces at the ends."""
    schema = load_schema(name)
    assert digest(schema.names) == names
    assert digest([info.color for info in schema.classes]) == colours


@pytest.mark.parametrize(
    ("name", "names", "colours"),
    [
        ("mapillary-v1.2", "db6109de55a9d835", "c3df41c498de939a"),
        ("mapillary-v2.0", "569f2ee8c65feff2", "fe50345c181617f5"),
    ],
)
def test_mapillary_is_the_published_list_without_its_last_label(name: str, names: str, colours: str) -> None:
    """With "Unlabeled" in black at the end, names and colours hash as those of mmsegmentation 1.2.2."""
    schema = load_schema(name)
    assert digest([*schema.names, "Unlabeled"]) == names
    assert digest([*(info.color for info in schema.classes), (0, 0, 0)]) == colours
    assert source_ids(schema) == list(range(len(schema)))
    assert schema.ignored_source_ids == {len(schema)}
    assert schema.index_to_source[IGNORE] == len(schema)


def test_mapillary_2_has_the_ids_of_its_published_configuration() -> None:
    """124 labels, with the traffic lights in the order of config_v2.0.json, which is not that of the alphabet."""
    schema = load_schema("mapillary-v2.0")
    assert len(schema) == 123
    published = {
        0: "Bird",
        21: "Road",
        24: "Sidewalk",
        30: "Person",
        58: "Lane Marking (only) - Test",
        90: "Traffic Light - General (Single)",
        91: "Traffic Light - Pedestrians",
        92: "Traffic Light - General (Upright)",
        93: "Traffic Light - General (Horizontal)",
        94: "Traffic Light - Cyclists",
        95: "Traffic Light - Other",
        108: "Car",
        122: "Static",
    }
    assert {i: schema.names[i] for i in published} == published


def test_a_second_name_is_the_same_schema() -> None:
    """Mapillary Vistas 1.2 goes by two names, both of which are listed."""
    assert load_schema("mapillary-v1.2") == load_schema("mapillary")
    assert {*ALIASES, *ALIASES.values()} <= {*builtin_schemas()}


def test_ade20k_has_no_off_by_one() -> None:
    """In its files 0 is other and ignored; 1 is wall, the class of index 0, and 150 is flag, that of index 149."""
    schema = load_schema("ade20k")
    assert (schema.names[0], schema.names[12], schema.names[149]) == ("wall", "person", "flag")
    values = np.arange(256, dtype=np.uint8)
    indices = schema.to_indices(values, "source")
    assert indices[0] == IGNORE
    assert indices[1:151].tolist() == list(range(150))
    assert set(indices[151:].tolist()) == {IGNORE}
    assert np.flatnonzero(schema.unknown_source_ids).tolist() == list(range(151, 255))
    assert schema.index_to_source[[0, 149, IGNORE]].tolist() == [1, 150, 0]


def test_ade20k_keeps_the_synonyms_of_its_own_list() -> None:
    """The names of objectInfo150.txt, other than the first, are synonyms."""
    by_name = {info.name: info.synonyms for info in load_schema("ade20k").classes}
    assert by_name["car"] == ("auto", "automobile", "machine", "motorcar")
    assert by_name["sidewalk"] == ("pavement",)
    assert by_name["sky"] == ()


def test_bdd100k_files_hold_the_training_ids_of_cityscapes() -> None:
    """19 classes of the same names, order and colours; its label files hold the class indices, and 255."""
    schema, cityscapes = load_schema("bdd100k"), load_schema("cityscapes")
    assert schema.names == cityscapes.names
    assert source_ids(schema) == list(range(19))
    assert np.flatnonzero(schema.unknown_source_ids).tolist() == list(range(19, 255))
    assert schema.index_to_source[IGNORE] == IGNORE


def test_pascal_voc_has_the_categories_of_torchvision() -> None:
    """The names are those of torchvision's VOC weights, but for its underscores; 255 is the border of objects."""
    schema = load_schema("pascal-voc")
    categories = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"]
    assert list(schema.names) == [name.strip("_") for name in categories]
    assert source_ids(schema) == list(range(21))
    assert [info.color for info in schema.classes] == [bit_colour(i) for i in range(21)]
    assert (bit_colour(15), bit_colour(255)) == ((192, 128, 128), (224, 224, 192))


def test_coco_stuff_has_171_of_182_ids_one_less_than_the_categories() -> None:
    """The "stuffthingmaps" hold the category's id less 1; 11 categories of COCO were never annotated."""
    schema = load_schema("coco-stuff")
    assert digest(schema.names) == "8ea44449837dceb3"  # of mmsegmentation 1.2.2
    never = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # street sign, hat, ..., hair brush
    assert source_ids(schema) == [i for i in range(182) if i not in never]
    by_id = dict(zip(source_ids(schema), schema.names, strict=True))
    published = {1: "person", 13: "stop sign", 90: "toothbrush", 92: "banner", 149: "road", 182: "wood"}  # labels.txt
    assert {category: by_id[category - 1] for category in published} == published
    assert set(np.flatnonzero(schema.unknown_source_ids)) == never | set(range(182, 255))
    assert schema.index_to_source[IGNORE] == IGNORE
    assert len({info.color for info in schema.classes}) == 171


def test_cityscapes_has_the_labels_of_its_own_scripts() -> None:
    """Names, training ids, colours and ids are those of cityscapesscripts."""
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    schema = load_schema("cityscapes")
    published = {label.trainId: label for label in labels if 0 <= label.trainId < IGNORE}
    assert [published[i].name for i in range(19)] == list(schema.names)
    assert [published[i].color for i in range(19)] == [info.color for info in schema.classes]
    assert [published[i].id for i in range(19)] == source_ids(schema)
    assert {label.id for label in labels if label.ignoreInEval and label.id >= 0} == schema.ignored_source_ids


def test_bdd100k_has_the_labels_of_its_own_package() -> None:
    """Names, training ids and colours are those of the package bdd100k."""
    labels = pytest.importorskip("bdd100k.label.label").labels
    published = {label.trainId: (label.name, label.color) for label in labels if label.trainId < IGNORE}
    schema = load_schema("bdd100k")
    assert [published[i] for i in range(19)] == [(info.name, info.color) for info in schema.classes]
