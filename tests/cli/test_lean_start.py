"""What a labelling process imports: each of these libraries takes tens of megabytes, or two hundred, and time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
HEAVY = {"timm", "torchvision", "segmentation_models_pytorch", "torch._dynamo", "sympy", "lightning_fabric", "dask"}
HEAVY |= {"distributed", "matplotlib", "scipy", "skimage", "tensorboard"}


def test_labelling_with_hrnet_imports_nothing_heavy(tmp_path: Path, schema: ClassSchema, make_image: MakeImage) -> None:
    """Label with HRNet-OCR in one process on the CPU needs torch, and none of the libraries that other work needs."""
    spec = NetworkSpec("hrnet-ocr", len(schema), width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "teacher.pt", build_network(spec), spec, schema, {})
    make_image(tmp_path / "images" / "one.png", (40, 60))
    options = ["--images", "images", "--teacher", "teacher.pt", "--threshold", "0.5", "--out", "run", "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, "label", *options],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "labels" / "one.png").exists()
    assert HEAVY & set(run.stdout.splitlines()[-1].split()) == set()
