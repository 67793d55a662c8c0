"""The command `inspect`: what a label file was made with, and what it holds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline.inspection import inspect_label
from storage.errors import LabelError, MissingFileError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.ledger import Ledger
from storage.schema import ClassSchema
from storage.workspace import Workspace

VALUES = np.array([[0, 0, 0, 1], [0, 0, 255, 255]], np.uint8)
PROVENANCE: dict[str, str | float] = {"settings": "abc123", "teacher": "def456", "threshold": 0.5, "version": "1"}

MakeRun = Callable[..., Path]


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def as_json(*arguments: str | Path) -> dict[str, Any]:
    """What `inspect` gives as JSON."""
    result = invoke("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def write(path: Path, values: npt.NDArray[np.uint8], provenance: dict[str, str | float] | None = None) -> Path:
    """Write a label file as this project does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_label_png(LabelMap(values, 255), provenance))
    return path


@pytest.fixture
def classes(tmp_path: Path, schema: ClassSchema) -> Path:
    """A file of the three classes."""
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(schema.to_dict()))
    return path


@pytest.fixture
def make_run(tmp_path: Path, schema: ClassSchema) -> MakeRun:
    """Make a run with one label, town/a, and these settings in its ledger; gives the label's path."""

    def make(values: npt.NDArray[np.uint8] = VALUES, **settings: object) -> Path:
        workspace = Workspace(tmp_path / "run")
        path = write(workspace.labels / "town/a.png", values, PROVENANCE)
        with Ledger(workspace.ledger) as ledger:
            ledger.claim({"classes": list(schema.names)} | settings)
        return path

    return make


def test_a_label_of_a_run_is_told_by_its_runs_classes(make_run: MakeRun, tmp_path: Path) -> None:
    """Provenance, size, bytes and pixels by class, by the names in the ledger of the run; as JSON and for people."""
    path = make_run()
    got = as_json(path)
    assert got == {
        "file": str(path),
        "height": 2,
        "width": 4,
        "bytes": path.stat().st_size,
        "mode": "gray",
        "provenance": PROVENANCE,
        "ids": "class",
        "classes": ["road", "pole", "sky"],
        "pixels": {"road": 5, "pole": 1, "sky": 0},
        "ignored": 2,
        "ignore_fraction": 0.25,
        "unknown": 0,
        "foreign_classes": False,
        "run": str((tmp_path / "run").resolve()),
        "key": "town/a",
        "confidence": None,
        "attention": None,
    }
    lines = [line.split() for line in invoke("inspect", path).stdout.splitlines()]
    assert ["teacher", "def456"] in lines
    assert ["threshold", "0.5"] in lines
    assert ["road", "5", "62.50%"] in lines
    assert ["ignore", "2", "25.00%"] in lines
    assert not any(line[0] == "sky" for line in lines)
    assert "2 of 3 classes occur" in invoke("inspect", path).stdout
    assert "4x2" in invoke("inspect", path).stdout


def test_a_path_relative_to_the_labels_is_found_in_its_run(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is found from wherever the command is given."""
    path = make_run()
    monkeypatch.chdir(path.parent)
    assert as_json("a.png")["key"] == "town/a"


def test_source_ids_of_a_run_are_understood_without_a_schema(make_run: MakeRun) -> None:
    """A run that wrote source ids says in its ledger which class each is."""
    values = np.array([[7, 7, 17, 0]], np.uint8)
    got = as_json(make_run(values, written_ids=[7, 17, 23], written_for_ignore=0))
    assert (got["ids"], got["pixels"], got["ignored"]) == ("source", {"road": 2, "pole": 1, "sky": 0}, 1)


def test_a_run_whose_ledger_says_no_classes_gives_indices(make_run: MakeRun) -> None:
    """Where the ledger does not name the classes, the indices that occur are told."""
    got = as_json(make_run(classes=None))
    assert (got["classes"], got["pixels"], got["key"]) == (None, {"0": 5, "1": 1}, "town/a")


def test_without_a_run_the_schema_says_the_names(tmp_path: Path, classes: Path) -> None:
    """A file in no run is told by index, or by the names of --classes."""
    path = write(tmp_path / "labels/a.png", VALUES, PROVENANCE)
    plain = as_json(path)
    assert (plain["classes"], plain["pixels"], plain["run"], plain["key"]) == (None, {"0": 5, "1": 1}, None, None)
    assert as_json(path, "--classes", classes)["pixels"] == {"road": 5, "pole": 1, "sky": 0}
    lines = [line.split() for line in invoke("inspect", path).stdout.splitlines()]
    assert ["class", "index", "pixels", "share"] in lines
    assert ["0", "5", "62.50%"] in lines


def test_source_ids_are_read_by_the_schema(tmp_path: Path, classes: Path) -> None:
    """With --ids source the schema says which values are which class; what it does not know is warned of."""
    path = write(tmp_path / "a.png", np.array([[7, 17, 18, 0, 99]], np.uint8))
    got = as_json(path, "--classes", classes, "--ids", "source")
    assert got["pixels"] == {"road": 1, "pole": 2, "sky": 0}
    assert (got["ignored"], got["ignore_fraction"], got["unknown"]) == (2, 0.4, 1)
    assert "1 pixels have source ids" in invoke("inspect", path, "--classes", classes, "--ids", "source").stderr


def test_a_file_that_says_that_it_holds_source_ids_is_believed(tmp_path: Path, classes: Path) -> None:
    """Provenance decides over --ids; without a schema nobody knows which ids are ignored, and that is said."""
    path = write(tmp_path / "a.png", np.array([[7, 17, 0]], np.uint8), {**PROVENANCE, "ids": "source"})
    for flags in ((), ("--ids", "class")):
        got = as_json(path, "--classes", classes, *flags)
        assert (got["ids"], got["pixels"], got["ignored"]) == ("source", {"road": 1, "pole": 1, "sky": 0}, 1)
    unnamed = as_json(path)
    assert (unnamed["pixels"], unnamed["ignored"]) == ({"0": 1, "7": 1, "17": 1}, None)
    assert unnamed["ignore_fraction"] is None
    assert "is not known; say it with --classes" in invoke("inspect", path).stdout


def test_other_classes_than_those_it_was_made_with_are_warned_of(tmp_path: Path, classes: Path) -> None:
    """Names of a schema that the file was not made with are a warning; those of its own are none."""
    other = write(tmp_path / "other.png", VALUES, {**PROVENANCE, "classes": "0123456789abcdef"})
    result = invoke("inspect", other, "--classes", classes)
    assert result.exit_code == 0
    assert "made with other classes" in result.stderr
    own = write(
        tmp_path / "own.png",
        VALUES,
        {**PROVENANCE, "classes": ClassSchema.from_dict(json.loads(classes.read_text()), "").digest},
    )
    assert "other classes" not in invoke("inspect", own, "--classes", classes).stderr


@pytest.mark.parametrize("palette", [False, True])
def test_somebody_elses_label_carries_no_provenance(tmp_path: Path, palette: bool) -> None:
    """A label of another tool, gray or with a palette, is told as far as it goes, and that it says nothing."""
    image = Image.fromarray(VALUES)
    if palette:
        image = Image.frombytes("P", image.size, VALUES.tobytes())
        image.putpalette([*range(256)] * 3)
    image.save(tmp_path / "a.png")
    got = as_json(tmp_path / "a.png")
    assert (got["mode"], got["provenance"]) == ("palette" if palette else "gray", {})
    assert got["pixels"] == {"0": 5, "1": 1}
    assert "carries no provenance" in invoke("inspect", tmp_path / "a.png").stdout


def test_what_is_no_label_is_an_error_that_names_the_file(tmp_path: Path, classes: Path) -> None:
    """No PNG, colours, a cut-off file and a value that is no class are failures, exit code 1, with the file's name."""
    text = tmp_path / "text.png"
    text.write_text("no image")
    colours = tmp_path / "colours.png"
    Image.new("RGB", (4, 2)).save(colours)
    whole = write(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 9, (40, 40), np.uint8))
    torn = tmp_path / "torn.png"
    torn.write_bytes(whole.read_bytes()[:-60])
    for path, message in ((text, "is no PNG"), (colours, "colour type 2"), (torn, "cannot be read")):
        result = invoke("inspect", path)
        assert result.exit_code == 1
        assert str(path) in result.stderr
        assert message in result.stderr
    illegal = invoke("inspect", whole, "--classes", classes)
    assert illegal.exit_code == 1
    assert f"{whole}: value 3, 4" in illegal.stderr
    assert "--ids source" in illegal.stderr


def test_a_value_that_its_run_never_writes_is_an_error(make_run: MakeRun) -> None:
    """A file in a run that holds another class than the run's is refused, as it is by every reader of the run."""
    path = make_run(np.array([[0, 9]], np.uint8))
    with pytest.raises(LabelError, match=r"town/a\.png: holds value 9"):
        inspect_label(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """A path that is no file is exit code 2 on the command line, and an error of its own in code."""
    assert invoke("inspect", tmp_path / "gone.png").exit_code == 2
    assert invoke("inspect", tmp_path).exit_code == 2
    with pytest.raises(MissingFileError, match="no label file"):
        inspect_label(tmp_path / "gone.png")


def test_a_ledger_that_cannot_be_read_is_said(make_run: MakeRun) -> None:
    """A damaged ledger is an error of the run, not a label without names."""
    path = make_run()
    (path.parents[2] / "ledger.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(WorkspaceError, match="ledger"):
        inspect_label(path)


def save_maps(run: Path, shares: dict[str, int], shape: tuple[int, int] = (2, 4)) -> None:
    """Save attention maps of town/a, each of one value."""
    for scale, value in shares.items():
        path = Workspace(run).attention / scale / "town/a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_saved_attention_is_told_and_drawn(make_run: MakeRun, tmp_path: Path, classes: Path) -> None:
    """The share of each scale is its mean over the pixels; the picture has a column for the label and each scale."""
    label = make_run()
    run = next(folder.parent for folder in label.parents if folder.name == "labels")
    plain = as_json(label, "--classes", classes, "--picture", tmp_path / "plain.png")
    assert plain["attention"] is None
    save_maps(run, {"0.5": 51, "1": 204})
    found = as_json(label, "--classes", classes, "--picture", tmp_path / "maps.png")
    assert found["attention"] == {"0.5": pytest.approx(0.2), "1": pytest.approx(0.8)}
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "maps.png") as three:
        assert three.width > one.width
        assert three.height == one.height
    assert "share of scales: 0.5 20.0%, 1 80.0%" in invoke("inspect", label).output


def test_a_map_of_another_size_is_told(make_run: MakeRun) -> None:
    """Maps that are not the label's are no silent nonsense."""
    label = make_run()
    save_maps(next(folder.parent for folder in label.parents if folder.name == "labels"), {"1": 255}, (3, 3))
    result = invoke("inspect", label)
    assert result.exit_code == 1
    assert "remove the map" in result.output


def test_a_picture_never_takes_the_place_of_a_file(make_run: MakeRun, classes: Path) -> None:
    """Not even that of the label which is drawn."""
    label = make_run()
    before = label.read_bytes()
    result = invoke("inspect", label, "--classes", classes, "--picture", label)
    assert result.exit_code == 2
    assert "is there already" in result.output
    assert label.read_bytes() == before


def test_a_picture_has_a_known_form(make_run: MakeRun, tmp_path: Path, classes: Path) -> None:
    """Other endings than PNG and JPEG are refused before anything is drawn."""
    result = invoke("inspect", make_run(), "--classes", classes, "--picture", tmp_path / "label.svg")
    assert result.exit_code == 2
    assert ".png" in result.output
