"""Descriptions of teachers, and what they refer to."""

import json
from pathlib import Path

import pytest

from storage.errors import SettingsError
from storage.schema import ClassSchema
from teacher import Teacher, load_teacher


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('[teacher]\nmodel = "first.toml"', ""),
        ('[teacher]\nmodel = "second.toml"', '[teacher]\nmodel = "first.toml"'),
        ('[ensemble]\nmembers = ["t.pt", "second.toml"]', '[ensemble]\nmembers = ["first.toml", "t.pt"]'),
    ],
)
def test_a_description_that_refers_to_itself_is_refused(tmp_path: Path, first: str, second: str) -> None:
    """However many others the way round leads over; nothing is loaded before that is seen."""
    (tmp_path / "first.toml").write_text(first)
    (tmp_path / "second.toml").write_text(second)
    (tmp_path / "t.pt").touch()
    with pytest.raises(SettingsError, match=r"refers to itself.*first\.toml -> .*first\.toml"):
        load_teacher(tmp_path / "first.toml", device="cpu")


def test_a_description_may_be_named_twice(tmp_path: Path, tiny_teacher: Path) -> None:
    """Two members that lead to one description are no circle."""
    (tmp_path / "one.toml").write_text(f'[teacher]\nmodel = "{tiny_teacher.name}"')
    (tmp_path / "two.toml").write_text('[teacher]\nmodel = "one.toml"')
    (tmp_path / "both.toml").write_text('[ensemble]\nmembers = ["one.toml", "two.toml"]')
    assert load_teacher(tmp_path / "both.toml", device="cpu").name.startswith("average of")


def described(path: Path, model: Path, schema: Path, classes: dict[str, str]) -> Teacher:
    """A checkpoint with a class table."""
    table = "".join(f'{label} = "{name}"\n' for label, name in classes.items())
    path.write_text(f'[teacher]\nmodel = "{model}"\nschema = "{schema}"\n[classes]\n{table}')
    return load_teacher(path, device="cpu")


def test_a_class_table_that_changes_nothing_leaves_a_teacher_as_it_is(
    tmp_path: Path, tiny_teacher: Path, schema: ClassSchema
) -> None:
    """A checkpoint whose classes stay what they are keeps its attention; one with other classes says what it loses.

    Teachers that fuse scales in different ways are never taken for the same.
    """
    own = load_teacher(tiny_teacher, device="cpu")
    assert own.fusion() == "hierarchical"
    (tmp_path / "three.json").write_text(json.dumps(schema.to_dict()))
    same = described(tmp_path / "same.toml", tiny_teacher, tmp_path / "three.json", {n: n for n in schema.names})
    assert (same.fusion(), same.digest, same.remarks) == ("hierarchical", own.digest, own.remarks)
    (tmp_path / "other.json").write_text(json.dumps({"classes": [{"name": name} for name in "abc"]}))
    other = described(
        tmp_path / "other.toml", tiny_teacher, tmp_path / "other.json", dict(zip(schema.names, "abc", strict=True))
    )
    assert other.fusion() == "average"
    assert other.digest != own.digest
    assert any("attention is left out" in remark for remark in other.remarks)
