"""What a labelling process imports: each of these libraries takes tens of megabytes, or two hundred, and time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.schema import ClassSchema
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import NetworkSpec, build_network

MakeImage = Callable[..., Any]

SCRIPT = """
import sys
from cli.main import main
main(sys.argv[1:], standalone_mode=False)
print(*sorted(sys.modules))
"""
AT_A_TERMINAL = """
import sys
sys.modules["torch"] = None
sys.stderr.isatty = lambda: True
from cli.main import main
main(sys.argv[1:])
"""
HEAVY = {"timm", "torchvision", "segmentation_models_pytorch", "torch._dynamo", "sympy", "lightning_fabric", "dask"}
HEAVY |= {"distributed", "matplotlib", "scipy", "skimage", "tensorboard"}


def in_a_process(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with arguments in a folder, with nothing imported before it."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_labelling_with_hrnet_imports_nothing_heavy(tmp_path: Path, schema: ClassSchema, make_image: MakeImage) -> None:
    """Label with HRNet-OCR in one process on the CPU needs torch, and none of the libraries that other work needs."""
    spec = NetworkSpec("hrnet-ocr", len(schema), width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "teacher.pt", build_network(spec), spec, schema, {})
    make_image(tmp_path / "images" / "one.png", (40, 60))
    options = ["--images", "images", "--teacher", "teacher.pt", "--threshold", "0.5", "--out", "run", "--device", "cpu"]
    run = in_a_process(tmp_path, SCRIPT, "label", *options)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "labels" / "one.png").exists()
    assert HEAVY & set(run.stdout.splitlines()[-1].split()) == set()


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        ("label --images . --teacher t.pt --out run", "loading the teacher t.pt ..."),
        ("label --images . --teacher t.pt --out run --json", None),
        (
            "calibrate --images . --truth . --teacher t.pt --target-precision 1 --out a",
            "loading the teacher t.pt ...",
        ),
        ("evaluate --images . --truth . --checkpoint t.pt --classes camvid", "loading t.pt ..."),
        ("train --fine-images . --fine-labels . --classes camvid --out run", "loading what trains a network ..."),
    ],
)
def test_someone_at_a_terminal_reads_a_line_before_torch_is_imported(
    tmp_path: Path, arguments: str, first: str | None
) -> None:
    """The import may take long on a busy machine; with --json, which programs read, nothing is said."""
    run = in_a_process(tmp_path, AT_A_TERMINAL, *arguments.split())
    assert "torch" in run.stderr, "this is what it must fail for"
    assert run.stderr.splitlines()[0] == first if first else "loading" not in run.stderr
