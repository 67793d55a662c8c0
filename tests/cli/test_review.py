"""The commands `export` and `import-review`, and the loop that they and `train` make."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main

LABELS = {"a/1": [[0, 0, 1], [255, 2, 2]], "b/2": [[1, 1, 1], [1, 1, 1]]}


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path, make_run: Callable[..., Path], make_image: Callable[..., object]) -> Path:
    """A run of two labels of 40x60 pixels, and its images."""
    labels = {key: np.array(values).repeat(20, 0).repeat(20, 1) for key, values in LABELS.items()}
    for key in LABELS:
        make_image(tmp_path / f"images/{key}.png", (40, 60))
    make_run(tmp_path / "run", tmp_path / "images", labels)
    return tmp_path


def exporting(data: Path, *more: str | Path) -> list[str | Path]:
    """An export to COCO."""
    return ["export", data / "run", "--images", data / "images", "--to", "coco", "--out", data / "out", *more]


def importing(data: Path, *more: str | Path) -> list[str | Path]:
    """The import of what was exported."""
    return ["import-review", data / "out", "--export", data / "out", "--out", data / "reviewed", *more]


def test_labels_go_out_come_back_and_are_trained_on(data: Path) -> None:
    """Each step ends with its JSON, says what comes next, and gives the next one what it needs."""
    result = invoke(*exporting(data, "--select", "class:pole:1", "--select", "folder:a", "--json"))
    assert result.exit_code == 0, result.stderr
    handed_out = json.loads(result.stdout)
    assert handed_out.keys() == {"images", "to", "select", "export_digest", "out"}
    assert (handed_out["images"], handed_out["select"]) == (2, ["class:pole:1", "folder:a"])
    assert "autocoarse import-review FILE --export" in result.stderr
    file = data / "out/annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 3
    file.write_text(json.dumps(content))
    result = invoke(*importing(data, "--json"))
    assert result.exit_code == 0, result.stderr
    back = json.loads(result.stdout)
    assert (back["imported"], back["unchanged"], back["changed_pixels"], back["problems"]) == (2, 1, 2400, [])
    verified = invoke("verify", data / "reviewed", "--json")
    assert verified.exit_code == 0, verified.stderr
    assert invoke("status", data / "reviewed").exit_code == 0
    result = invoke(
        *(
            "train",
            "--fine-images",
            data / "images",
            "--fine-labels",
            data / "run",
            "--classes",
            data / "run/classes.json",
        ),
        *("--auto-images", data / "images", "--auto-labels", data / "run", "--reviewed-labels", data / "reviewed"),
        *("--steps", "1", "--crop", "32x32", "--batch", "2", "--dry-run", "--json", "--out", data / "student"),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["kinds"]["reviewed"]["images"] == 2
    assert "reviewed labels: 2 instead of automatic or coarse ones, 0 of images that had none" in result.stderr


def test_a_bad_image_is_an_error_or_a_skipped_one(data: Path) -> None:
    """Exit 1 and nothing written, or with --skip-bad exit 3 and the others."""
    assert invoke(*exporting(data, "--select", "all")).exit_code == 0
    file = data / "out/annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["images"][0]["height"] = 41
    file.write_text(json.dumps(content))
    result = invoke(*importing(data))
    assert result.exit_code == 1
    assert "1 of 2 images are wrong, nothing was imported" in result.stderr
    assert "--skip-bad takes the other 1" in result.stderr
    assert not (data / "reviewed").exists()
    result = invoke(*importing(data, "--skip-bad", "--json"))
    assert result.exit_code == 3
    assert json.loads(result.stdout)["imported"] == 1
    assert "failed: a/1.png: is 60x41 in the file" in result.stderr


def test_what_was_asked_for_in_vain_is_a_matter_of_usage(data: Path) -> None:
    """Selections, folders and options that cannot be are errors of the command line, which say what would do."""
    for arguments, says in (
        (exporting(data, "--select", "worst:1"), "autocoarse audit"),
        (exporting(data, "--select", "class:pool"), "did you mean pole"),
        (exporting(data), "Missing option '--select'"),
        (exporting(data, "--select", "all", "--url-prefix", "http://x/"), "leave it out"),
        (["import-review", data / "run", "--export", data / "run", "--out", data / "x"], "`autocoarse export` made"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.stderr
        assert says in result.stderr


def test_images_that_exif_turns_are_told(
    data: Path, make_run: Callable[..., Path], make_image: Callable[..., object]
) -> None:
    """A photograph that viewers turn goes out with a warning, as its mask does not turn with it."""
    for name, turn in (("straight", 1), ("turned", 6)):
        make_image(data / f"photos/{name}.jpg", (40, 60), 1)
        exif = Image.Exif()
        exif[0x0112] = turn
        with Image.open(data / f"photos/{name}.jpg") as image:
            image.save(data / f"photos/{name}.jpg", exif=exif)
    labels = {name: np.zeros((40, 60), np.uint8) for name in ("straight", "turned")}
    run = make_run(data / "photo-run", data / "photos", labels)
    result = invoke("export", run, "--images", data / "photos", "--to", "cvat", "--select", "all", "--out", data / "e")
    assert result.exit_code == 0, result.stderr
    assert "warning: 1 of 2 images say by EXIF that they are to be turned" in result.stderr


def test_a_settings_file_stands_for_the_flags(data: Path) -> None:
    """Both commands have a table, in which selections are a list."""
    settings = data / "settings.toml"
    tables = {
        "export": {
            "images": str(data / "images"),
            "to": "cvat",
            "select": ["folder:a", "folder:b"],
            "image-files": "none",
            "out": str(data / "out"),
        },
        "import-review": {"export": str(data / "out"), "changed-only": True, "out": str(data / "new")},
    }
    settings.write_text(tomli_w.dumps(tables))
    assert invoke("export", data / "run", "--settings", settings).exit_code == 0
    result = invoke("import-review", data / "out/annotations.xml", "--settings", settings)
    assert result.exit_code == 0, result.stderr
    assert "2 left out as unchanged" in result.stdout
