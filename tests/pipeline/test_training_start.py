"""What a training run starts from: weights of the whole network, in runs and in their plans."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.optimisation import make_optimizer
from pipeline.samples import Sample
from pipeline.training import dry_run, train
from pipeline.training_progress import TrainProgress
from pipeline.training_settings import TrainingRecipe, TrainSettings
from pipeline.training_sizes import check_sizes
from storage.errors import CheckpointError, ForeignSettingsError, MissingFileError, SettingsError
from storage.layouts import LabelFile
from teacher.checkpoint import load_checkpoint
from teacher.networks.registry import build_network, default_spec

MakeSamples = Callable[..., list[Sample]]


@pytest.fixture
def data(tmp_path: Path, make_samples: MakeSamples) -> Path:
    """Two images with labels of two classes, and weights of the network for three classes."""
    make_samples([[[0, 1] * 20] * 32, [[1] * 40] * 32])
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [{"name": "a"}, {"name": "b"}]}))
    torch.manual_seed(5)
    network = build_network(default_spec("deeplabv3plus", 3, "resnet10t"))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "three.pth")
    return tmp_path


def settings_for(data: Path, **changed: Any) -> TrainSettings:
    """A run of one step that changes next to nothing."""
    data_set = {"fine_images": data / "images_fine", "fine_labels": data / "labels_fine", "out": data / "out"}
    recipe = {"classes": str(data / "classes.json"), "encoder": "resnet10t", "crop": (32, 32), "batch": 2, "steps": 1}
    little = {"learning_rate": 1e-12, "ema": 0.0, "workers": 0, "device": "cpu", "start_weights": data / "three.pth"}
    return TrainSettings.checked(**data_set | recipe | little | changed)


def warnings_of(progress: list[TrainProgress]) -> list[str]:
    """What a run warned of."""
    return [p.warning for p in progress if p.warning]


def test_training_starts_from_the_weights_and_says_what_did_not_fit(data: Path) -> None:
    """Run and dry run give the same warning, once; the network has the weights, all but the classifier's."""
    settings = settings_for(data)
    planned = warnings_of(list(dry_run(settings)))
    warned = warnings_of(list(train(settings)))
    assert planned == warned
    assert len(warned) == 1
    assert warned[0].endswith("keep their start values: classifier.weight, classifier.bias")
    given = torch.load(data / "three.pth", weights_only=True)["state_dict"]
    got = load_checkpoint(data / "out/checkpoint.pt").state_dict
    parameters = [n for n, _ in build_network(default_spec("deeplabv3plus", 2, "resnet10t")).named_parameters()]
    for name in parameters:
        same = got[name].shape == given[name].shape and torch.allclose(got[name], given[name], atol=1e-8)
        assert same != name.startswith("classifier"), name


def test_content_of_the_weights_decides_and_not_their_place(data: Path) -> None:
    """A run is its own under another path of the same weights, and foreign with other weights."""
    list(train(settings_for(data)))
    (data / "moved.pth").write_bytes((data / "three.pth").read_bytes())
    last = list(train(settings_for(data, start_weights=data / "moved.pth")))[-1]
    assert last.phase == "finished"
    torch.save(build_network(default_spec("deeplabv3plus", 2, "resnet10t")).state_dict(), data / "other.pth")
    with pytest.raises(ForeignSettingsError, match="start_weights: "):
        list(train(settings_for(data, start_weights=data / "other.pth")))


@pytest.mark.parametrize("work", [train, dry_run])
def test_weights_that_cannot_be_used_are_refused_before_the_first_step(data: Path, work: Callable[..., Any]) -> None:
    """Weights of another encoder, and none at all, are errors of the run and of its plan."""
    torch.save(build_network(default_spec("deeplabv3plus", 2, "resnet18")).state_dict(), data / "other.pth")
    with pytest.raises(CheckpointError, match="is not for this network"):
        list(work(settings_for(data, start_weights=data / "other.pth")))
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        list(work(settings_for(data, start_weights=data / "nowhere.pth")))
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        list(work(settings_for(data, start_weights=None, encoder_weights=data / "nowhere.pth")))


STRICT = {"encoder": "dla34", "output_stride": 32, "crop": (64, 64), "attention": "single", "start_weights": None}
"""An encoder that takes multiples of 32 only."""


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"encoder": "coatnet_pico_rw_224", "crop": (224, 224)}, "'coatnet_pico_rw_224' .* is made for another size"),
        ({"crop": (40, 40)}, r"--crop: encoder 'dla34' cannot take 40x40 \("),
        ({"crop": (32, 32), "attention": "hierarchical"}, "cannot take 32x32, which is 16x16 at scale 0.5"),
        ({"val": True}, r"--val-images: encoder 'dla34' cannot take 40x32 \("),
        ({"encoder": "vit_tiny_patch16_224"}, "cannot be used by deeplabv3plus"),
    ],
    ids=["one size", "crop", "scale", "validation", "none"],
)
def test_sizes_that_an_encoder_cannot_take_are_refused_before_any_label_is_read(
    data: Path, changed: dict[str, Any], problem: str
) -> None:
    """An encoder of one size, and crops and images to validate on that one is not made for, end a run at its start."""
    if "val" in changed:
        changed = {"val_images": data / "images_fine", "val_labels": data / "labels_fine"}
    with pytest.raises(SettingsError, match=problem):
        list(dry_run(settings_for(data, **STRICT | changed)))
    assert not (data / "out" / "index.npz").exists()


def test_one_image_to_validate_on_of_another_size_is_enough(data: Path, make_image: Callable[..., object]) -> None:
    """However many there are, a validation that an encoder could not end is refused before the first step."""
    make_image(data / "whole.png", (64, 64))
    make_image(data / "odd.png", (64, 65))
    whole, odd = (Sample(key, data / f"{key}.png", LabelFile(Path(), "class"), "fine") for key in ("whole", "odd"))
    settings = settings_for(data, **STRICT)
    assert list(check_sizes(settings, [], [whole] * 200)) == []
    with pytest.raises(SettingsError, match=r"--val-images: .* cannot take 65x64"):
        list(check_sizes(settings, [], [*[whole] * 101, odd, *[whole] * 98]))


def test_images_that_an_encoder_cannot_take_whole_are_warned_of(data: Path) -> None:
    """What will not label whole images such as it learns from may be trained, and says so."""
    (warning,) = warnings_of(list(dry_run(settings_for(data, **STRICT))))
    assert "cannot take 40x32" in warning
    assert "will not label whole images of that size" in warning


def test_two_sources_of_the_encoder_are_refused(data: Path) -> None:
    """Weights of the whole network have an encoder's among them."""
    with pytest.raises(SettingsError, match="both start_weights and encoder_weights"):
        settings_for(data, encoder_weights=data / "three.pth")


def test_encoder_of_given_weights_has_its_share_of_the_rate() -> None:
    """The encoder's share counts where the whole network's weights are given, as where the encoder's are."""
    network = build_network(replace(default_spec("hrnet-ocr", 3), width=4, modules=(1, 1, 1), blocks=1, ocr_channels=8))
    recipe = TrainingRecipe(network="hrnet-ocr", start_weights=Path("weights.pth"), encoder_rate=0.25)
    shares = {
        id(parameter): group["share"]
        for group in make_optimizer(network, recipe).param_groups
        for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        assert shares[id(parameter)] == (0.25 if name.startswith("backbone.") else 1.0)
