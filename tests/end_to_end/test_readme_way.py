"""The README's way from images to a better student, command by command, on generated scenes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main
from pipeline.scenes import write_scene_set

Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command line in the data folder and give its JSON."""
    monkeypatch.chdir(tmp_path)

    def run(line: str, exit_code: int = 0) -> dict[str, Any]:
        result = CliRunner().invoke(main, [*line.split(), "--json"])
        assert result.exit_code == exit_code, result.stderr
        found = json.loads(result.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    return run


def test_from_images_to_a_student(tmp_path: Path, command: Command) -> None:
    """Each command takes what the one before made, and the figures agree with one another."""
    for _ in write_scene_set(tmp_path, 0, (3, 4, 2), (48, 64)):
        pass
    small = "--encoder resnet10t --steps 2 --batch 2 --crop 48x32 --scales 1 --workers 0 --device cpu"
    fine = "--fine-images images/train --fine-labels labels_fine/train --classes scenes"
    val = "--val-images images/val --val-labels labels_fine/val"

    teacher = command(f"train {fine} {val} {small} --out runs/teacher")
    estimate = command("estimate --images images/train_extra --classes scenes --budget 600MB")
    assert (estimate["count"], estimate["basis"], estimate["within_budget"]) == (4, "sample", True)

    label = "label --images images/train_extra --threshold 0.12 --scales 0.5,1 --device cpu --out runs/auto"
    labelled = command(f"{label} --teacher {teacher['checkpoint']}")
    assert (labelled["total"], labelled["labelled"], labelled["failed"]) == (4, 4, 0)
    assert command("label --settings runs/auto/settings.toml")["skipped"] == 4

    budget = command("budget runs/auto --limit 1MB")
    assert (budget["labels"], budget["bytes"], budget["within"]) == (4, labelled["bytes"], True)
    assert command("budget runs/auto --limit 1KB", exit_code=4)["within"] is False

    judged = command("evaluate --labels runs/auto --truth labels_fine/train_extra --classes scenes")
    assert judged["images"] == 4
    assert judged["coverage"] == pytest.approx(1 - labelled["ignore_fraction"])

    auto = "--auto-images images/train_extra --auto-labels runs/auto"
    student = command(f"train {fine} {auto} {val} {small} --out runs/student")
    network = "evaluate --images images/val --truth labels_fine/val --classes scenes --scales 1 --device cpu"
    assert command(f"{network} --checkpoint {student['checkpoint']}")["miou"] == student["miou"]
