"""The commands `compare` and `rounds`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.compare import compare
from cli.main import main
from cli.rounds import rounds
from pipeline.comparison import CompareSettings
from pipeline.rounds_settings import RoundsSettings
from pipeline.settings import Settings


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """Noise with labels of three classes: to learn from, to label, and to validate on."""
    for name, count in (("fine", 3), ("extra", 2), ("val", 2)):
        for number in range(count):
            make_image(tmp_path / name / f"{number}.png", (40, 48), 10 * len(name) + number)
            values = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (40, 48))
            (tmp_path / f"{name}_labels").mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / f"{name}_labels/{number}.png")
    classes = {"classes": [{"name": n} for n in ("road", "pole", "sky")]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


def arguments(data: Path) -> list[str | Path]:
    """What both commands are told."""
    return [
        *("--fine-images", data / "fine", "--fine-labels", data / "fine_labels", "--extra-images", data / "extra"),
        *("--val-images", data / "val", "--val-labels", data / "val_labels", "--classes", data / "classes.json"),
        *("--encoder", "resnet10t", "--steps", "2", "--crop", "48x32", "--batch", "2", "--workers", "0"),
        *("--device", "cpu", "--scales", "1", "--out", data / "out"),
    ]


def test_compare_ends_with_its_table(data: Path) -> None:
    """The table, the verdict and the JSON hold the same students; the settings left behind repeat the command."""
    result = invoke("compare", *arguments(data), "--set", f"rough={data / 'extra_labels'}", "--seeds", "1")
    assert result.exit_code == 0, result.stderr
    table = (data / "out/comparison.json").read_text()
    assert "student 1 of 2: fine, seed 0" in result.stdout
    assert "student 2 of 2: rough, seed 0; about" in result.stdout
    assert "gains over rough" in result.stdout
    assert "one seed, which tells nothing" in result.stdout
    settings = data / "out/comparison.toml"
    again = invoke("compare", "--settings", settings, "--json")
    assert again.exit_code == 0, again.stderr
    found = json.loads(again.stdout)
    assert found.pop("out") == str(data / "out")
    assert found == json.loads(table)
    assert "is finished at step 2 of 2" in again.stderr


def test_rounds_end_with_the_best(data: Path) -> None:
    """Each round has its line, and the best is named with a warning on what chose it."""
    result = invoke("rounds", *arguments(data), "--rounds", "1", "--threshold", "0", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [one["number"] for one in found["rounds"]] == [0, 1]
    assert Path(found["best_checkpoint"]).is_file()
    assert f"best: round {found['best_round']}, " in result.stderr
    assert "chosen on the validation images" in result.stderr
    assert "stopped: " in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "rough"), "expected NAME=DIR"),
        (("--set", "fine=."), "none 'fine'"),
        (("--set", "rough=nowhere"), "labels of the set rough"),
        (("--set", "rough=.", "--baseline", "smooth"), "expected one of the sets fine, rough"),
        (("--set", "rough=.", "--seeds", "0"), "seeds"),
        ((), "--set"),
    ],
)
def test_sets_are_checked_before_any_work(data: Path, options: tuple[str, ...], says: str) -> None:
    """What cannot be compared is refused with exit code 2, and nothing is written."""
    result = invoke("compare", *arguments(data), *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (data / "out").exists()


def test_sets_of_a_settings_file_are_a_list(data: Path) -> None:
    """A list stands for the option given several times; one text is refused, not taken for its letters."""
    (data / "list.toml").write_text('[compare]\nset = ["rough=there", "other=elsewhere"]\n')
    listed = invoke("compare", "--settings", data / "list.toml", *arguments(data))
    assert "labels of the set rough" in listed.stderr
    (data / "s.toml").write_text('[compare]\nset = "rough=there"\n')
    result = invoke("compare", "--settings", data / "s.toml", *arguments(data))
    assert result.exit_code == 2
    assert "--set" in result.stderr


@pytest.mark.parametrize(
    ("command", "kind", "required"),
    [(compare, CompareSettings, {"set": ("a=b",)}), (rounds, RoundsSettings, {})],
)
def test_flags_and_settings_have_the_same_names_and_defaults(
    data: Path, command: click.Command, kind: type[Settings], required: dict[str, Any]
) -> None:
    """Every setting is a flag of the same name with the same default, so that the library and the command agree."""
    paths = {
        **{f"{name}_images": data / name for name in ("fine", "extra", "val")},
        **{f"{name}_labels": data / f"{name}_labels" for name in ("fine", "val")},
        "classes": "camvid",
        "out": data / "out",
    }
    given = [str(part) for name, value in paths.items() for part in (f"--{name.replace('_', '-')}", value)]
    given += [part for name, values in required.items() for value in values for part in (f"--{name}", value)]
    options = command.make_context("command", given).params
    del options["as_json"]
    assert options.keys() == kind.model_fields.keys()
    if "set" in options:
        options["set"] = tuple(text for texts in options["set"] for text in texts)
    assert kind.checked(**options) == kind.checked(**paths, **required)
