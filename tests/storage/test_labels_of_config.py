"""The labels of a transformers model, from its configuration, and the schema of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.class_table import match_classes
from storage.errors import SchemaError, SettingsError
from storage.model_labels import MAX_LABELS, labels_of_config
from storage.schema import load_schema

WriteConfig = Callable[[Any], Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write a model's config.json into a folder of the model's name."""

    def write(content: Any) -> Path:
        path = tmp_path / "segformer-b0" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@given(st.permutations(range(12)), st.booleans())
def test_labels_come_in_the_order_of_outputs(order: list[int], as_text: bool) -> None:
    """Ids are numbers, as a text too, and "10" is after "9"."""
    table = {str(i) if as_text else i: f"class {i}" for i in order}
    assert labels_of_config({"id2label": table}, "model") == tuple(f"class {i}" for i in range(12))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ([], "expected a model's configuration"),
        (None, "expected a model's configuration"),
        ({}, "expected a model's configuration"),
        ({"num_labels": 10**9}, "expected a model's configuration"),
        ({"id2label": {}}, "expected a model's configuration"),
        ({"id2label": ["sky", "road"]}, "expected a model's configuration"),
        ({"id2label": {str(i): "x" for i in range(MAX_LABELS + 1)}}, f"at most {MAX_LABELS}"),
        ({"id2label": {"0": "sky", "2": "road"}}, "none of the id 1"),
        ({"id2label": {"1": "sky", "2": "road"}}, "none of the id 0"),
        ({"id2label": {"999999999": "sky"}}, "none of the id 0"),
        ({"id2label": {"0": "sky", 0: "road"}}, "names 0 twice"),
        ({"id2label": {"-1": "sky"}}, "has the id '-1'"),
        ({"id2label": {"00": "sky"}}, "has the id '00'"),
        ({"id2label": {"٣": "sky"}}, "has the id"),
        ({"id2label": {"9" * 5000: "sky"}}, "has the id '9999"),
        ({"id2label": {10**5000: "sky"}}, "has the id int"),
        ({"id2label": {True: "sky"}}, "has the id bool"),
        ({"id2label": {None: "sky"}}, "has the id NoneType"),
        ({"id2label": {"0": 7}}, "names 0 by no text"),
        ({"id2label": {"0": None}}, "names 0 by no text"),
        ({"id2label": {"0": ["sky"]}}, "names 0 by no text"),
        ({"id2label": {"0": "x" * 1_000_000}}, "names 0 by no text of at most"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(config: Any, says: str) -> None:
    """Each defect is named in a short message that tells whose it is."""
    with pytest.raises(SettingsError, match=says) as caught:
        labels_of_config(config, "model/config.json")
    assert str(caught.value).startswith("model/config.json: ")
    assert len(str(caught.value)) < 300


def test_a_model_s_configuration_is_a_class_schema(write_config: WriteConfig) -> None:
    """It is named after the model's folder, and its classes are the labels in the order of the outputs."""
    schema = load_schema(str(write_config({"id2label": {"1": "road, route", "0": "sky"}, "architectures": ["X"]})))
    assert schema.name == "segformer-b0"
    assert schema.names == ("sky", "road")
    assert schema.source_to_index[[0, 1]].tolist() == [0, 1]


def test_a_model_of_ade20k_has_the_indices_of_the_built_in_schema(write_config: WriteConfig) -> None:
    """Its index 0 is wall, as in the schema, where the data set's own files have 1."""
    names = [name if name != "bed" else "bed " for name in load_schema("ade20k").names]  # as such files have it
    path = write_config({"id2label": {str(i): name for i, name in enumerate(names)}})
    schema = load_schema(str(path))
    assert schema.names == load_schema("ade20k").names
    assert match_classes(schema.names, load_schema("ade20k")).targets == tuple(range(150))


def test_numbered_labels_make_no_schema(write_config: WriteConfig) -> None:
    """Where nobody named the labels, a classes.json is asked for."""
    with pytest.raises(SchemaError, match=r"only numbered \(LABEL_0, ...\); write a classes.json"):
        load_schema(str(write_config({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}})))


def test_too_many_labels_make_no_schema(write_config: WriteConfig) -> None:
    """Label files hold 255 classes."""
    with pytest.raises(SchemaError, match="got 300 classes, expected 1 to 255"):
        load_schema(str(write_config({"id2label": {str(i): f"class {i}" for i in range(300)}})))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id2label": ' + "9" * 5000 + "}", '{"id2label": {"0": "sky"}'])
def test_a_file_that_cannot_be_parsed_is_a_schema_error(tmp_path: Path, text: str) -> None:
    """Nesting without end, numbers without end and a file that is cut off are no crash."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match="cannot be parsed"):
        load_schema(str(path))
