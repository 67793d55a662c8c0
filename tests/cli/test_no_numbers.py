"""Teachers that predict NaN or infinity: a night of labels that ignore everything is not what is made of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from cli.main import main
from storage.schema import ClassSchema

FACTORY = """
import torch

def make(device):
    def predict(images):
        bright = images.amax(dim=(1, 2, 3), keepdim=True) > 2
        classes = torch.tensor([True, {others}, {others}]).view(1, 3, 1, 1)
        return torch.nn.functional.avg_pool2d(images, 4).masked_fill(bright & classes, {value})
    return predict
"""


@pytest.fixture
def data(tmp_path: Path, schema: ClassSchema, make_image: Callable[..., object]) -> Path:
    """Five dark images and a bright one among them, and the classes."""
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    for number in range(6):
        path = tmp_path / f"images/{number}.png"
        make_image(path, (32, 48), number)
        if number != 2:
            Image.open(path).point(lambda value: value // 2).save(path)
    return tmp_path


@pytest.mark.parametrize("keep", ["none", "confidence"])
@pytest.mark.parametrize("value", ["float('nan')", "float('inf')"])
def test_an_image_without_numbers_is_a_failed_item(
    data: Path, monkeypatch: pytest.MonkeyPatch, value: str, keep: str
) -> None:
    """The image that the teacher cannot predict has failed and says why; those labelled together with it are made."""
    module = f"no_numbers_{value[7:10]}_{keep}"  # a module is imported once in a process
    (data / f"{module}.py").write_text(FACTORY.format(value=value, others=True))
    monkeypatch.syspath_prepend(data)
    arguments = ["label", "--images", data / "images", "--teacher", f"python:{module}:make", "--scales", "0.5,1"]
    arguments += ["--classes", data / "classes.json", "--batch", 3, "--keep", keep, "--threshold", 0, "--device", "cpu"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--out", str(data / "run"), "--json"])
    assert result.exit_code == 3, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["labelled"], told["failed"]) == (5, 1)
    (reason,) = (data / "run/failed.txt").read_text().splitlines()
    assert "2.png: the teacher predicts NaN or infinity" in reason


def test_a_class_that_is_ruled_out_is_no_failure(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher may have a class at minus infinity."""
    (data / "rules_out.py").write_text(FACTORY.format(value="-float('inf')", others=False))
    monkeypatch.syspath_prepend(data)
    arguments = ["label", "--images", data / "images", "--teacher", "python:rules_out:make", "--scales", "1"]
    arguments += ["--classes", data / "classes.json", "--threshold", "0", "--device", "cpu", "--out", data / "run"]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
