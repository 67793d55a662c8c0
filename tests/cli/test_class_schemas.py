"""`--classes` on the command line: built-in schemas, and the classes of a model."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from storage.schema import builtin_schemas, load_schema

DOCS = Path(__file__).parents[2] / "docs"


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def as_json(*arguments: str | Path) -> dict[str, Any]:
    """What a command gives as JSON."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.mark.parametrize("name", builtin_schemas())
def test_every_built_in_schema_is_taken_and_documented(name: str) -> None:
    """Each name is one for --classes, and stands with its number of classes in docs/schemas.md."""
    got = as_json("estimate", "--count", "1", "--size", "20x10", "--classes", name)
    assert got["classes"] == len(load_schema(name))
    rows = [line for line in (DOCS / "schemas.md").read_text().splitlines() if line.startswith("| `")]
    row = next(row for row in rows if f"`{name}`" in row)
    assert re.search(rf"\| {got['classes']}\b", row)


def test_a_model_s_configuration_is_taken(tmp_path: Path) -> None:
    """The path of a config.json stands for the model's labels, and one without names is an error that says so."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"id2label": {"0": "sky", "1": "road", "2": "car, auto"}}))
    assert as_json("estimate", "--count", "1", "--size", "20x10", "--classes", path)["classes"] == 3
    path.write_text(json.dumps({"id2label": {"0": "LABEL_0"}}))
    result = invoke("estimate", "--count", "1", "--size", "20x10", "--classes", path)
    assert result.exit_code == 2
    assert "only numbered" in result.stderr


def test_files_of_ade20k_are_read_without_an_off_by_one(tmp_path: Path) -> None:
    """Value 0 is ignored, 1 is wall and 150 is flag."""
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1, 1, 150]], np.uint8)).save(path)
    got = as_json("inspect", path, "--classes", "ade20k", "--ids", "source")
    assert {name: pixels for name, pixels in got["pixels"].items() if pixels} == {"wall": 2, "flag": 1}
    assert (got["ignored"], got["unknown"]) == (1, 0)


def test_an_unknown_schema_is_told_what_there_is() -> None:
    """The built-in names are listed."""
    result = invoke("estimate", "--count", "1", "--size", "20x10", "--classes", "ade")
    assert result.exit_code == 2
    assert "expected one of ade20k, bdd100k, camvid, cityscapes, coco-stuff, mapillary" in result.stderr
