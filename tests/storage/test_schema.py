"""Class schemas: built-in tables, users' own, and the map from source ids to class indices."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import errors
from storage.errors import LabelError, MissingFileError, SchemaError
from storage.schema import IGNORE, ClassInfo, ClassSchema, builtin_schemas, load_schema


def test_cityscapes_has_the_published_train_ids() -> None:
    """The 34 label ids of Cityscapes map to 19 classes in the published order, all others to ignore."""
    table = load_schema("cityscapes").source_to_index
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    published |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert {i: int(v) for i, v in enumerate(table) if v != IGNORE} == published


def test_camvid_has_eleven_classes() -> None:
    """The built-in CamVid schema names its 11 classes in order."""
    assert load_schema("camvid").names[:4] == ("sky", "building", "pole", "road")
    assert len(load_schema("camvid")) == 11


@pytest.mark.parametrize("name", builtin_schemas())
def test_every_built_in_schema_survives_a_round_trip(name: str) -> None:
    """Writing a schema as plain values and reading it back changes nothing."""
    schema = load_schema(name)
    again = ClassSchema.from_dict(json.loads(json.dumps(schema.to_dict())), "again")
    assert again == schema
    assert again.digest == schema.digest


def test_a_classes_json_with_id_name_color_is_read(tmp_path: Path) -> None:
    """A user's classes.json needs ids, names and colours, in any order."""
    path = tmp_path / "classes.json"
    path.write_text(
        json.dumps({"classes": [{"id": 1, "name": "b", "color": [1, 2, 3]}, {"id": 0, "name": "a"}], "ignore": 255})
    )
    schema = load_schema(str(path))
    assert schema.names == ("a", "b")
    assert schema.palette[1].tolist() == [1, 2, 3]


def test_a_toml_file_is_read(tmp_path: Path) -> None:
    """The same content may stand in TOML."""
    path = tmp_path / "mine.toml"
    path.write_text('[[classes]]\nname = "a"\nsource_ids = [3, 4]\n[[classes]]\nname = "b"\nsource_ids = [9]\n')
    assert load_schema(str(path)).source_to_index[[3, 4, 9, 0]].tolist() == [0, 0, 1, IGNORE]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", 'a list "classes"'),
        ('{"classes": [{"id": 0}]}', "needs a name"),
        ('{"classes": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}', "each once"),
        ('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}]}', "unique"),
        ('{"classes": [{"name": "a", "color": [300, 0, 0]}]}', "0..255"),
        ('{"classes": [{"name": "a", "color": [1, 2]}]}', "red, green, blue"),
        ('{"classes": [{"name": "a", "source_ids": [1]}, {"name": "b", "source_ids": [1]}]}', "stands for both"),
        ('{"classes": [{"name": "a"}], "ignore": 0}', "ignore is 0"),
        ('{"classes": [{"name": "a"}], "ignored_source_ids": 5}', "ignored_source_ids is 5"),
        ('{"classes": [{"name": "a"}], "ignored_source_ids": ["z"]}', "expected a list of integers"),
        ('{"classes": [{"name": "a"}], "ignored_source_ids": [true]}', "expected a list of integers"),
        ('{"classes": [{"name": "a"}], "ignored_source_ids": [256]}', r"0\.\.255"),
        ('{"classes": [{"name": "a", "synonyms": "b"}]}', "synonyms of 'a' is 'b', expected a list of names"),
        ('{"classes": [{"name": "a", "synonyms": [1]}]}', "expected a list of names"),
        ('{"classes": [{"name": "a", "source_id": [7]}]}', "entry 0 .* key 'source_id'; did you mean source_ids"),
        ('{"classes": [{"name": "a", "colour": [1, 2, 3]}]}', "did you mean color"),
        ('{"classes": [{"name": "a"}], "ignored_ids": [0]}', "did you mean ignored_source_ids"),
        ('{"classes": []}', "1 to 255"),
        ("{", "cannot be parsed"),
    ],
)
def test_a_malformed_schema_is_refused_with_its_reason(tmp_path: Path, content: str, says: str) -> None:
    """Each defect of a schema file is named."""
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(SchemaError, match=says):
        load_schema(str(path))


def test_keys_of_other_programs_are_left_to_them(tmp_path: Path) -> None:
    """Only what is nearly a known key, and does not stand beside it, is taken for a slip."""
    path = tmp_path / "classes.json"
    path.write_text('{"classes": [{"name": "a", "color": [1, 2, 3], "colour": "red", "isthing": 1}], "version": 2}')
    assert load_schema(str(path)).names == ("a",)


def test_an_unknown_schema_names_the_built_in_ones() -> None:
    """A name that is neither built in nor a file lists what there is."""
    with pytest.raises(MissingFileError, match="camvid, cityscapes"):
        load_schema("citiscapes")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=64))
def test_source_ids_become_indices_or_ignore_whatever_they_are(values: list[int]) -> None:
    """Any 8-bit source id gives a class index or ignore, the same for each pixel of that id."""
    schema = load_schema("cityscapes")
    got = schema.to_indices(np.array(values, np.uint8), "source")
    assert ((got < 19) | (got == IGNORE)).all()
    assert all(schema.source_to_index[v] == g for v, g in zip(values, got, strict=True))


def test_known_source_ids_are_classes_those_ignored_on_purpose_and_255(schema: ClassSchema) -> None:
    """All other values of 0..255 are unknown."""
    assert set(np.flatnonzero(~schema.unknown_source_ids)) == {7, 17, 18, 23, 0, 1, IGNORE}


def test_class_indices_become_the_first_source_id_and_ignore_one_that_is_ignored(schema: ClassSchema) -> None:
    """Ignore is written as the lowest id ignored on purpose, and as 255 where there is none."""
    assert schema.index_to_source.dtype == np.uint8
    assert schema.index_to_source[[0, 1, 2, IGNORE]].tolist() == [7, 17, 23, 0]
    assert load_schema("cityscapes").index_to_source[[0, 18, IGNORE]].tolist() == [7, 33, 0]
    assert load_schema("camvid").index_to_source[[0, 10, IGNORE]].tolist() == [0, 10, IGNORE]
    overlapping = ClassSchema("x", schema.classes, frozenset({7, 9}))
    assert overlapping.index_to_source[[0, IGNORE]].tolist() == [7, 9]


@pytest.mark.parametrize("name", builtin_schemas())
def test_source_ids_that_are_written_are_read_as_the_same_class(name: str) -> None:
    """For every built-in schema, class indices and ignore survive the way to source ids and back."""
    schema = load_schema(name)
    values = np.array([*range(len(schema)), IGNORE], np.uint8)
    written = schema.index_to_source[values]
    np.testing.assert_array_equal(schema.to_indices(written, "source"), values)
    assert not schema.unknown_source_ids[written].any()


def test_ignore_cannot_be_written_as_the_source_id_of_a_class() -> None:
    """Where 255 is a class and no id is ignored, source ids cannot be written; naming one to ignore helps."""
    classes = (ClassInfo("a", (0, 0, 0), (1,)), ClassInfo("b", (0, 0, 0), (255,)))
    with pytest.raises(SchemaError, match="255 is the source id of 'b'"):
        _ = ClassSchema("x", classes).index_to_source
    assert ClassSchema("x", classes, frozenset({0})).index_to_source[[1, IGNORE]].tolist() == [255, 0]


def test_an_illegal_class_index_is_an_error_that_says_source_ids(schema: ClassSchema) -> None:
    """A class-index file with value 33 is refused, with the likely cause."""
    with pytest.raises(LabelError, match=r"value 33 .* 0\.\.2 .* --ids source"):
        schema.to_indices(np.array([0, 33], np.uint8), "class")


def test_the_digest_ignores_colours_and_synonyms_and_sees_names(schema: ClassSchema) -> None:
    """Two schemas that mean the same by every index have one digest."""
    plain = schema.to_dict()
    recoloured = json.loads(json.dumps(plain))
    recoloured["classes"][0] |= {"color": [0, 0, 0], "synonyms": ["street", "lane"]}
    renamed = json.loads(json.dumps(plain))
    renamed["classes"][0]["name"] = "street"
    assert ClassSchema.from_dict(recoloured, "x").digest == schema.digest
    assert ClassSchema.from_dict(recoloured, "x").classes[0].synonyms == ("street", "lane")
    assert ClassSchema.from_dict(renamed, "x").digest != schema.digest


def test_every_error_survives_pickling_with_its_message() -> None:
    """An error that crosses a process border arrives with kind and message."""
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.AutocoarseError)]
    assert len(kinds) > 5
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what, where, what to do")))  # noqa: S301 - our own bytes
        assert type(again) is kind
        assert str(again) == "what, where, what to do"
