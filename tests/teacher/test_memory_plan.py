"""Memory that is told beforehand: exact on small networks, and what a process takes on a real one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from storage.errors import ImageError, SettingsError
from teacher.folding import fold_batch_norms
from teacher.memory_plan import ForwardMemory, LabelMemory, measure_forward
from teacher.networks.prediction import ScalePrediction
from teacher.networks.registry import NetworkSpec, build_network, default_spec
from teacher.tiling import GLOBAL_CONTEXT, plan_tiles

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SIZE = (96, 128)
PIXELS = 96 * 128
LIBRARIES = 14 << 20


class Known(nn.Module):
    """Two convolutions with a peak that can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 4, 4)

    def forward(self, images: Tensor, *, attend: bool = True) -> ScalePrediction:  # noqa: ARG002 - the protocol's
        """8 channels, in place; as many again; 2 at stride 4 after the first 8 have gone."""
        maps = self.first(images).relu_()
        maps = maps.view(maps.shape).sigmoid()
        logits = self.second(maps)
        return ScalePrediction(logits, logits[:, :1].sigmoid(), None)


@pytest.fixture
def memory() -> LabelMemory:
    """Of a network that takes 1000 bytes a pixel, on the CPU."""
    return LabelMemory(weights=10_000, forward=ForwardMemory(500, 1000), classes=19, working=4000, on_host=True)


def predict_with(network: nn.Module, dtype: torch.dtype | None = None) -> Callable[..., ScalePrediction]:
    """A network as a teacher runs it."""
    network.eval().requires_grad_(requires_grad=False)

    def predict(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            prediction: ScalePrediction = network(images, attend=attend)
            return prediction

    return predict


def test_a_known_peak_is_counted_exactly() -> None:
    """At its peak this network holds two maps of 8 channels: 64 bytes a pixel, and nothing that is gone or a view."""
    measured = measure_forward(predict_with(Known()), CPU)
    assert (measured.fixed, measured.per_pixel) == (0, 64)
    assert measured.peak(10) == 640


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16),
        default_spec("deeplabv3plus", 3, "mobilenetv3_small_050"),
    ],
    ids=lambda spec: spec.network,
)
def test_measuring_leaves_no_trace_and_half_precision_takes_less(spec: NetworkSpec) -> None:
    """A measured network predicts as before, no random number is drawn, and bf16 takes clearly less than fp32."""
    network = fold_batch_norms(build_network(spec).eval())
    predict = predict_with(network)
    image = torch.ones(1, 3, 64, 96)
    before, state = predict(image).logits, torch.get_rng_state()
    full = measure_forward(predict, CPU)
    half = measure_forward(predict_with(network, torch.bfloat16), CPU)
    assert 0.4 * full.per_pixel < half.per_pixel < 0.8 * full.per_pixel
    assert torch.equal(predict(image).logits, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attends", [False, True])
def test_a_network_is_measured_once_where_no_attention_sets_its_scales_apart(attends: bool) -> None:
    """A network without attention is run at four sizes, one with it at each of them also without it."""
    network, asked = Known(), []

    def predict(images: Tensor, /, *, attend: bool = True) -> ScalePrediction:
        asked.append((images.shape[-1], attend))
        prediction: ScalePrediction = network(images)
        return prediction if attends and attend else prediction._replace(attention=None)

    memory = LabelMemory.of(predict, CPU, 2, 0, 0)
    sides = {side for side, _ in asked}
    assert sorted(asked) == sorted((side, attend) for side in sides for attend in {True, not attends})
    assert len(sides) == 4
    assert (memory.forward.per_pixel, memory.attended is not None) == (64, attends)


def test_the_full_teacher_is_measured_on_any_machine() -> None:
    """HRNet-OCR takes about a kilobyte a pixel, whatever the machine can hold."""
    network = fold_batch_norms(build_network(default_spec("hrnet-ocr", 19)).eval())
    measured = measure_forward(predict_with(network), CPU)
    assert 500 < measured.per_pixel < 1500
    assert measured.fixed < 50e6


def test_the_largest_scale_decides(memory: LabelMemory) -> None:
    """The peak is the forward of the largest scale beside the images: lower scales add nothing to it."""
    images = PIXELS * (3 + 12) + LIBRARIES
    assert memory.peak(SIZE, (1.0,)) == images + 500 + 1000 * PIXELS
    assert memory.peak(SIZE, (2.0, 1.0)) == images + 12 * 4 * PIXELS + 500 + 1000 * 4 * PIXELS
    assert memory.peak(SIZE, (0.5, 1.0, 2.0)) == memory.peak(SIZE, (2.0, 1.0))


def test_a_batch_takes_as_often_as_much(memory: LabelMemory) -> None:
    """Three images take three times what one does, but for what is fixed."""
    one, three = (memory.peak(SIZE, (1.0, 2.0), batch=batch) for batch in (1, 3))
    assert three - 500 - LIBRARIES == 3 * (one - 500 - LIBRARIES)


def test_mirrored_images_add_themselves_and_what_is_known_already(memory: LabelMemory) -> None:
    """With flip the second pass has the mirrored images and the first pass's predictions beside it."""
    maps = PIXELS // 16 * 4 * (4 * 19 + 20)
    more = memory.peak(SIZE, (1.0, 2.0), flip=True) - memory.peak(SIZE, (1.0, 2.0))
    assert more == 12 * PIXELS + maps


def test_tiles_bound_what_the_network_takes(memory: LabelMemory) -> None:
    """In tiles, a larger image adds its own pixels and predictions, and no forward beyond that of the largest tile."""
    small, large = (memory.peak(size, (1.0,), tile=512) for size in ((832, 832), (832 + 320, 832)))
    more = 320 * 832
    assert [len(plan_tiles(size, 512, GLOBAL_CONTEXT)) for size in ((832, 832), (832 + 320, 832))] == [4, 6]
    assert large - small == more * 15 + more // 16 * 4 * 19
    assert small == 832**2 * 15 + 832**2 // 16 * 4 * 19 + 500 + 1000 * 512**2 + LIBRARIES
    assert memory.peak((40, 60), (1.0,), tile=512) == memory.peak((40, 60), (1.0,))


def test_fusion_may_be_the_peak_where_tiles_are_small() -> None:
    """What fusion works in, and what is kept beside the label, count where the network takes little."""
    little = LabelMemory(0, ForwardMemory(0, 1), 19, working=10**7, on_host=False)
    plain, kept = (little.peak(SIZE, (1.0,), keep=keep) for keep in ("none", "top2"))
    assert plain > 10**7
    assert kept > plain


def test_a_device_of_its_own_holds_the_weights_and_not_what_was_read() -> None:
    """On CUDA the peak is that of the allocator: weights, a graph and the next images' bytes in, libraries out."""
    graph = 12 * PIXELS + 4 * 19 * PIXELS // 16
    host, cuda = (LabelMemory(10_000, ForwardMemory(500, 1000), 19, 0, on_host) for on_host in (True, False))
    assert cuda.peak(SIZE, (1.0,)) == host.peak(SIZE, (1.0,)) + 10_000 + graph + 3 * PIXELS - LIBRARIES


def test_impossible_work_is_refused(memory: LabelMemory) -> None:
    """Scales and sizes that cannot be labelled have the errors that labelling has."""
    with pytest.raises(SettingsError, match="must be among them"):
        memory.peak(SIZE, (0.5, 2.0))
    with pytest.raises(ImageError, match="4 pixels"):
        memory.peak((6, 6), (0.5, 1.0))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(
    "options",
    [
        ("--size", "320x240"),
        ("--size", "641x479"),
        ("--size", "400x300", "--batch", "2"),
        ("--size", "480x360", "--precision", "bf16"),
        ("--size", "800x600", "--tile", "512"),
    ],
    ids=" ".join,
)
def test_the_plan_is_within_15_percent_of_what_a_process_takes(options: tuple[str, ...]) -> None:
    """The growth of a process's resident memory at labelling, scales 0.5, 1 and 2, is within 15 % of the plan."""
    command = [sys.executable, "benchmarks/memory_plan.py", "--encoder", "tf_efficientnet_lite0", *options, "--one"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["planned"] == pytest.approx(found["measured"], rel=0.15)
