"""`autocoarse teacher`: the card says what files say, and no file gets anything done by being looked at."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from storage.object_io import file_digest
from storage.schema import ClassSchema
from teacher import load_teacher
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import NetworkSpec, build_network

RECORD: dict[str, Any] = {
    "step": 700,
    "seed": 3,
    "weights": "averaged",
    "settings": "4f2a",
    "samples": {"fine": 12, "auto": 30},
    "images": {"aa": "town/1", "bb": "town/2"},
    "miou": 0.6125,
}


def card(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["teacher", *map(str, arguments)], catch_exceptions=False)


def as_json(*arguments: str | Path) -> dict[str, Any]:
    """What it tells a program."""
    result = card(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.fixture
def checkpoint(tmp_path: Path, schema: ClassSchema) -> Callable[..., Path]:
    """Write a checkpoint of a small network with a record."""
    spec = NetworkSpec("hrnet-ocr", len(schema), width=18, modules=(1, 1, 1), blocks=1, ocr_channels=16)
    torch.manual_seed(0)
    network = build_network(spec)

    def make(record: dict[str, Any]) -> Path:
        save_checkpoint(tmp_path / "teacher.pt", network, spec, schema, record)
        return tmp_path / "teacher.pt"

    return make


def test_a_checkpoint_is_told_with_what_it_records(checkpoint: Callable[..., Path], schema: ClassSchema) -> None:
    """The figures are the network's own, the digests those of the file and of the teacher; images are counted."""
    path = checkpoint(RECORD)
    found, teacher = as_json(path), load_teacher(path)
    assert (found["network"], found["encoder"], found["fusion"]) == ("hrnet-ocr", "hrnet_w18", "hierarchical")
    assert found["parameters"] == sum(p.numel() for p in build_network(teacher.predictor.spec).parameters())
    assert (found["classes"], found["schema"]) == (list(schema.names), "three")
    assert (found["digest"], found["schema_digest"]) == (teacher.digest, schema.digest)
    assert (found["file"], found["file_sha256"]) == (str(path), file_digest(path))
    assert found["training"] == {**RECORD, "images": 2}
    assert (found["mean"], found["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert found["licence"].startswith("unknown: ask whoever made it")
    assert "mit" in found["start_weights"]
    told = card(path).stdout
    for text in ("hrnet-ocr on hrnet_w18", "3 of three: road, pole, sky", "12 fine, 30 auto", "0.6125", teacher.digest):
        assert text in told
    assert f"--teacher {path}" in told


def test_what_is_not_recorded_is_not_made_up(checkpoint: Callable[..., Path]) -> None:
    """A checkpoint without a record is told as one, and nobody has measured it."""
    path = checkpoint({})
    assert as_json(path)["training"]["step"] is None
    assert as_json(path)["held_out"] is None
    assert "nothing is recorded" in card(path).stdout


def test_a_name_is_told_with_how_a_teacher_is_made_of_it() -> None:
    """It has no weights and no digest of any; the parameters are those of the full network."""
    found = as_json("hrnet-ocr")
    assert (found["parameters"], found["digest"], found["file"]) == (72_143_430, None, None)
    assert "train --network hrnet-ocr --encoder hrnet_w48" in found["how_to"]
    assert "--weights FILE" in found["how_to"]
    assert "deeplabv3plus on resnet50" in card("deeplabv3plus").stdout
    assert card("hrnet-ocr", "--classes", "camvid").exit_code == 2


@pytest.fixture
def calibration(tmp_path: Path, checkpoint: Callable[..., Path], make_image: Callable[..., Any]) -> Path:
    """A calibration of the checkpoint, on two images of noise."""
    (tmp_path / "truth").mkdir()
    for number in range(2):
        pixels = make_image(tmp_path / f"images/{number}.png", (32, 48), number)
        Image.fromarray(pixels[:, :, 0] % 3).save(tmp_path / f"truth/{number}.png")
    folders = ("--images", str(tmp_path / "images"), "--truth", str(tmp_path / "truth"))
    out = ("--teacher", str(checkpoint(RECORD)), "--out", str(tmp_path / "calibration.json"))
    done = CliRunner().invoke(main, ["calibrate", *folders, *out, "--target-precision", "0.3", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return tmp_path / "calibration.json"


def test_its_own_calibration_is_told_and_no_others(
    tmp_path: Path, checkpoint: Callable[..., Path], tiny_teacher: Path, calibration: Path
) -> None:
    """Held-out figures are those of the calibration; one of another teacher is a usage error."""
    found = as_json(checkpoint(RECORD), "--calibration", calibration)
    assert found["held_out"]["images"] == 2
    assert 0 <= found["held_out"]["coverage"] <= 1
    assert "2 images: precision" in card(tmp_path / "teacher.pt", "--calibration", calibration).stdout
    other = card(tiny_teacher, "--calibration", calibration)
    assert other.exit_code == 2
    assert "was made with the teacher" in other.stderr
    assert card("hrnet-ocr", "--calibration", calibration).exit_code == 2


class Hostile:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch.save"])
def test_a_hostile_file_is_refused_and_does_nothing(tmp_path: Path, plain: bool) -> None:
    """A pickle with code in it: exit code 1, a message that names it, and no side effect."""
    touched, path = tmp_path / "touched", tmp_path / "hostile.pt"
    content = {"format": "autocoarse checkpoint", "version": 1, "record": Hostile(touched)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    result = card(path)
    assert result.exit_code == 1
    assert "cannot be read as a checkpoint" in result.stderr
    assert not touched.exists()
    pickle.loads(pickle.dumps(Hostile(touched)))  # noqa: S301 - proves that it would have
    assert touched.exists()


@pytest.mark.parametrize(
    "record", [{"step": "many"}, {"images": [1, 2]}, {"miou": float("nan")}, {"samples": {"a": {}}}]
)
def test_a_record_that_is_none_is_refused(checkpoint: Callable[..., Path], record: dict[str, Any]) -> None:
    """Values of other types than training writes: exit code 1, and the file is named."""
    path = checkpoint(record)
    result = card(path)
    assert result.exit_code == 1
    assert f"{path}: its record of the training cannot be used" in result.stderr


def test_a_terminal_is_told_nothing_that_it_would_obey(checkpoint: Callable[..., Path]) -> None:
    """Control characters of a file come out as question marks."""
    told = card(checkpoint({"weights": "\x1b[2Jraw\n"})).stdout
    assert "weights ?[2Jraw?" in told
    assert "\x1b" not in told


def test_a_damaged_or_missing_file_is_told(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    """Cut short: exit code 1; not there, or no file of ours: what is expected instead."""
    path = checkpoint(RECORD)
    path.write_bytes(path.read_bytes()[:5000])
    damaged, missing = card(path), card(tmp_path / "gone.pt")
    assert (damaged.exit_code, missing.exit_code) == (1, 2)
    assert str(path) in damaged.stderr
    assert "gone.pt" in missing.stderr
    assert "hrnet-ocr" in missing.stderr
