"""Training in several processes, and in steps of several batches, is training in one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from pipeline.crops import Batch
from pipeline.distributed import launched_from_outside, run_in_processes
from pipeline.training import train
from pipeline.training_data import crop_numbers
from pipeline.training_settings import TrainingRecipe, TrainSettings
from pipeline.training_step import Trainer
from storage.errors import LabelError, SettingsError, WorkerError
from teacher.networks.registry import build_network, default_spec

CLASSES = {"classes": [{"name": n, "color": [i, i, i]} for i, n in enumerate(("left", "right"))]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images of two halves, one of them with a gap in its label, and their classes."""
    rng = np.random.default_rng(0)
    for number in range(6):
        label = np.zeros((100, 110), np.uint8)
        label[:, rng.integers(20, 90) :] = 1
        image = np.clip(label[..., None] * 90 + rng.integers(0, 120, (100, 110, 3)), 0, 255).astype(np.uint8)
        label[rng.integers(0, 90) :, :40] = 255
        for folder, values in (("images", image), ("labels", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{number}.png")
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


def settings_for(data: Path, **changes: Any) -> TrainSettings:
    """A few steps whose loss is written at each."""
    values: dict[str, Any] = {
        "fine_images": data / "images",
        "fine_labels": data / "labels",
        "classes": str(data / "classes.json"),
        "encoder": "resnet10t",
        "steps": 5,
        "crop": (96, 96),
        "batch": 8,
        "optimizer": "sgd",
        "learning_rate": 3e-4,  # float32 rounding grows with every step, and with its length
        "checkpoint_every": 1,
        "keep": 1,
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    return TrainSettings.checked(**{**values, **changes})


def losses(settings: TrainSettings) -> list[float]:
    """Train, and give the loss of each step."""
    return [progress.figures.loss for progress in train(settings) if progress.figures is not None]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_out_the_crops_of_a_step(processes: int) -> None:
    """However many processes there are, a step's crops are the same, each is taken once, in the processes' order."""
    alone = crop_numbers(TrainingRecipe(batch=8, accumulate=3), 5, 9, 0).reshape(4, 3, 8)
    shared = [
        crop_numbers(TrainingRecipe(batch=8 // processes, accumulate=3, devices=processes), 5, 9, rank)
        for rank in range(processes)
    ]
    parts = [numbers.reshape(4, 3, 8 // processes) for numbers in shared]
    assert np.array_equal(np.concatenate(parts, axis=2), alone)
    assert np.array_equal(alone.ravel(), np.arange(5 * 24, 9 * 24))


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(data: Path) -> None:
    """Two processes with half the batch each have the same losses within 1e-4, step for step, and one set of files."""
    torch.set_num_threads(1)
    one = losses(settings_for(data, out=data / "one"))
    two = losses(settings_for(data, out=data / "two", batch=4, devices=2))
    assert two == pytest.approx(one, abs=1e-4)
    assert len(one) == 5
    mixes = [
        [line for line in map(json.loads, (data / out / "log.jsonl").read_text().splitlines()) if "mix" in line]
        for out in ("one", "two")
    ]
    assert mixes[0] == mixes[1]
    assert mixes[0]
    # the same run, taken up by one process: what decides the weights is the same
    assert losses(settings_for(data, out=data / "two")) == []


def test_accumulated_batches_weigh_pixels_not_batches() -> None:
    """The first loss of two accumulated batches is that of one batch of both, where batch norm sees no difference."""
    network = build_network(default_spec("deeplabv3plus", 2, "resnet10t")).eval()  # its statistics stand still
    fabric = Fabric(accelerator="cpu", devices=1)
    plain: dict[str, Any] = {"encoder": "resnet10t", "optimizer": "sgd", "learning_rate": 0.1}
    reports = []
    for recipe in (TrainingRecipe(batch=4, **plain), TrainingRecipe(batch=2, accumulate=2, **plain)):
        trainer = Trainer(recipe, default_spec("deeplabv3plus", 2, "resnet10t"), 1, fabric)
        trainer.network.load_state_dict(network.state_dict())
        trainer.network.eval()
        images = torch.arange(4 * 3 * 64 * 64).remainder(251).to(torch.uint8).reshape(4, 3, 64, 64)
        target = torch.zeros(4, 64, 64, dtype=torch.uint8)
        target[1:, 20:] = 255  # the batches differ in their number of labelled pixels
        batches = [
            Batch(i, t, torch.zeros(len(t), dtype=torch.uint8), torch.tensor([[int((t == 0).sum()), 0], *[[0, 0]] * 3]))
            for i, t in zip(images.split(recipe.batch), target.split(recipe.batch), strict=True)
        ]
        reports.append((trainer.update(batches), dict(trainer.network.named_parameters())))
    (whole, weights), (parts, other_weights) = reports
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-5)
    assert torch.allclose(parts.by_kind, whole.by_kind, rtol=1e-5)
    assert all(torch.allclose(weights[name], other_weights[name], atol=1e-4) for name in weights)


def test_error_in_a_process_is_raised_as_it_was(data: Path) -> None:
    """What is wrong with the data is said as in one process, not buried under closed connections."""
    Image.fromarray(np.full((100, 110), 7, np.uint8)).save(data / "labels/3.png")
    with pytest.raises(LabelError, match=r"3\.png: value 7"):
        losses(settings_for(data, batch=4, devices=2))


def _die(fabric: Any, settings: TrainSettings) -> Any:
    if fabric.global_rank == 1:
        os._exit(9)
    yield settings.steps
    fabric.barrier()


def test_death_of_a_process_is_one_clear_error(data: Path) -> None:
    """A process that dies without a word ends the others, and the message says what to do."""
    with pytest.raises(WorkerError, match=r"process died.*run the same command again"):
        list(run_in_processes(_die, settings_for(data, batch=4, devices=2), torch.device("cpu")))


def test_several_machines_need_a_launcher(data: Path) -> None:
    """With several machines and no launcher the message says how to start the command on each."""
    with pytest.raises(SettingsError, match="torchrun --nnodes 2 --nproc-per-node 4"):
        losses(settings_for(data, batch=1, devices=4, nodes=2))


@pytest.mark.parametrize(("launched", "devices"), [(2, 1), (2, 4)])
def test_number_of_launched_processes_must_be_what_is_asked_for(
    data: Path, monkeypatch: pytest.MonkeyPatch, launched: int, devices: int
) -> None:
    """Processes that a launcher has started are not taken for single runs in one folder, nor waited for in vain."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", str(launched))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SettingsError, match="2 processes were started together"):
        losses(settings_for(data, devices=devices))


def test_batch_script_is_not_taken_for_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's variables of a job mean nothing without those that srun alone sets."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert not launched_from_outside()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert launched_from_outside()


def test_processes_end_with_the_one_that_started_them(data: Path) -> None:
    """When the starting process is killed its training processes end: they would write into a folder without lock."""
    settings = settings_for(data, batch=4, devices=2).model_dump_json()
    script = (
        "import os, signal, torch\n"
        "from pipeline.training_settings import TrainSettings\n"
        "from pipeline.distributed import run_in_processes\n"
        f"settings = TrainSettings.model_validate_json({settings!r})\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as in a script's background job
        "    import helper\n"
        "    for pid in run_in_processes(helper.wait, settings, torch.device('cpu')):\n"
        "        print(pid, flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (data / "helper.py").write_text(
        "import os, time\ndef wait(fabric, settings):\n    yield os.getpid()\n    time.sleep(600)\n"
    )
    (data / "main.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run(
        [sys.executable, data / "main.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(data)])},
    )
    pid = int(process.stdout)
    deadline = time.monotonic() + 300
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended since, or the system has no such file
        return not Path("/proc/self").exists()
