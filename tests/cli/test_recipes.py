"""The settings that come with autocoarse: each is what the reference trains with, and passes a dry run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import pipeline.sample_index
from cli.main import main
from cli.options import recipe_names
from cli.train import train
from pipeline.training_settings import TrainSettings
from storage.schema import load_schema
from teacher.checkpoint import save_checkpoint
from teacher.networks.registry import build_network, default_spec

MakeImage = Callable[..., object]
FINE, EXTRA = 6, 4
"""Images with fine and with automatic labels."""
SIZE = (224, 64)
"""(height, width) of all images: the border of cityscapes-auto leaves rows 15..39 and columns 14..45."""
BOOSTED = (
    *("wall", "fence", "traffic light", "traffic sign", "terrain", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def read_json(*arguments: str | Path) -> dict[str, Any]:
    """Run a command that succeeds, and read its JSON."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def write_label(path: Path, values: Sequence[int], seed: int, palette: Sequence[int] = ()) -> None:
    """A label of these values in blocks of eight pixels."""
    blocks = np.random.default_rng(seed).choice(np.array(values, np.uint8), (SIZE[0] // 8, SIZE[1] // 8))
    label = Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))
    if palette:
        label.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    label.save(path)


@pytest.fixture
def cityscapes(tmp_path: Path, make_image: MakeImage) -> Path:
    """A tree as Cityscapes has it: fine labels of train and val, coarse ones of train_extra, with files beside them."""
    source_ids = [info.source_ids[0] for info in load_schema("cityscapes").classes]
    for split, city, kind, count in (
        *(("train", "aachen", "gtFine", FINE), ("val", "lindau", "gtFine", 2)),
        ("train_extra", "augsburg", "gtCoarse", EXTRA),
    ):
        for number in range(count):
            name = f"{split}/{city}/{city}_000000_{number:06d}"
            make_image(tmp_path / f"leftImg8bit/{name}_leftImg8bit.png", SIZE, seed=len(name) * 100 + number)
            write_label(tmp_path / f"{kind}/{name}_{kind}_labelIds.png", [0, 3, *source_ids], number)
            make_image(tmp_path / f"{kind}/{name}_{kind}_color.png", SIZE)
    return tmp_path


@pytest.fixture
def auto_run(cityscapes: Path) -> Path:
    """The RUN that the recipe's own [label] makes of train_extra, with a small teacher of random weights."""
    schema = load_schema("cityscapes")
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050")
    torch.manual_seed(3)
    network = build_network(spec)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("classifier"):
                parameter.mul_(40)  # sure of some pixels and not of others
    save_checkpoint(cityscapes / "teacher.pt", network, spec, schema, {})
    images = cityscapes / "leftImg8bit/train_extra"
    arguments = ("--teacher", cityscapes / "teacher.pt", "--images", images, "--out", cityscapes / "auto")
    labelled = read_json("label", "--settings", "cityscapes-auto", *arguments)
    assert labelled["labelled"] == EXTRA
    assert 0 < labelled["ignore_fraction"] < 1
    return cityscapes / "auto"


@pytest.fixture
def labels_read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The label files that the index reads, in the order in which they are read."""
    paths: list[Path] = []
    read = pipeline.sample_index.read_label_png

    def counted(path: Path, *arguments: Any) -> object:
        paths.append(path)
        return read(path, *arguments)

    monkeypatch.setattr("pipeline.sample_index.read_label_png", counted)
    return paths


def training(root: Path, recipe: str, *more: str | Path) -> list[str | Path]:
    """A training by a recipe on the fine labels of Cityscapes."""
    return [
        *("train", "--settings", recipe, "--fine-images", root / "leftImg8bit/train"),
        *("--fine-labels", root / "gtFine/train", "--out", root / "out", *more),
    ]


def settings_of(recipe: str, folder: Path) -> TrainSettings:
    """The settings that a recipe gives, before anything is read."""
    arguments = ["--settings", recipe, "--fine-images", folder, "--fine-labels", folder, "--out", folder]
    options = train.make_context("train", [str(a) for a in arguments], parent=click.Context(main)).params
    del options["as_json"], options["dry_run"], options["resume"]
    return TrainSettings.checked(**options)


@pytest.mark.parametrize(
    ("recipe", "processes", "crops", "crop", "rate", "power", "epochs", "loss", "scale_loss", "images", "steps"),
    [
        ("cityscapes-fine", 8, 8, (1024, 2048), 5e-3, 2, 175, "rmi", 0.05, 2975, 65078),
        ("cityscapes-auto", 16, 16, (1024, 2048), 1e-2, 2, 175, "rmi", 0.05, 2975, 32539),
        ("mapillary", 8, 16, (1024, 1024), 5e-3, 1, 200, "rmi", 0.0, 18000, 225000),
        ("cityscapes-deeplab", 8, 8, (800, 800), 5e-3, 2, 175, "ce", 0.0, 2975, 65078),
    ],
)
def test_figures_are_the_references(  # one argument a column of the reference's table
    tmp_path: Path,
    recipe: str,
    processes: int,
    crops: int,
    crop: tuple[int, int],
    rate: float,
    power: float,
    epochs: float,
    loss: str,
    scale_loss: float,
    images: int,
    steps: int,
) -> None:
    """Devices, crops, rate, length and losses are those that the reference publishes, on its data sets' sizes."""
    got = settings_of(recipe, tmp_path)
    assert (got.world, got.crops_a_step, got.crop, got.learning_rate) == (processes, crops, crop, rate)
    assert (got.power, got.epochs, got.loss, got.scale_loss) == (power, epochs, loss, scale_loss)
    assert got.total_steps(images) == steps
    assert (got.optimizer, got.weight_decay, got.auxiliary_loss, got.class_uniform) == ("sgd", 1e-4, 0.4, 0.5)
    assert (got.encoder_rate, got.warm_up, got.max_gradient_norm, got.ema) == (1, 0, 0, 0)
    assert (got.long_edge, got.blur) == ((2177, 1) if recipe == "mapillary" else (None, 0))
    assert got.boost_classes == (BOOSTED if recipe == "cityscapes-auto" else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "steps", "crops", "parameters"),
    [("cityscapes-fine", 131, 8, 72_143_430), ("cityscapes-deeplab", 131, 8, 110_921_827)],
)
def test_fine_recipes_pass_a_dry_run(
    cityscapes: Path, labels_read: list[Path], recipe: str, steps: int, crops: int, parameters: int
) -> None:
    """The plan is for eight devices, which this machine need not have; no label is read twice, val's among them."""
    val = ("--val-images", cityscapes / "leftImg8bit/val", "--val-labels", cityscapes / "gtFine/val")
    plan = read_json(*training(cityscapes, recipe, *val, "--dry-run"))
    assert (plan["steps"], plan["crops_a_step"], plan["processes"]) == (steps, crops, 8)
    assert plan["parameters"] == parameters
    assert plan["memory_bytes"] > 1e9
    assert plan["kinds"]["fine"]["images"] == FINE
    assert plan["kinds"]["fine"]["epochs"] == pytest.approx(175, rel=0.01)
    both = [path for split in ("train", "val") for path in (cityscapes / "gtFine" / split).rglob("*_labelIds.png")]
    assert sorted(labels_read) == sorted(both)


@pytest.mark.slow
def test_auto_recipe_labels_merges_and_passes_a_dry_run(
    cityscapes: Path, auto_run: Path, labels_read: list[Path]
) -> None:
    """One recipe serves three commands, and the labels of each are found by the next: 16 crops in 16 processes."""
    coarse = ("--coarse", cityscapes / "gtCoarse/train_extra", "--auto", auto_run, "--out", cityscapes / "merged")
    merged = read_json("merge", "--settings", "cityscapes-auto", *coarse)
    assert (merged["merged"], merged["coarse_only"], merged["auto_only"], merged["policy"]) == (EXTRA, 0, 0, "auto")
    kept = {name for name, counts in merged["classes"].items() if counts["kept"] == counts["human"] > 0}
    assert kept >= {"truck", "bus", "train"}
    assert 0 < merged["filled"] <= EXTRA * 25 * 32  # the border leaves no more of the teacher's
    auto = ("--auto-images", cityscapes / "leftImg8bit/train_extra", "--auto-labels", cityscapes / "merged")
    result = invoke(*training(cityscapes, "cityscapes-auto", *auto, "--dry-run", "--json"))
    assert result.exit_code == 0, result.stderr
    assert "66 steps of 16 crops in 16 processes" in result.stderr
    assert "have no auto label" not in result.stderr
    plan = json.loads(result.stdout)
    assert (plan["steps"], plan["crops_a_step"], plan["processes"]) == (round(175 * FINE / 16), 16, 16)
    fine, other = plan["kinds"]["fine"], plan["kinds"]["auto"]
    assert (fine["images"], other["images"]) == (FINE, EXTRA)
    assert fine["crops"] + other["crops"] == pytest.approx(66 * 16, abs=1)
    assert fine["crops"] > 66 * 8  # those that are not drawn by class are all fine
    assert other["labelled_pixels"] == merged["kept"] + merged["filled"]
    assert len(set(labels_read)) == len(labels_read) == FINE + EXTRA


@pytest.mark.slow
def test_mapillary_recipe_passes_a_dry_run(tmp_path: Path, make_image: MakeImage, labels_read: list[Path]) -> None:
    """Palette labels with 65 for unlabelled are read as they come; the network has 65 classes."""
    colours = load_schema("mapillary").palette[:66].ravel().tolist()
    for number in range(FINE):
        make_image(tmp_path / f"images/{number}.jpg", SIZE, number)
        write_label(tmp_path / f"labels/{number}.png", range(66), number, colours)
    data = ("--fine-images", tmp_path / "images", "--fine-labels", tmp_path / "labels", "--out", tmp_path / "out")
    plan = read_json("train", "--settings", "mapillary", *data, "--dry-run")
    assert (plan["steps"], plan["crops_a_step"], plan["processes"]) == (200 * FINE // 16, 16, 8)
    assert plan["network"] == "hrnet-ocr"
    assert 0 < plan["kinds"]["fine"]["labelled_pixels"] < FINE * SIZE[0] * SIZE[1]
    assert len(labels_read) == FINE


def test_labels_are_read_once_by_the_dry_run_and_not_by_the_run(
    cityscapes: Path, auto_run: Path, labels_read: list[Path]
) -> None:
    """A second dry run and the run itself find the index of the first, and open no label for it."""
    auto = ("--auto-images", cityscapes / "leftImg8bit/train_extra", "--auto-labels", auto_run)
    small = ("--encoder", "resnet10t", "--crop", "64x64", "--epochs", "1", "--device", "cpu", "--workers", "0")
    command = training(cityscapes, "cityscapes-deeplab", *auto, *small)
    first = read_json(*command, "--dry-run")
    assert (first["crops_a_step"], first["device"]) == (8, "cpu")
    assert len(set(labels_read)) == len(labels_read) == FINE + EXTRA
    assert sorted(p.name for p in labels_read if p.is_relative_to(auto_run)) == [
        f"augsburg_000000_{number:06d}_leftImg8bit.png" for number in range(EXTRA)
    ]
    labels_read.clear()
    second = read_json(*command, "--dry-run")
    assert second["kinds"] == first["kinds"]
    assert read_json(*command, "--devices", "1", "--batch", "3")["steps"] == FINE // 3
    assert not labels_read


def test_recipes_are_named_in_the_help_and_in_the_error() -> None:
    """Whoever mistypes a name sees what there is, with exit code 2."""
    assert {"cityscapes-auto", "cityscapes-deeplab", "cityscapes-fine", "mapillary"} <= set(recipe_names())
    page = "".join(invoke("train", "--help").stdout.split())
    assert all(name in page for name in recipe_names())
    result = invoke("train", "--settings", "cityscape-auto")
    assert result.exit_code == 2
    assert "'cityscape-auto' is neither a TOML file nor one of the recipes cityscapes-auto, " in result.stderr


def test_file_of_a_recipes_name_wins_and_a_folder_does_not(
    cityscapes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user's own file comes first; a run's folder that is called like its recipe does not hide it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cityscapes-fine").mkdir()
    assert settings_of("cityscapes-fine", cityscapes).learning_rate == 5e-3
    (tmp_path / "mapillary").write_text('[train]\nclasses = "camvid"\n')
    assert settings_of("mapillary", cityscapes).classes == "camvid"
