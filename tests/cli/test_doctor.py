"""The command `doctor`: what the machine has, the plan for a size, and advice."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from pipeline import doctor as doctor_module
from pipeline import machine as machine_module
from pipeline.doctor import examine, plan_size
from pipeline.fitting import Work
from pipeline.machine import CudaDevice, Processor
from pipeline.step_down import Way
from teacher.memory_plan import ForwardMemory, LabelMemory
from teacher.networks import registry
from teacher.networks.registry import NetworkSpec

GB = 10**9


def doctor(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def as_json(*arguments: str | Path) -> dict[str, Any]:
    """What it gives as JSON, the only line on stdout."""
    result = doctor(*arguments, "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine that a test can change before it is examined: 4 processors, 8 GB, no GPU, nothing set."""
    what: dict[str, Any] = {
        "read_processor": Processor("Some CPU", 8, 4),
        "memory_bytes": (16 * GB, 8 * GB),
        "list_cuda_devices": (),
        "free_bytes": 100 * GB,
        "thread_settings": {},
        "sees_gpu_files": False,
        "codec_versions": {"jpg": "6.2", "libjpeg_turbo": "3.1", "webp": None},
    }
    for name in what:
        monkeypatch.setattr(doctor_module, name, lambda *_, name=name: what[name])
    monkeypatch.setattr(machine_module, "memory_bytes", lambda: what["memory_bytes"])
    monkeypatch.setattr(doctor_module.torch, "get_num_threads", lambda: 4)
    return what


def test_this_machine_is_told(tmp_path: Path) -> None:
    """Processor, memory, devices, disk, threads, versions and decoders each have a line, and there is advice."""
    result = doctor("--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    starts = [line.split("  ")[0] for line in result.stdout.splitlines()]
    for name in ("processor", "memory", "disk", "threads", "environment", "versions", "decoders"):
        assert name in starts
    assert "cuda" in result.stdout
    assert "advice: " in result.stdout


def test_json_holds_all_of_it(tmp_path: Path, tiny_teacher: Path) -> None:
    """Programs get the same as plain values, in bytes and counts."""
    found = as_json("--out", tmp_path, "--teacher", tiny_teacher, "--size", "640x480", "--size", "64x48")
    assert found["processor"]["usable"] >= 1
    assert 0 < found["memory_available"] <= found["memory_total"]
    assert found["disk_free"] > 0
    assert found["versions"]["torch"]
    assert [(plan["width"], plan["height"]) for plan in found["plans"]] == [(640, 480), (64, 48)]
    large, small = (plan["whole"]["peak"] for plan in found["plans"])
    assert large > small > 0
    assert found["plans"][1]["chosen"]["way"] == {"batch": 1, "tile": None}
    assert found["plans"][1]["chosen"]["fits"]


def test_batch_scales_and_precision_are_planned_with(tiny_teacher: Path) -> None:
    """More images, scales and mirror images take more; another precision is another network, and is measured itself."""

    def peak(*options: str) -> int:
        plans = as_json("--teacher", tiny_teacher, "--device", "cpu", "--size", "640x480", *options)["plans"]
        return int(plans[0]["chosen"]["peak"])

    usual = peak()
    assert peak("--batch", "2") > usual
    assert peak("--scales", "1") < usual
    assert peak("--flip") > usual
    assert peak("--precision", "bf16") != usual


def test_a_named_network_needs_no_weights(machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of HRNet-OCR is told without a file of weights; what is too large for this machine goes in tiles."""
    machine["memory_bytes"] = (2 * GB, 2 * GB)
    narrow = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "ocr_channels": 16}  # the full one takes long to measure
    monkeypatch.setattr(registry, "default_spec", lambda name, classes: NetworkSpec(name, classes, **narrow))
    result = doctor("--teacher", "hrnet-ocr", "--size", "4096x2048", "--size", "320x240", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "4096x2048 is labelled in tiles of" in result.stdout
    assert "whole images fit with --scales 0.5,1" in result.stdout


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"thread_settings": {"OMP_NUM_THREADS": "64"}}, "OMP_NUM_THREADS is 64 on 4 processors"),
        ({"thread_settings": {"OMP_NUM_THREADS": "1"}}, "one process uses no more"),
        ({"thread_settings": {"OMP_NUM_THREADS": "4"}}, None),
        ({"sees_gpu_files": True}, "sees none"),
        ({"sees_gpu_files": True, "list_cuda_devices": (CudaDevice("H100", 80 * GB, 79 * GB),)}, None),
        ({"free_bytes": 10**8}, "little room"),
        ({"codec_versions": {"jpg": "9e", "libjpeg_turbo": None}}, "libjpeg-turbo"),
    ],
)
def test_what_is_wrong_is_advised(machine: dict[str, Any], changes: dict[str, Any], expected: str | None) -> None:
    """Each thing that slows down or stops a run has its advice, and nothing else has."""
    machine.update(changes)
    advice = examine(Path("run")).advice
    if expected is None:
        assert advice == ()
    else:
        assert len(advice) == 1
        assert expected in advice[0]
    assert "advice: " + (advice[0] if advice else "nothing to change") in doctor("--out", "run").stdout


def test_plans_give_advice_that_can_be_followed() -> None:
    """Of a batch, of tiles, of scales, and of nothing where all is well."""
    memory = LabelMemory(3 * 10**8, ForwardMemory(0, 1000), 19, 0, on_host=False)
    size, work = (1024, 2048), Work((0.5, 1.0, 2.0))
    advice = {room: plan_size(memory, size, work, room * GB, batch=4).advice for room in (200, 40, 20, 5, 1)}
    assert advice[200] == "use --batch 16: so many images of 2048x1024 fit together, and fill a GPU better"
    assert advice[40] == ""
    assert advice[20] == "use --batch 2: 4 images of 2048x1024 do not fit together"
    assert "in tiles of 2048 pixels" in advice[5]
    assert advice[5].endswith("whole images fit with --scales 0.5,1")
    assert "does not fit, not even in tiles" in plan_size(memory, size, work, GB // 2).advice
    assert "too small for tiles" in plan_size(memory, (200, 300), work, GB // 10).advice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "640x480"), "--teacher and --size go together"),
        (("--teacher", "hrnet-ocr"), "--teacher and --size go together"),
        (("--classes", "cityscapes"), "give --teacher"),
        (("--teacher", "hrnet-ocr", "--size", "640"), "expected WIDTHxHEIGHT"),
        (("--teacher", "hrnet-ocr", "--size", "640x480", "--scales", "0.5,2"), "must be among them"),
        (("--teacher", "hrnet-ocr", "--size", "640x480", "--batch", "0"), "batch"),
        (("--teacher", "nowhere.pt", "--size", "640x480"), "no teacher 'nowhere.pt'"),
        (("--teacher", "hrnet-ocr", "--size", "640x480", "--device", "tpu"), "device is 'tpu'"),
    ],
)
def test_bad_input_is_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    """What cannot be planned says why, with exit code 2."""
    result = doctor(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_size_too_small_for_the_scales_is_said(tiny_teacher: Path) -> None:
    """An image that no scale can see is an error with its size."""
    result = doctor("--teacher", tiny_teacher, "--size", "6x6")
    assert result.exit_code == 1
    assert "6x6 pixels" in result.output


def test_the_way_is_told_in_words() -> None:
    """As it stands in the ledger, and in the plan."""
    assert str(Way()) == "one image at a time"
    assert str(Way(4)) == "4 images at a time"
    assert str(Way(1, 512)) == "one image at a time, in tiles of 512 pixels"
