import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from storage.errors import SettingsError
from teacher.execution import Execution
from teacher.folding import fold_batch_norms
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec

FillNetwork = Callable[[NetworkSpec], nn.Module]
CPU = torch.device("cpu")


class _Small(nn.Module):
    """A network that is compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.logits, self.attention = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 1, 1)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:
        features = self.trunk(images)
        return ScalePrediction(self.logits(features), self.attention(features).sigmoid() if attend else None, None)


WITHOUT_COMPILER = """
import torch
from teacher.execution import Execution
from teacher.folding import fold_batch_norms
from teacher.networks.prediction import ScalePrediction


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Conv2d(3, 5, 3)

    def forward(self, images, *, attend=True):
        return ScalePrediction(self.logits(images).relu(), None, None)


network, images = Network().eval(), torch.randn(1, 3, 32, 48)
compiled, plain = (Execution(network, torch.device("cpu"), compiled=c) for c in (True, False))
for _ in range(2):
    assert torch.equal(compiled(images).logits, plain(images).logits)
print(*compiled.problems, sep="\\n")
"""


def test_execution_predicts_as_the_network(fill_network: FillNetwork, narrow_spec: NetworkSpec, images: Tensor) -> None:
    """Logits and attention are the network's within rounding, and attention is given where it is wanted."""
    network = fill_network(narrow_spec)
    execution = Execution(network, CPU)
    with torch.inference_mode():
        expected = network(images)
    got = execution(images)
    spread = expected.logits.max() - expected.logits.min()
    assert (got.logits - expected.logits).abs().max() < 1e-4 * spread
    assert (got.attention - expected.attention).abs().max() < 1e-4
    assert execution(images, attend=False).attention is None
    assert execution.problems == ()


def test_the_given_network_is_left(fill_network: FillNetwork, narrow_spec: NetworkSpec) -> None:
    """The network can be trained on: it keeps its norms, its layout and its gradients."""
    network = fill_network(narrow_spec)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    Execution(network, CPU, torch.bfloat16)
    assert all(torch.equal(before[name], values) for name, values in network.state_dict().items())
    assert all(p.requires_grad and p.is_contiguous() and p.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_half_precision_is_autocast_of_the_folded_network(
    fill_network: FillNetwork, encoder: str, images: Tensor
) -> None:
    """Weights that are rounded once give what autocast gives that rounds them at each call."""
    network = fill_network(default_spec("deeplabv3plus", 5, encoder))
    half, folded = Execution(network, CPU, torch.bfloat16), fold_batch_norms(network)
    folded.to(memory_format=torch.channels_last)
    assert {m.weight.dtype for m in half._runner.module.modules() if type(m) is nn.Conv2d} == {torch.bfloat16}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = folded(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(half(images).logits, expected.logits)


def test_a_network_in_training_is_not_executed(narrow_spec: NetworkSpec) -> None:
    """A network in training mode is refused before anything is run."""
    with pytest.raises(SettingsError, match="eval"):
        Execution(build_network(narrow_spec), CPU)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_network_predicts_the_same(images: Tensor) -> None:
    """Compiled, a network predicts what it does as it is, within rounding, and nothing was given up."""
    torch.manual_seed(0)
    network = _Small().eval()
    compiled, plain = Execution(network, CPU, compiled=True), Execution(network, CPU)
    expected = plain(images)
    assert torch.allclose(compiled(images).logits, expected.logits, atol=1e-5)
    assert torch.allclose(compiled(images).attention, expected.attention, atol=1e-5)
    assert compiled.problems == ()


@pytest.mark.slow
def test_without_a_compiler_the_network_is_run_as_it_is(tmp_path: Path) -> None:
    """Where the network cannot be compiled for want of a compiler, every image is predicted, and it is said why."""
    nowhere = str(tmp_path / "no-compiler")
    environment = os.environ | {
        "CXX": nowhere,
        "CC": nowhere,
        "PATH": str(Path(sys.executable).parent),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the network is run without being compiled: ")


def test_what_a_compiler_complains_of_is_told(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a compiler fails, its own words are told, and not only that it failed."""
    trouble = RuntimeError("the assembler knows no such instruction\nand much more")

    def refuse(*_: object, **__: object) -> ScalePrediction:
        raise BackendCompilerFailed(refuse, trouble, None)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    execution = Execution(_Small().eval(), CPU, compiled=True)
    assert execution(images).logits.isfinite().all()
    (problem,) = execution.problems
    assert problem == "the network is run without being compiled: the assembler knows no such instruction"
