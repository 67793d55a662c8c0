"""Every kind of network, and every way of training its attention: trained, kept, loaded again, and labelling."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from pipeline.training import train
from pipeline.training_progress import TrainResult
from pipeline.training_settings import TrainSettings
from pipeline.verification import Verification
from storage.errors import SettingsError
from storage.label_png import read_provenance
from teacher import load_teacher
from teacher.networks import encoders
from teacher.networks.registry import NetworkSpec
from teacher.networks.wide_resnet import WideResNet

KINDS: dict[str, dict[str, Any]] = {
    "timm's, stride 8": {"encoder": "mobilenetv3_small_050", "output_stride": 8},
    "wide ResNet": {"encoder": "wide_resnet38", "output_stride": 8},
    "DeeperLab": {"network": "deeperlab", "encoder": "mobilenetv3_small_050", "output_stride": 8},
    "HRNet": {"network": "hrnet-ocr", "encoder": "hrnet_w18"},
}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.OWN_ENCODERS, "wide_resnet38", functools.partial(WideResNet, width=2))


def _train(data: Path, **changes: Any) -> TrainResult:
    values: dict[str, Any] = {
        "fine_images": data / "fine",
        "fine_labels": data / "fine_labels",
        "classes": str(data / "classes.json"),
        "encoder": "mobilenetv3_small_050",
        "steps": 1,
        "crop": (64, 64),
        "batch": 2,
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    *_, last = train(TrainSettings.checked(**values | changes))
    assert last.result is not None
    return last.result


def _label(data: Path, checkpoint: Path, **changes: Any) -> dict[str, object]:
    """Label two images; gives the run's decisive settings."""
    values: dict[str, Any] = {
        "images": data / "extra",
        "teacher": str(checkpoint),
        "scales": (0.5, 1.0),
        "threshold": 0.0,
        "device": "cpu",
        "out": data / "run",
    }
    settings = LabelSettings.checked(**values | changes)
    with LabelRun(settings) as run:
        for entry in run:
            assert entry.status == "done", entry.reason
        assert run.summary.labelled == 2
        return run.decisive


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_trained_kept_loaded_and_labels(data: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A step of training gives a checkpoint that says what it is, loads with the weights it has, and labels images."""
    if kind == "HRNet":  # in its usual depth it would take long
        narrow = NetworkSpec("hrnet-ocr", 3, width=4, modules=(1, 1, 1), blocks=1, ocr_channels=16)
        monkeypatch.setattr("pipeline.training_settings.default_spec", lambda *_, **__: narrow)
    result = _train(data, **KINDS[kind])
    teacher = load_teacher(result.checkpoint)
    assert teacher.predictor.spec == TrainSettings.model_validate(_values(data, KINDS[kind])).spec(3)
    decisive = _label(data, result.checkpoint)
    label = read_provenance(data / "run/labels/0.png")
    assert label["teacher"] == decisive["teacher"] == teacher.digest


def _values(data: Path, changes: dict[str, Any]) -> dict[str, Any]:
    folders = {"fine_images": data / "fine", "fine_labels": data / "fine_labels", "out": data / "out"}
    return {**folders, "classes": str(data / "classes.json"), **changes}


def test_what_a_network_is_trained_for_is_how_it_is_fused(data: Path) -> None:
    """Without attention a network has no head for it, and labels by the mean, or at scale 1, as it was trained for."""
    average = _train(data, attention="average", out=data / "average")
    single = _train(data, attention="single", out=data / "single")
    weights = torch.load(average.checkpoint, weights_only=True)["state_dict"]
    assert not any(name.startswith("scale_attn.") for name in weights)
    assert _label(data, average.checkpoint, out=data / "a")["scales"] == [0.5, 1.0]
    assert _label(data, single.checkpoint, out=data / "s")["scales"] == [1.0]
    with pytest.raises(SettingsError, match="has no scale attention"):
        load_teacher(single.checkpoint).label([_noise()], (0.5, 1.0), 0.0, fusion="hierarchical")


def test_an_explicit_attention_is_trained_and_labels_at_its_own_scales(data: Path) -> None:
    """A network with an explicit attention is fused by it, whatever the scales; another fusion is refused."""
    result = _train(data, attention="explicit", attention_scales=(0.5, 1.0))
    teacher = load_teacher(result.checkpoint)
    assert teacher.predictor.spec.attention_scales == (0.5, 1.0)
    assert "fusion" not in _label(data, result.checkpoint, scales=(0.5, 1.0, 2.0))
    image = _noise()
    labels = [teacher.label([image], scales, 0.0)[0] for scales in ((1.0,), (0.5, 1.0, 2.0))]
    assert (labels[0] == labels[1]).all()
    with pytest.raises(SettingsError, match="trained for explicit: leave the fusion out"):
        teacher.label([image], (1.0,), 0.0, fusion="average")


def test_maps_of_an_explicit_attention_are_those_of_its_own_scales(data: Path) -> None:
    """Each scale of the attention has a map, whatever scales are asked for; they are its head's, and sum to 255."""
    result = _train(data, attention="explicit", attention_scales=(1.0, 2.0, 0.5))
    _label(data, result.checkpoint, save_attention=True)
    maps = {scale: np.asarray(Image.open(data / f"run/attention/{scale}/0.png"), int) for scale in ("0.5", "1", "2")}
    assert sorted(path.name for path in (data / "run/attention").iterdir()) == sorted(maps)
    assert (sum(maps.values()) == 255).all()
    teacher, given = load_teacher(result.checkpoint), []
    head = dict(teacher.predictor._execution._runner.module.named_modules())["scale_attn"]
    head.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    teacher.label([np.array(Image.open(data / "extra/0.png"))], (1.0,), 0.0)
    expected = 255 * torch.nn.functional.interpolate(given[0], (40, 48), mode="bilinear", align_corners=False)[0]
    for number, scale in enumerate(teacher.predictor.attention_scales):
        assert np.abs(maps[f"{scale:g}"] - expected[number].numpy()).max() <= 1.01
        assert maps[f"{scale:g}"].std() > 0


def test_no_explicit_attention_is_asked_of_others(tiny_teacher: Path) -> None:
    """A network that has no explicit attention cannot be fused by one."""
    with pytest.raises(SettingsError, match="choose hierarchical, average or single"):
        load_teacher(tiny_teacher).label([_noise()], (1.0,), 0.0, fusion="explicit")


def _noise() -> Any:
    return torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8).numpy()


def test_fusion_decides_labels_only_where_it_is_another(data: Path, tiny_teacher: Path) -> None:
    """The digest knows of a fusion that is not the teacher's own, and a single scale is one however it is fused."""
    own = _label(data, tiny_teacher, out=data / "own")
    assert "fusion" not in own
    assert _label(data, tiny_teacher, fusion="hierarchical", out=data / "same") == own
    average = _label(data, tiny_teacher, fusion="average", out=data / "average")
    assert average == own | {"fusion": "average"}
    single = _label(data, tiny_teacher, fusion="single", out=data / "single")
    assert single == _label(data, tiny_teacher, scales=(1.0,), out=data / "one") == own | {"scales": [1.0]}
    labels = [(data / name / "labels/0.png").read_bytes() for name in ("own", "average")]
    assert labels[0] != labels[1]


def test_the_labels_of_an_average_are_those_of_its_logits(tiny_teacher: Path) -> None:
    """Averaged labels, decided in part before anything is fused, are the top classes of the averaged logits."""
    teacher, image = load_teacher(tiny_teacher), _noise()
    for flip in (False, True):
        label = teacher.label([image], (0.5, 1.0, 2.0), 0.0, flip=flip, fusion="average")[0]
        logits = teacher.logits(image, (0.5, 1.0, 2.0), flip=flip, fusion="average")
        top = logits.topk(2, dim=0)
        clear = (top.values[0] - top.values[1] > 1e-3).numpy()
        assert clear.mean() > 0.99
        assert (label == top.indices[0].numpy())[clear].all()


def test_maps_of_an_image_that_was_replaced_go_with_its_label(
    data: Path, tiny_teacher: Path, make_image: Callable[..., object]
) -> None:
    """A label that is made anew without maps has none; those of other images stay."""
    _label(data, tiny_teacher, save_attention=True)
    saved = data / "run/attention/1"
    (saved / "other.png").write_bytes((saved / "0.png").read_bytes())
    for number in range(2):
        make_image(data / f"extra/{number}.png", (40, 48), 99 + number)
    _label(data, tiny_teacher)
    assert [path.name for path in saved.iterdir()] == ["other.png"]


def test_attention_maps_are_saved_beside_the_labels(data: Path, tiny_teacher: Path) -> None:
    """Each scale and image has a gray PNG of the label's size; they sum to 255, and labels stay as they are."""
    without = _label(data, tiny_teacher, out=data / "without")
    assert _label(data, tiny_teacher, save_attention=True) == without
    maps = {scale: Image.open(data / f"run/attention/{scale}/0.png") for scale in ("0.5", "1")}
    assert all((each.mode, each.size) == ("L", (48, 40)) for each in maps.values())
    assert (sum(np.asarray(each, int) for each in maps.values()) == 255).all()
    labels = [(data / name / "labels/0.png").read_bytes() for name in ("without", "run")]
    assert labels[0] == labels[1]
    assert not (data / "without/attention").exists()
    with Verification(data / "run") as verification:
        for _ in verification:
            pass
        assert not verification.summary.problems


@pytest.mark.parametrize("changes", [{"scales": (1.0,)}, {"fusion": "average"}, {"fusion": "single"}])
def test_attention_is_saved_only_where_there_is_one(data: Path, tiny_teacher: Path, changes: dict[str, Any]) -> None:
    """Without several scales and an attention between them there is nothing to save, and nothing is begun."""
    with pytest.raises(SettingsError, match="save_attention is for several scales"):
        _label(data, tiny_teacher, save_attention=True, **changes)
    assert not list((data / "run").rglob("*.png"))


def test_no_attention_is_saved_of_several_teachers(data: Path, tiny_teacher: Path) -> None:
    """Members fuse their scales by themselves, and the mean tells of no scale: that is refused, and nothing begun."""
    (data / "both.toml").write_text(f'[ensemble]\nmembers = ["{tiny_teacher}", "{tiny_teacher}"]\n')
    with pytest.raises(SettingsError, match="save_attention is for one teacher"):
        _label(data, data / "both.toml", save_attention=True)
    assert not list((data / "run").rglob("*.png"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"network": "hrnet-ocr", "encoder": "resnet50"}, "choose the trunk's width by one of hrnet_w18"),
        ({"network": "hrnet-ocr", "encoder": None, "output_stride": 8}, "output_stride is that of an encoder"),
        ({"network": "deeperlab", "batch": 1}, "batch is 1, but deeperlab pools"),
        ({"output_stride": 4}, "output_stride: Input should be 8, 16 or 32"),
        ({"attention": "none"}, "attention: Input should be"),
        ({"attention_scales": (0.5, 1.0)}, "only an explicit attention has any"),
        ({"attention": "explicit", "network": "hrnet-ocr", "encoder": None}, "has no explicit attention"),
    ],
)
def test_what_no_network_is_is_refused(data: Path, changes: dict[str, Any], problem: str) -> None:
    """Choices that contradict each other are refused before anything is read."""
    with pytest.raises(SettingsError, match=problem):
        TrainSettings.checked(**_values(data, changes))


def test_a_training_of_before_keeps_its_settings(data: Path) -> None:
    """The later settings leave no trace where they are what was done before, so that older runs go on."""
    before = TrainSettings.checked(**_values(data, {})).decisive()
    assert not {"output_stride", "attention", "attention_scales"} & before.keys()
    after = TrainSettings.checked(**_values(data, {"output_stride": 8, "attention": "single"})).decisive()
    assert after == before | {"output_stride": 8, "attention": "single"}
