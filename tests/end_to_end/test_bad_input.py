"""The command on everything a real folder holds: a clear message, the right exit code, nothing lost.

The first test runs it as it is installed; the others in this process, as each start of it takes seconds.
"""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main


def autocoarse(*arguments: str | Path) -> Result:
    """Run the command in this process; an error that it does not turn into a message is raised."""
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


def installed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    command = [str(Path(sys.executable).with_name("autocoarse")), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def png_header(width: int, height: int) -> bytes:
    """The first bytes of an RGB PNG that claims a size."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (content, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def images(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """Two good images among every kind of bad one."""
    folder = tmp_path / "images"
    make_image(folder / "good/1.png", (40, 48), 1)
    make_image(folder / "good/2.jpg", (40, 48), 2)
    make_image(folder / "truncated.jpg", (64, 64), 3)
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:1500])
    (folder / "text.png").write_text("no image at all")
    (folder / "empty.png").touch()
    make_image(folder / "tiny.png", (1, 1), 4)
    (folder / "huge.png").write_bytes(png_header(20_000, 20_000))
    make_image(folder / "twin.png", (40, 48), 5)
    make_image(folder / "twin.jpg", (40, 48), 6)
    return folder


def test_good_images_are_labelled_among_bad_ones(tmp_path: Path, images: Path, tiny_teacher: Path) -> None:
    """Each bad image is one failure with its reason, the good ones are labelled, the exit code is 3."""
    arguments = ("label", "--images", images, "--teacher", tiny_teacher, "--out", tmp_path / "run", "--json")
    done = installed(*arguments)
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert (result["total"], result["labelled"], result["failed"], result["skipped"]) == (9, 2, 7, 0)
    assert sorted(p.name for p in (tmp_path / "run" / "labels").rglob("*.png")) == ["1.png", "2.png"]
    for name, reason in {
        "truncated.jpg": "damaged or cut off",
        "text.png": "cannot be read as an image",
        "empty.png": "cannot be read as an image",
        "tiny.png": "1x1",
        "huge.png": "too many pixels",
        "twin.png": "rename all but one",
        "twin.jpg": "rename all but one",
    }.items():
        lines = [line for line in done.stderr.splitlines() if line.startswith("failed: ") and name in line]
        assert any(reason in line for line in lines), (name, done.stderr)
    assert "Traceback" not in done.stderr

    again = autocoarse(*arguments)
    assert again.exit_code == 3
    result = json.loads(again.stdout)
    assert (result["labelled"], result["failed"], result["skipped"]) == (0, 7, 2)


@pytest.mark.parametrize("refused", [False, True], ids=["one by one", "all before the work"])
def test_a_run_in_which_everything_fails_has_failed(tmp_path: Path, tiny_teacher: Path, *, refused: bool) -> None:
    """When no image can be labelled the exit code is 1, not 3; 20 reasons are shown, all are in a file."""
    (tmp_path / "images").mkdir()
    for number in range(22):
        # twins, which would have one label, are recorded together before the first is told of
        name = f"{number // 2}{('.png', '.jpg')[number % 2]}" if refused else f"{number}.png"
        (tmp_path / "images" / name).write_text("no image")
    done = autocoarse("label", "--images", tmp_path / "images", "--teacher", tiny_teacher, "--out", tmp_path / "run")
    assert done.exit_code == 1
    shown = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(shown) == 21
    assert shown[-1] == "failed: 2 more"
    assert str(tmp_path / "run" / "failed.txt") in done.stdout
    assert len((tmp_path / "run" / "failed.txt").read_text("utf-8").splitlines()) == 22


def test_an_output_folder_that_cannot_be_made_is_a_failure(tmp_path: Path, images: Path, tiny_teacher: Path) -> None:
    """A file in the way of the output folder: exit code 1 and a message that names it."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    done = autocoarse("label", "--images", images, "--teacher", tiny_teacher, "--out", out)
    assert done.exit_code == 1
    assert str(out) in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_not_writable_is_a_failure(tmp_path: Path, images: Path, tiny_teacher: Path) -> None:
    """A folder of mode 555: exit code 1, a message that names it and says what to do."""
    out = tmp_path / "run"
    out.mkdir(mode=0o555)
    done = autocoarse("label", "--images", images, "--teacher", tiny_teacher, "--out", out)
    assert done.exit_code == 1
    assert str(out) in done.stderr
    assert "choose a folder that you may write to" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--teacher", "hrnet-ocr", "--weights", "gone.pth"), "gone.pth"),
        (("--teacher", "gone.pt"), "gone.pt"),
        (("--teacher", "hrnet-ocr"), "weights"),
        (("--teacher", "TINY", "--classes", "cityscapes"), "cityscapes"),
        (("--teacher", "TINY", "--classes", "citiscapes"), "camvid, cityscapes"),
        (("--teacher", "TINY", "--scales", "0.5,2"), "1.0"),
        (("--teacher", "TINY", "--threshold", "1.5"), "threshold"),
        (("--teacher", "TINY", "--device", "quantum"), "quantum"),
        (("--teacher", "TINY", "--tresholt", "0.9"), "--threshold"),
    ],
)
def test_a_command_that_cannot_be_right_is_a_usage_error(
    tmp_path: Path, images: Path, tiny_teacher: Path, arguments: tuple[str, ...], says: str
) -> None:
    """Missing files, contradictions and unknown values: exit code 2, a message that names them, no labels."""
    given = [str(tiny_teacher) if a == "TINY" else a for a in arguments]
    done = autocoarse("label", "--images", images, "--out", tmp_path / "run", *given)
    assert done.exit_code == 2, done.stderr
    assert says in done.stderr
    assert not list(tmp_path.glob("run/labels/**/*.png"))


def test_weights_that_do_not_fit_are_refused_with_what_does_not(tmp_path: Path, images: Path) -> None:
    """A checkpoint of another network: exit code 1, and a list of what is missing and what is too much."""
    weights = tmp_path / "other.pth"
    torch.save({"state_dict": {"module.something.weight": torch.zeros(3)}}, weights)
    done = autocoarse(
        "label", "--images", images, "--teacher", "hrnet-ocr", "--weights", weights, "--out", tmp_path / "run"
    )
    assert done.exit_code == 1
    assert str(weights) in done.stderr
    assert "something.weight" in done.stderr
    assert "backbone.conv1.weight" in done.stderr


def test_a_label_with_a_source_id_stops_evaluation(tmp_path: Path) -> None:
    """A class-index label with value 33 under 19 classes: exit code 1, file, value and the likely cause."""
    for folder in ("labels", "truth"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((8, 8), 33 if folder == "truth" else 0, np.uint8)).save(tmp_path / folder / "a.png")
    done = autocoarse(
        "evaluate", "--labels", tmp_path / "labels", "--truth", tmp_path / "truth", "--classes", "cityscapes"
    )
    assert done.exit_code == 1
    assert "a.png: value 33" in done.stderr
    assert "--ids source" in done.stderr
