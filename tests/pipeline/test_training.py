"""Training from end to end, on images that are small enough to take seconds."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from pipeline.crops import Batch
from pipeline.evaluation import evaluate_network
from pipeline.losses import Loss
from pipeline.training import dry_run, train
from pipeline.training_progress import TrainProgress, TrainResult
from pipeline.training_settings import TrainSettings
from pipeline.training_step import Trainer
from storage.errors import (
    CheckpointError,
    ForeignSettingsError,
    ImageError,
    LabelError,
    LayoutError,
    LeakError,
    MissingFileError,
    SchemaError,
    SettingsError,
    TrainingError,
    WorkspaceError,
)
from storage.workspace import Workspace
from teacher import load_teacher
from teacher.checkpoint import load_checkpoint
from teacher.networks.registry import NetworkSpec

COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)
CLASSES = {
    "classes": [{"name": n, "color": c.tolist()} for n, c in zip(("red", "green", "blue"), COLOURS, strict=True)]
}


def write_set(root: Path, name: str, count: int, *, ignore: float = 0.1) -> None:
    """Images of three colours in rectangles, 48x40, and their labels, partly ignored."""
    for number in range(count):
        rng = np.random.default_rng([len(name), number])
        label = np.zeros((40, 48), np.uint8)
        for value in (1, 2, 1, 2):
            top, left = rng.integers(0, 30), rng.integers(0, 36)
            label[top : top + 14, left : left + 16] = value
        noise = rng.integers(-30, 30, (40, 48, 3))
        image = np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)
        label[rng.random(label.shape) < ignore] = 255
        for folder, values in ((f"{name}_images", image), (f"{name}_labels", label)):
            path = root / folder / "town" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four fine samples, three automatic ones, two to validate on, and their classes."""
    for name, count in (("fine", 4), ("auto", 3), ("val", 2)):
        write_set(tmp_path, name, count)
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    return tmp_path


def settings_for(data: Path, **changes: Any) -> TrainSettings:
    """Settings of a run of seconds."""
    values: dict[str, Any] = {
        "fine_images": data / "fine_images",
        "fine_labels": data / "fine_labels",
        "classes": str(data / "classes.json"),
        "encoder": "resnet10t",
        "steps": 8,
        "crop": (32, 40),
        "batch": 2,
        "scales": (1.0,),
        "checkpoint_every": 3,
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    return TrainSettings.checked(**{**values, **changes})


def run(settings: TrainSettings) -> tuple[TrainResult, list[TrainProgress]]:
    """Train to the end."""
    steps = list(train(settings))
    assert steps[-1].result is not None
    return steps[-1].result, steps


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint."""
    return load_checkpoint(path).state_dict


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether all weights are bit for bit the same."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_training_learns_and_leaves_its_files(data: Path) -> None:
    """Twenty steps lower the loss and beat chance, and everything that is promised is in the folder."""
    settings = settings_for(
        data, steps=20, batch=4, learning_rate=5e-3, val_images=data / "val_images", val_labels=data / "val_labels"
    )
    result, steps = run(settings)
    losses = [s.figures.loss for s in steps if s.figures is not None]
    assert losses[-1] < 0.8 * losses[0]
    assert result.scores is not None
    assert result.scores.miou > 0.4
    assert [s.done for s in steps if s.phase == "training"] == list(range(1, 21))
    assert [s.done for s in steps if s.phase == "validating"] == [1, 2, 1, 2]
    teacher = load_teacher(result.checkpoint)
    assert teacher.schema.names == ("red", "green", "blue")
    record = load_checkpoint(result.checkpoint).record
    assert (record["step"], record["seed"], record["samples"]) == (20, 0, {"fine": 4})
    logged = [line for line in read_log(data / "out") if "loss" in line]
    assert [line["step"] for line in logged] == [3, 6, 9, 10, 12, 15, 18, 20]
    assert logged[0]["labelled"] == pytest.approx(0.9, abs=0.25)
    metrics = json.loads((data / "out/metrics.json").read_text())
    assert metrics["validation"]["averaged"]["miou"] == result.scores.miou
    assert result.raw_scores is not None
    assert metrics["validation"]["raw"]["miou"] == result.raw_scores.miou
    assert list((data / "out/tensorboard").glob("events*"))


def test_settings_file_says_what_was_done(data: Path) -> None:
    """The settings that are left in the folder make the same settings again."""
    settings = settings_for(data, steps=2)
    run(settings)
    table = tomllib.loads((data / "out/settings.toml").read_text())["train"]
    assert TrainSettings.checked(**table) == settings


def test_stopped_run_goes_on_bit_for_bit(data: Path) -> None:
    """A run that was stopped after a step ends with the very weights and log of one that was not."""
    whole, _ = run(settings_for(data, out=data / "whole"))
    stopped = train(settings_for(data))
    next(s for s in stopped if s.phase == "training" and s.done == 5)
    stopped.close()  # type: ignore[attr-defined] # a generator
    resumed, steps = run(settings_for(data))
    assert [s.done for s in steps if s.phase == "training"] == [3, 4, 5, 6, 7, 8]
    assert any("goes on at step 3 of 8" in s.message for s in steps)
    assert same(weights(whole.checkpoint), weights(resumed.checkpoint))
    assert same(weights(data / "whole/raw.pt"), weights(data / "out/raw.pt"))
    timed = {"crops_per_second", "loading"}
    logs = [
        [{name: value for name, value in line.items() if name not in timed} for line in read_log(data / out)]
        for out in ("whole", "out")
    ]
    assert logs[0] == logs[1]


def test_killed_process_leaves_a_run_to_go_on_with(data: Path) -> None:
    """A process that dies without a word leaves a state from which the same weights come out, and no lock."""
    settings = settings_for(data)
    script = (
        "import os, torch; torch.set_num_threads(1)\n"
        "from pipeline.training import train\nfrom pipeline.training_settings import TrainSettings\n"
        f"for p in train(TrainSettings.model_validate_json({settings.model_dump_json()!r})):\n"
        "    if p.phase == 'training' and p.done == 4: os._exit(9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run([sys.executable, "-c", script], cwd=root, check=False, timeout=600)
    assert process.returncode == 9
    assert not (data / "out/checkpoint.pt").exists()
    resumed, _ = run(settings)
    whole, _ = run(settings_for(data, out=data / "whole"))
    assert same(weights(whole.checkpoint), weights(resumed.checkpoint))


def test_finished_run_is_not_repeated(data: Path) -> None:
    """A finished run says so, takes no step, and gives the same result."""
    settings = settings_for(data, val_images=data / "val_images", val_labels=data / "val_labels")
    first, _ = run(settings)
    written = first.checkpoint.stat().st_mtime_ns
    second, steps = run(settings)
    assert second == first
    assert first.checkpoint.stat().st_mtime_ns == written
    assert any("is finished at step 8 of 8" in s.message for s in steps)
    assert not [s for s in steps if s.phase == "validating" or s.figures is not None]


@pytest.mark.parametrize(
    ("name", "damage"),
    [("checkpoint.pt", "cut off"), ("checkpoint.pt", "another bit"), ("raw.pt", "gone")],
)
def test_a_finished_run_makes_a_lost_checkpoint_anew(data: Path, name: str, damage: str) -> None:
    """A checkpoint that was damaged or removed since is said and made anew, the other stays, and no step is taken."""
    settings = settings_for(data, steps=2, val_images=data / "val_images", val_labels=data / "val_labels")
    first, _ = run(settings)
    lost = data / "out" / name
    other = next(data / "out" / one for one in ("checkpoint.pt", "raw.pt") if one != name)
    before, written = weights(lost), other.stat().st_mtime_ns
    content = bytearray(lost.read_bytes())
    if damage == "gone":
        lost.unlink()
    elif damage == "cut off":
        lost.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        lost.write_bytes(content)
    again, steps = run(settings)
    assert again == first
    assert same(weights(lost), before)
    assert other.stat().st_mtime_ns == written
    (warning,) = [s.warning for s in steps if str(lost) in s.warning]
    assert warning.endswith("it is made anew from the state of the last step")
    assert not [s for s in steps if s.figures is not None]
    assert not [s for s in run(settings)[1] if str(lost) in s.warning]


@pytest.mark.parametrize("begin", [train, dry_run])
@pytest.mark.parametrize("content", [b"my notes", b"PK\x03\x04 of some other archive, which has no index in it"])
def test_a_file_that_is_no_index_is_never_replaced(data: Path, begin: Callable[..., Any], content: bytes) -> None:
    """An --index that names another file is refused before anything is written, and the file stays."""
    (data / "notes").write_bytes(content)
    with pytest.raises(SettingsError, match="notes is there and no index of labels"):
        next(begin(settings_for(data, index=data / "notes")))
    assert (data / "notes").read_bytes() == content
    assert not (data / "out").exists()


@pytest.mark.parametrize("kept", [0, 0.5, 1])
def test_a_shared_index_is_used_again_also_where_it_was_cut_off(data: Path, kept: float) -> None:
    """A whole index serves the next run, a damaged one is made anew in its place."""
    index = data / "shared.npz"
    *_, first = dry_run(settings_for(data, index=index))
    whole = index.stat().st_size
    os.truncate(index, int(kept * whole))
    *_, again = dry_run(settings_for(data, index=index))
    assert (again.phase, again.total) == (first.phase, first.total)
    assert index.stat().st_size == whole


def test_reading_processes_do_not_matter(data: Path) -> None:
    """Crops read by other processes give bit for bit the same weights."""
    alone, _ = run(settings_for(data, steps=3, out=data / "alone"))
    helped, _ = run(settings_for(data, steps=3, workers=2, out=data / "helped"))
    assert same(weights(alone.checkpoint), weights(helped.checkpoint))


def test_seed_matters_and_the_callers_random_numbers_do_not(data: Path) -> None:
    """Other seeds give other weights; the state of torch's generator neither matters nor changes."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = run(settings_for(data, steps=2, out=data / "one"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same_seed, _ = run(settings_for(data, steps=2, out=data / "two"))
    other_seed, _ = run(settings_for(data, steps=2, seed=1, out=data / "three"))
    assert same(weights(one.checkpoint), weights(same_seed.checkpoint))
    assert not same(weights(one.checkpoint), weights(other_seed.checkpoint))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9},
        {"learning_rate": 2e-3},
        {"class_uniform": 0.25},
        {"fine_share": 0.25},
        {"crop": (40, 32)},
        {"precision": "bf16"},
    ],
)
def test_other_settings_are_refused_with_what_differs(data: Path, change: dict[str, Any]) -> None:
    """A folder that holds a run with other settings is refused, and the message names just what differs."""
    settings = settings_for(data, steps=1)
    run(settings)
    name = next(iter(change))
    with pytest.raises(ForeignSettingsError, match=rf"other settings:\n  {name}: .* -> .*\nchoose another --out"):
        run(settings.model_copy(update=change))


def test_other_labels_are_refused(data: Path) -> None:
    """A run whose labels were changed since is refused: its result would be of neither."""
    run(settings_for(data, steps=1))
    write_set(data, "fine", 4, ignore=0.5)
    with pytest.raises(ForeignSettingsError, match="samples"):
        run(settings_for(data, steps=1))


def test_renamed_classes_are_refused(data: Path) -> None:
    """A class file that was changed since means other settings, though its path is the same."""
    run(settings_for(data, steps=1))
    (data / "classes.json").write_text(json.dumps(CLASSES).replace("red", "crimson"))
    with pytest.raises(ForeignSettingsError, match=r"classes: .*red.*crimson"):
        run(settings_for(data, steps=1))


def test_what_does_not_decide_the_result_may_change(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may go on with other reading processes, other saving points, and other names of the same folders."""
    first, _ = run(settings_for(data, steps=2))
    written = first.checkpoint.stat().st_mtime_ns
    monkeypatch.chdir(data)
    shutil.copy(data / "classes.json", data / "same.json")
    changes = {"fine_images": Path("fine_images"), "classes": "same.json", "workers": 1, "checkpoint_every": 1}
    run(settings_for(data, steps=2, **changes))
    assert first.checkpoint.stat().st_mtime_ns == written


def test_finished_run_is_validated_anew_where_asked_otherwise(data: Path) -> None:
    """Validation may be added to a finished run, or changed, without training again."""
    without, _ = run(settings_for(data, steps=2))
    assert without.scores is None
    validation = {"val_images": data / "val_images", "val_labels": data / "val_labels"}
    added, steps = run(settings_for(data, steps=2, **validation))
    assert added.scores is not None
    assert not [s for s in steps if s.figures is not None]
    other, _ = run(settings_for(data, steps=2, scales=(0.5, 1.0), **validation))
    assert other.scores != added.scores
    (data / "out/metrics.json").write_text("torn {")
    assert run(settings_for(data, steps=2, scales=(0.5, 1.0), **validation))[0].scores == other.scores


def test_state_is_saved_after_a_time_even_before_its_step(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop costs little where steps are slow: a state is saved with the log once enough time has passed."""
    monkeypatch.setattr("pipeline.training_run.SAVE_SECONDS", 0)
    monkeypatch.setattr("pipeline.training_run.LOG_EVERY", 2)
    for progress in train(settings_for(data, steps=8, checkpoint_every=8)):
        if progress.done == 5 and progress.phase == "training":
            break
    _, steps = run(settings_for(data, steps=8, checkpoint_every=8))
    assert any("goes on at step 4 of 8" in s.message for s in steps)


def test_log_that_cannot_be_written_is_one_clear_error(data: Path) -> None:
    """A folder in the log's place stops the run with a message that names it."""
    (data / "out/log.jsonl").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match=r"log\.jsonl"):
        run(settings_for(data))


def test_auto_labels_are_learned_from_and_gaps_are_said(data: Path) -> None:
    """Automatic labels join the fine ones; images without one and classes without pixels are warned of."""
    (data / "auto_labels/town/0.png").unlink()
    for path in [*(data / "fine_labels").rglob("*.png"), *(data / "auto_labels").rglob("*.png")]:
        values = np.array(Image.open(path))
        values[values == 2] = 255
        Image.fromarray(values).save(path)
    settings = settings_for(data, steps=2, auto_images=data / "auto_images", auto_labels=data / "auto_labels")
    result, steps = run(settings)
    warnings = " ".join(s.warning for s in steps)
    assert "1 images of" in warnings
    assert "no label has a pixel of blue: the network cannot learn it" in warnings
    assert "source_ids" not in warnings
    assert load_checkpoint(result.checkpoint).record["samples"] == {"fine": 4, "auto": 2}


def test_batches_without_labels_do_no_harm(data: Path) -> None:
    """A run in which nearly every crop is ignored throughout ends with finite weights."""
    for number, path in enumerate(sorted((data / "fine_labels").rglob("*.png"))):
        values = np.full((40, 48), 255, np.uint8)
        values[0, 0] = 0 if number else 1
        Image.fromarray(values).save(path)
    result, steps = run(settings_for(data, class_uniform=0.0))
    assert all(
        torch.isfinite(value).all() for value in weights(result.checkpoint).values() if value.is_floating_point()
    )
    assert min(s.figures.labelled for s in steps if s.figures is not None) < 0.01


def test_crop_larger_than_the_images(data: Path) -> None:
    """Crops may be larger than the images, and images may be of several sizes."""
    Image.new("RGB", (20, 90)).save(data / "fine_images/town/tall.png")
    Image.fromarray(np.zeros((90, 20), np.uint8)).save(data / "fine_labels/town/tall.png")
    run(settings_for(data, steps=2, crop=(128, 64)))


def test_bf16_trains(data: Path) -> None:
    """Half precision trains to a loss close to that of full precision."""
    losses = [
        [s.figures.loss for s in run(settings_for(data, steps=4, precision=p, out=data / p))[1] if s.figures][-1]
        for p in ("fp32", "bf16")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[0] != losses[1]


def test_encoder_weights_are_the_start(data: Path) -> None:
    """Encoder weights are what training starts from; weights of another encoder are refused."""
    first, _ = run(settings_for(data, steps=1, out=data / "first"))
    encoder = {k.removeprefix("encoder.model."): v for k, v in weights(first.checkpoint).items() if "encoder." in k}
    torch.save(encoder, data / "encoder.pt")
    start = {"encoder_weights": data / "encoder.pt", "steps": 1, "learning_rate": 1e-12}
    result, _ = run(settings_for(data, out=data / "second", **start))
    name = "encoder.model.conv1.0.weight"
    assert torch.allclose(weights(result.checkpoint)[name], encoder["conv1.0.weight"], atol=1e-9)
    with pytest.raises(CheckpointError, match="is not for this encoder"):
        run(settings_for(data, out=data / "third", encoder="resnet18", **start))


def test_hrnet_ocr_is_trained_with_its_auxiliary_classifier(data: Path) -> None:
    """A small HRNet-OCR lowers its loss on one batch; every parameter moves, the attention's too."""
    spec = NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=8)
    settings = settings_for(data, network="hrnet-ocr", encoder=None, steps=12, learning_rate=1e-2)
    trainer = Trainer(settings, spec, 12, Fabric(accelerator="cpu", devices=1))
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 64, 64), generator=rng, dtype=torch.uint8)
    images = torch.from_numpy(COLOURS)[target.long()].permute(0, 3, 1, 2)
    pixels = torch.zeros(4, 3, dtype=torch.int64)
    pixels[0] = target.long().flatten().bincount(minlength=3)
    batch = Batch(images, target, torch.zeros(2, dtype=torch.uint8), pixels)
    losses = [trainer.update([batch]).loss.item() for _ in range(12)]
    assert losses[-1] < losses[0]
    moved = {name for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(before)


def test_divergence_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is no number stops the run before a state of it is saved."""
    monkeypatch.setattr(
        "pipeline.training_step.training_loss",
        lambda prediction, *_, **__: Loss(prediction.joint.sum() * float("nan"), torch.zeros(2)),
    )
    with pytest.raises(TrainingError, match=r"the loss is nan at step 3: .*lower the learning rate"):
        run(settings_for(data))
    assert not list((data / "out/states").glob("*"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fine_images": "nowhere"}, MissingFileError, "no image folder nowhere"),
        ({"fine_labels": "nowhere"}, MissingFileError, "no label folder nowhere"),
        ({"val_images": "nowhere", "val_labels": "nowhere"}, MissingFileError, "no image folder nowhere"),
        ({"classes": "nowhere.json"}, MissingFileError, "no class schema 'nowhere.json'"),
        ({"encoder": "resnet10x"}, SettingsError, "no encoder 'resnet10x'; did you mean resnet10t"),
        ({"encoder_weights": "nowhere.pt"}, MissingFileError, "nowhere.pt"),
        ({"precision": "fp16"}, SettingsError, "fp16 and the device cpu"),
        ({"device": "tpu"}, SettingsError, "device is 'tpu'"),
    ],
)
def test_bad_input_is_refused(data: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    """What cannot work is refused before the first step, with a message that names it."""
    with pytest.raises(error, match=message):
        run(settings_for(data, **change))
    assert not (data / "out/log.jsonl").exists()


def test_bad_files_are_refused(data: Path) -> None:
    """A malformed schema, an illegal label value, a missing label and a damaged image each name the file."""
    (data / "bad.json").write_text("[]")
    with pytest.raises(SchemaError, match="bad"):
        run(settings_for(data, classes=str(data / "bad.json")))
    image = data / "fine_images/town/1.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:1500])
    with pytest.raises(ImageError, match=r"^\S*fine_images/town/1\.png: cannot be decoded"):
        run(settings_for(data, workers=1))
    image.write_bytes(whole)
    label = data / "fine_labels/town/2.png"
    Image.fromarray(np.full((40, 48), 33, np.uint8)).save(label)
    with pytest.raises(LabelError, match=r"town/2\.png: value 33 is no class index"):
        run(settings_for(data))
    label.unlink()
    with pytest.raises(LayoutError, match=r"1 of 4 images of .* have no fine label in .*: town/2"):
        run(settings_for(data))


def test_damaged_state_and_folder_in_use_are_said(data: Path) -> None:
    """A damaged state names itself and says what to do; a folder that another run has is refused."""
    run(settings_for(data, steps=1))
    (state,) = (data / "out/states").iterdir()
    state.write_bytes(b"no state")
    with pytest.raises(CheckpointError, match=r"step-000000001\.pt cannot be read .*; remove .*states"):
        run(settings_for(data, steps=1))
    state.unlink()
    with pytest.raises(ForeignSettingsError, match="choose another --out"):
        run(settings_for(data, steps=1))
    lock = Workspace(data / "out").lock()
    with pytest.raises(WorkspaceError, match="in use by another"):
        run(settings_for(data, steps=1))
    lock.release()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_images": "a"}, "--auto-images is given without --auto-labels"),
        ({"val_labels": "a"}, "--val-labels is given without --val-images"),
        ({"batch": 1}, "batch is 1, but deeplabv3plus"),
        ({"batch": 1, "network": "hrnet-ocr", "encoder": None, "crop": (64, 64)}, "sides of at least 128"),
        ({"network": "hrnet-ocr"}, "has a trunk of its own"),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"crop": (16, 64)}, "crop.0: .*greater than or equal to 32"),
        ({"class_uniform": 1.5}, "class_uniform: .*less than or equal to 1"),
        ({"scales": (0.5,)}, "1.0 must be among"),
        ({"stepz": 3}, "stepz: Extra inputs"),
        ({"network": "unet"}, "network: .*'deeplabv3plus'"),
    ],
)
def test_contradicting_settings_are_refused(data: Path, change: dict[str, Any], message: str) -> None:
    """Settings that contradict each other or are out of range are named."""
    with pytest.raises(SettingsError, match=message):
        settings_for(data, **change)


def test_encoder_has_a_default_for_deeplab_only(data: Path) -> None:
    """Without a name deeplabv3plus has a small encoder; hrnet-ocr has none."""
    assert settings_for(data, encoder=None).encoder == "tf_efficientnet_lite0"
    assert settings_for(data, encoder=None, network="hrnet-ocr").encoder is None


def test_validating_on_training_images_is_refused_unless_asked_for(data: Path) -> None:
    """Training images among those to validate on stop the run before its first step, and evaluation of its network."""
    leak = {"val_images": data / "fine_images", "val_labels": data / "fine_labels", "steps": 2}
    with pytest.raises(LeakError, match=r"4 of 4 images .*this very run: .*fine_images/town/0\.png.*--allow-training"):
        run(settings_for(data, **leak))
    assert not (data / "out/log.jsonl").exists()
    result, _ = run(settings_for(data, allow_training_images=True, **leak))
    assert result.scores is not None
    teacher = load_teacher(result.checkpoint)
    with pytest.raises(LeakError, match="trained on by this network"):
        list(evaluate_network(teacher, data / "fine_images", data / "fine_labels", (1.0,)))
    allowed = evaluate_network(teacher, data / "fine_images", data / "fine_labels", (1.0,), allow_training_images=True)
    assert list(allowed)[-1].scores() == result.scores


def test_best_of_the_validations_is_kept(data: Path) -> None:
    """With validations during the run the best weights are kept beside the last, in the log and in their record."""
    validation = {"val_images": data / "val_images", "val_labels": data / "val_labels", "validate_every": 2}
    result, _ = run(settings_for(data, steps=6, learning_rate=5e-3, **validation))
    judged = [line for line in read_log(data / "out") if line.get("weights") == "averaged"]
    assert [line["step"] for line in judged] == [2, 4, 6]
    assert result.scores is not None
    assert judged[-1]["miou"] == result.scores.miou
    best = max(line["miou"] for line in judged)
    assert load_checkpoint(data / "out/best.pt").record["miou"] == pytest.approx(best)


def test_dry_run_plans_and_the_run_need_not_read_the_labels_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run gives the plan and leaves the labels' index; what follows opens no label to index it."""
    settings = settings_for(data, steps=3, auto_images=data / "auto_images", auto_labels=data / "auto_labels")
    *_, last = dry_run(settings)
    assert last.plan is not None
    assert (last.plan.steps, last.plan.crops_a_step, last.plan.processes) == (3, 2, 1)
    assert {kind: (part.images, part.crops) for kind, part in last.plan.kinds.items()} == {
        "fine": (4, 3),
        "auto": (3, 3),
    }
    assert not (data / "out/checkpoint.pt").exists()

    def refuse(*_: object) -> None:
        raise AssertionError("a label was read again")

    monkeypatch.setattr("pipeline.sample_index.read_label_png", refuse)
    _, steps = run(settings)
    assert [s.plan for s in steps if s.plan is not None]


def test_without_an_average_the_last_weights_are_the_result(data: Path) -> None:
    """With ema 0 there is one checkpoint, that of the weights after the last step."""
    validation = {"val_images": data / "val_images", "val_labels": data / "val_labels"}
    plain, _ = run(settings_for(data, steps=3, ema=0, out=data / "plain", **validation))
    averaged, _ = run(settings_for(data, steps=3, out=data / "averaged", **validation))
    assert plain.raw_scores is None
    assert plain.scores == averaged.raw_scores
    assert not (data / "plain/raw.pt").exists()
    assert same(weights(plain.checkpoint), weights(data / "averaged/raw.pt"))
    assert not same(weights(averaged.checkpoint), weights(data / "averaged/raw.pt"))


def test_batch_norms_alone_are_other_where_whole_images_are_seen(data: Path) -> None:
    """Without precise statistics a run has the same weights, and the statistics of its crops."""
    crops, steps = run(settings_for(data, steps=2, precise_bn=0, out=data / "crops"))
    assert "statistics" not in {step.phase for step in steps}
    images, steps = run(settings_for(data, steps=2, out=data / "images"))
    assert [step.done for step in steps if step.phase == "statistics"] == [1, 1]  # of both networks
    one, other = weights(crops.checkpoint), weights(images.checkpoint)
    changed = {name.rpartition(".")[2] for name in one if not torch.equal(one[name], other[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_an_image_that_is_gone_when_statistics_are_taken_is_told_and_the_run_goes_on_with_it(data: Path) -> None:
    """The error says which image and what to do; with the image back the same command ends the run, without a step."""
    settings, image = settings_for(data, steps=2), data / "fine_images/town/1.png"
    content, training = image.read_bytes(), train(settings)
    for progress in training:
        if (progress.phase, progress.done) == ("training", 2):
            break
    image.unlink()
    with pytest.raises(ImageError, match=r"town/1\.png: .* put it back as it was, and run the same command again"):
        list(training)
    image.write_bytes(content)
    result, steps = run(settings)
    assert result.steps == 2
    assert "training" not in {step.phase for step in steps if not step.message}


def test_checkpoint_of_somebody_else_never_becomes_a_result(data: Path) -> None:
    """Where the result is not written yet, a raw.pt that lies there, of another run or a killed one, is made anew."""
    run(settings_for(data, steps=2, seed=1))
    (data / "out/checkpoint.pt").unlink()
    shutil.rmtree(data / "out/states")
    run(settings_for(data, steps=2))
    run(settings_for(data, steps=2, out=data / "whole"))
    for name in ("checkpoint.pt", "raw.pt"):
        assert same(weights(data / "out" / name), weights(data / "whole" / name))


def test_gradient_checkpointing_changes_memory_only(data: Path) -> None:
    """Activations that are computed again give the same weights and the same statistics of batch norm."""
    kept, _ = run(settings_for(data, steps=2, out=data / "kept"))
    again, _ = run(settings_for(data, steps=2, gradient_checkpointing=True, out=data / "again"))
    one, other = weights(kept.checkpoint), weights(again.checkpoint)
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-6) for name in one)


def test_kinds_may_weigh_differently(data: Path) -> None:
    """A weight for auto labels changes the weights that come out, and is no matter where there are none."""
    auto = {"auto_images": data / "auto_images", "auto_labels": data / "auto_labels"}
    results = [
        run(settings_for(data, steps=2, out=data / name, auto_weight=weight, **kinds))[0].checkpoint
        for name, weight, kinds in (("a", 1.0, auto), ("b", 0.1, auto), ("c", 1.0, {}), ("d", 0.1, {}))
    ]
    assert not same(weights(results[0]), weights(results[1]))
    assert same(weights(results[2]), weights(results[3]))


def test_epochs_are_counted_by_fine_images(data: Path) -> None:
    """An epoch has a crop for each fine image, over all batches of a step; the log has a line of what each held."""
    auto = {"auto_images": data / "auto_images", "auto_labels": data / "auto_labels"}
    result, _ = run(settings_for(data, steps=None, epochs=3, accumulate=2, **auto))
    assert result.steps == 3  # 3 epochs of 4 images in steps of 2 x 2 crops
    mixes = [line for line in read_log(data / "out") if "mix" in line]
    assert [line["epoch"] for line in mixes] == [1, 2, 3]
    assert all(sum(kind["crops"] for kind in line["mix"].values()) == 4 for line in mixes)
    assert all(set(kind["pixels"]) == {"red", "green", "blue"} for line in mixes for kind in line["mix"].values())


@pytest.mark.parametrize("weights", ["start_weights", "encoder_weights"])
def test_weights_bring_along_what_they_were_trained_on(data: Path, weights: str) -> None:
    """A network whose weights, or encoder, are another's is not judged on the images of that other either."""
    val = {"fine_images": data / "val_images", "fine_labels": data / "val_labels"}
    first, _ = run(settings_for(data, steps=1, out=data / "first", **val))
    known = {"val_images": data / "val_images", "val_labels": data / "val_labels"}
    start = {"steps": 1, "out": data / "second", weights: first.checkpoint}
    with pytest.raises(LeakError, match="2 of 2 images"):
        run(settings_for(data, **start, **known))
    second, _ = run(settings_for(data, **start))
    assert len(load_checkpoint(second.checkpoint).record["images"]) == 6


def test_bad_validation_label_is_known_before_the_first_step(data: Path) -> None:
    """A label to validate on that cannot be read stops the run, and the dry run, before anything is trained."""
    settings = settings_for(data, val_images=data / "val_images", val_labels=data / "val_labels")
    (data / "val_labels/town/1.png").write_bytes(b"torn")
    for way in (train, dry_run):
        with pytest.raises(LabelError, match=r"val_labels/town/1\.png"):
            list(way(settings))
    assert not (data / "out/log.jsonl").exists()


def test_changed_validation_labels_are_judged_again(data: Path) -> None:
    """Scores rest on what the validation files hold, not on where they lie: other labels there, other scores."""
    settings = settings_for(data, steps=2, val_images=data / "val_images", val_labels=data / "val_labels")
    before, _ = run(settings)
    for path in (data / "val_labels").rglob("*.png"):
        Image.fromarray(np.full((40, 48), 2, np.uint8)).save(path)
    after, steps = run(settings)
    assert not [s for s in steps if s.figures is not None]
    assert after.scores is not None
    assert after.scores != before.scores
    assert after.scores.recall_by_class["red"] is None


def test_log_has_the_last_validation_and_all_crops(data: Path) -> None:
    """The scores at the end are in the log as well, and the mixes add up to every crop, also of an unfinished epoch."""
    validation = {"val_images": data / "val_images", "val_labels": data / "val_labels"}
    result, _ = run(settings_for(data, steps=3, **validation))
    log = read_log(data / "out")
    assert [line["miou"] for line in log if line.get("weights") == "averaged"] == [result.scores and result.scores.miou]
    assert sum(line["mix"]["fine"]["crops"] for line in log if "mix" in line) == 6  # one epoch and a half


def test_dry_run_refuses_what_the_run_would(data: Path) -> None:
    """A folder with a run of other settings is refused by the dry run too."""
    run(settings_for(data, steps=1))
    with pytest.raises(ForeignSettingsError, match="steps: 1 -> 2"):
        list(dry_run(settings_for(data, steps=2)))


def test_boosted_class_without_places_is_warned_of(data: Path) -> None:
    """A class that may not be drawn from the labels that have it is named before the first step."""
    for path in (data / "fine_labels").rglob("*.png"):
        values = np.array(Image.open(path))
        values[values == 2] = 255
        Image.fromarray(values).save(path)
    auto = {"auto_images": data / "auto_images", "auto_labels": data / "auto_labels"}
    *_, last = steps = list(dry_run(settings_for(data, boost_classes=("green",), **auto)))
    assert last.plan is not None
    assert any("blue: it is not drawn by class" in s.warning for s in steps)
