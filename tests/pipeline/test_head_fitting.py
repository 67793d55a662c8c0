"""Fitting a scale attention to a frozen teacher: it learns where each scale is right, and says so honestly."""

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from PIL import Image

from pipeline import logit_cache
from pipeline.guard import hash_images
from pipeline.head_crops import Crop, fused_at, truth_at
from pipeline.head_data import collect_images, hold_out
from pipeline.head_fitting import HeadFit, HeadFolder
from pipeline.head_judging import judge_fusions
from pipeline.head_settings import FitAttentionSettings
from pipeline.head_training import new_head
from pipeline.logit_cache import FLOOR, KeptImage, LogitCache
from storage.errors import DiskFullError, ForeignSettingsError, LabelError, LayoutError, LeakError, SettingsError
from storage.label_map import LabelMap
from storage.schema import IGNORE, ClassSchema
from teacher.foreign.scale_head import ScaleHead, load_head
from teacher.fusion import ScaledPrediction, size_at_scale
from teacher.late_fusion import joint_logits
from teacher.networks.layers import resize

SIZE = (48, 64)
COUNT = 10
ROAD, POLE, SKY = range(3)
SAYS: dict[float, tuple[tuple[float, ...], ...]] = {
    # by the truth (road, pole, sky), the logits of road, pole and sky
    1.0: ((3, 0, 0), (0, 3, 0), (1, 1, 0)),
    0.5: ((1, 0, 0), (4, 0, 0), (0, 0, 4)),
}


class TwoSided:
    """Sees thin poles at scale 1 only and skies at scale 0.5 only; images say what there is by their red."""

    digest = "ab" * 32
    device = torch.device("cpu")
    name = "two-sided"

    def __init__(self, schema: ClassSchema) -> None:
        self.schema = schema
        self.trained_on: dict[str, str] = {}
        self.asked = 0
        self.sleeps_after: int | None = None
        """It gives so many answers, and then none for as long as anyone waits."""

    def predict(
        self, images: Sequence[npt.NDArray[np.uint8]], scales: Sequence[float], fusion: str
    ) -> tuple[ScaledPrediction, ...]:
        """As `Teacher.predict`, at a stride of 2."""
        assert fusion == "average"
        if self.asked == self.sleeps_after:
            time.sleep(600)
        self.asked += 1
        said = []
        for scale in sorted(scales, reverse=True):
            size = size_at_scale(images[0].shape[:2], scale)  # type: ignore[arg-type] # of two
            table = torch.tensor(SAYS[scale], dtype=torch.float32)
            truth = torch.from_numpy(np.stack([image[..., 0] // 80 for image in images])).long()
            logits = resize(table[truth].permute(0, 3, 1, 2), (size[0] // 2, size[1] // 2))
            said.append(ScaledPrediction(logits.contiguous(), None, size))
        return tuple(said)


@pytest.fixture
def settings(tmp_path: Path) -> FitAttentionSettings:
    """Scenes of sky above road with a pole, and their labels; enough steps to learn them."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        truth = np.full(SIZE, ROAD, np.uint8)
        truth[: rng.integers(12, 30)] = SKY
        truth[30:46, (left := rng.integers(4, 52)) : left + 6] = POLE
        image = np.stack([truth * 80 + 10, rng.integers(0, 255, SIZE), truth], axis=-1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
        truth[:, :2] = IGNORE
        Image.fromarray(truth).save(tmp_path / f"labels/{number}.png")
    return FitAttentionSettings(
        teacher="two-sided",
        images=tmp_path / "images",
        labels=tmp_path / "labels",
        scales=(0.5, 1.0),
        device="cpu",
        steps=30,
        batch=2,
        crop=48,
        channels=8,
        out=tmp_path / "out",
    )


def fit(settings: FitAttentionSettings, teacher: TwoSided) -> HeadFit:
    """Open a fit of the teacher above and do it all."""
    run = HeadFit(settings, teacher, collect_images(settings, teacher), b"[teacher]\n", finished=False)  # type: ignore[arg-type]
    list(run)
    return run


def test_the_head_learns_where_each_scale_is_right(settings: FitAttentionSettings, schema: ClassSchema) -> None:
    """A teacher that is right about large things at one scale and about thin ones at the other becomes right."""
    run = fit(settings, TwoSided(schema))
    found = run.result()
    miou = {name: one["miou"] for name, one in found["fusions"].items()}
    assert miou["attention"] > max(miou["single"], miou["average"]) + 0.1
    head = load_head(run.folder.head)
    assert (head.teacher_digest, head.digest, head.record.scales) == (TwoSided.digest, found["head"], (0.5, 1.0))  # type: ignore[union-attr]
    assert head.trained_on == dict(zip(hash_images(run.data.training), (s.key for s in run.data.training), strict=True))
    assert not set(found["judged_on"]) & set(head.trained_on.values())
    assert not run.folder.logits.exists()


def test_a_killed_fit_is_finished_by_the_same_call(settings: FitAttentionSettings, schema: ClassSchema) -> None:
    """Kill -9 while images are predicted: what was predicted is not predicted again, and the files are the same."""
    few = settings.model_copy(update={"steps": 3})
    whole = fit(few.model_copy(update={"out": settings.out.with_name("whole")}), TwoSided(schema))
    teacher = TwoSided(schema)
    teacher.sleeps_after = 4
    process = multiprocessing.get_context("fork").Process(target=fit, args=(few, teacher))
    process.start()
    logits = HeadFolder(settings.out).logits
    while len(list(logits.glob("0*.safetensors"))) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    done = len(list(logits.glob("0*.safetensors")))
    assert 3 <= done < COUNT
    (logits / "000000.safetensors").write_bytes(b"torn")
    (logits / ".half.partial").write_bytes(b"half")
    teacher = TwoSided(schema)
    run = fit(few, teacher)
    assert teacher.asked == COUNT - done + 1
    for name in ("attention.safetensors", "teacher.toml", "fit.json"):
        assert (run.folder.root / name).read_bytes() == (whole.folder.root / name).read_bytes()
    shown = sorted(path.name for path in settings.out.iterdir() if not path.name.startswith("."))
    assert shown == ["attention.safetensors", "fit.json", "settings.toml", "teacher.toml"]


def test_logits_that_are_kept_serve_again(settings: FitAttentionSettings, schema: ClassSchema) -> None:
    """With the report gone the head is trained again, from the logits that are there, and is the same."""
    teacher, few = TwoSided(schema), settings.model_copy(update={"steps": 2, "keep_logits": True})
    run = fit(few, teacher)
    head = run.folder.head.read_bytes()
    for path in (run.folder.report, run.folder.head):
        path.unlink()
    fit(few, teacher)
    assert teacher.asked == COUNT
    assert run.folder.head.read_bytes() == head


def test_nothing_of_others_is_written_over(settings: FitAttentionSettings, schema: ClassSchema) -> None:
    """A folder with a description, or with anything else that no fit has left there, is not taken."""
    settings.out.mkdir()
    (settings.out / "teacher.toml").write_text("mine")
    with pytest.raises(ForeignSettingsError, match=r"teacher\.toml"):
        fit(settings, TwoSided(schema))
    assert (settings.out / "teacher.toml").read_text() == "mine"


@pytest.mark.parametrize("change", [{"scales": (1.0, 2.0)}, {"labels": "other"}])
def test_logits_of_something_else_are_refused(
    settings: FitAttentionSettings, schema: ClassSchema, tmp_path: Path, change: dict[str, object]
) -> None:
    """Logits at other scales, or with other truths, are not taken for those that were asked for."""
    teacher = TwoSided(schema)
    run = HeadFit(settings, teacher, collect_images(settings, teacher), b"", finished=False)  # type: ignore[arg-type]
    next(iter(run))
    if change.get("labels"):
        (tmp_path / "other").mkdir()
        for path in settings.labels.iterdir():
            Image.open(path).save(tmp_path / "other" / path.name, compress_level=0)
        change = {"labels": tmp_path / "other"}
    other = settings.model_copy(update=change)
    run = HeadFit(other, teacher, collect_images(other, teacher), b"", finished=False)  # type: ignore[arg-type]
    with pytest.raises(ForeignSettingsError, match="choose another --out"):
        next(iter(run))


def test_what_has_no_room_is_not_begun(
    settings: FitAttentionSettings, schema: ClassSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first image it is known what all of them take; with less room the work stops, and says how much."""
    monkeypatch.setattr(logit_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    teacher = TwoSided(schema)
    with pytest.raises(DiskFullError, match="--max-images"):
        fit(settings, teacher)
    assert teacher.asked == 1


def test_what_teaches_nothing_is_refused(settings: FitAttentionSettings, schema: ClassSchema, tmp_path: Path) -> None:
    """One image, one scale, half a validation set, images to judge on that are learned from: each has its reason."""
    teacher = TwoSided(schema)
    values = settings.model_dump()
    with pytest.raises(SettingsError, match="two or more"):
        FitAttentionSettings.checked(**values | {"scales": (1.0,)})
    with pytest.raises(SettingsError, match="go together"):
        FitAttentionSettings.checked(**values | {"val_images": tmp_path})
    with pytest.raises(LeakError, match="this head"):
        collect_images(
            settings.model_copy(update={"val_images": settings.images, "val_labels": settings.labels}), teacher
        )  # type: ignore[arg-type]
    (tmp_path / "images/0.png").write_bytes(b"no image")
    with pytest.raises(LabelError, match=r"0\.png"):
        fit(settings, teacher)
    for number in range(1, COUNT):
        (tmp_path / f"labels/{number}.png").unlink()
    with pytest.raises(LayoutError, match="only one image"):
        collect_images(settings, teacher)  # type: ignore[arg-type]


def test_images_that_the_teacher_knows_are_told(settings: FitAttentionSettings, schema: ClassSchema) -> None:
    """To learn from them is worth a warning; to be judged on them has to be allowed, where they were named."""
    teacher = TwoSided(schema)
    data = collect_images(settings, teacher)  # type: ignore[arg-type]
    teacher.trained_on = dict.fromkeys(hash_images(data.samples), "known")
    assert "surer" in collect_images(settings, teacher).warnings[0]  # type: ignore[arg-type]
    taken = collect_images(settings.model_copy(update={"max_images": 4}), teacher)  # type: ignore[arg-type]
    assert (len(taken.training), len(taken.validation)) == (3, 1)
    other = settings.out.with_name("val")
    other.mkdir()
    for sample in data.validation:
        sample.image.rename(other / sample.image.name)
    named = settings.model_copy(update={"val_images": other, "val_labels": settings.labels})
    with pytest.raises(LeakError, match="this teacher"):
        collect_images(named, teacher)  # type: ignore[arg-type]
    allowed = collect_images(named.model_copy(update={"allow_training_images": True}), teacher)  # type: ignore[arg-type]
    assert len(allowed.validation) == len(data.validation)


@settings_of_hypothesis(max_examples=30, deadline=None)
@given(st.integers(2, 200), st.integers(0, 9))
def test_a_fifth_is_held_out(count: int, seed: int) -> None:
    """Rounded up, and never all; so something is left to learn from."""
    found = hold_out(count, np.random.default_rng(seed))
    assert len(found) == -(-count // 5)
    assert found <= set(range(count))


@pytest.fixture
def kept(tmp_path: Path) -> KeptImage:
    """Smooth random logits of three classes at scales 1 and 0.5, and a truth."""
    torch.manual_seed(0)
    view = [
        ScaledPrediction(
            4 * resize(torch.randn(1, 3, 4, 5), (SIZE[0] // n, SIZE[1] // n)), None, size_at_scale(SIZE, s)
        )
        for n, s in ((2, 1.0), (4, 0.5))
    ]
    image = LogitCache.open(tmp_path / "logits", {}).image(0)
    truth = np.random.default_rng(0).choice(np.array([0, 1, 2, IGNORE], np.uint8), SIZE)
    image.write(view, LabelMap(truth, 3))
    return image


def any_head() -> ScaleHead:
    """A head that says something else at each pixel."""
    head = new_head(3, 5, seed=1)
    torch.nn.init.normal_(head.conv3.weight, std=3, generator=torch.Generator().manual_seed(2))
    return head.requires_grad_(requires_grad=False)


def test_a_crop_is_fused_as_whole_images_are(kept: KeptImage) -> None:
    """What is learned from is what labels are made of, but for the order in which it is enlarged and multiplied."""
    head = any_head()
    view = [ScaledPrediction(kept.logits(n), None, size_at_scale(SIZE, s)) for n, s in enumerate((1.0, 0.5))]
    view[1] = view[1]._replace(attention=head(view[1].logits))
    wanted = joint_logits([view], SIZE)
    found = fused_at(head, kept, 2, Crop.whole(SIZE), torch.device("cpu"))
    assert (found - wanted).abs().mean() < 0.05 * wanted.std()
    crop = Crop(np.arange(9, 40, 4), np.arange(22, 60, 4), mirrored=False)
    part = fused_at(head, kept, 2, crop, torch.device("cpu"))
    assert torch.allclose(part, found[..., crop.rows, :][..., crop.columns], atol=1e-4)


def test_a_mirrored_crop_is_one_of_a_mirrored_image(kept: KeptImage, tmp_path: Path) -> None:
    """The attention is that of the mirrored logits, and comes back in its place."""
    other = KeptImage(tmp_path / "mirrored.safetensors")
    mirrored = [ScaledPrediction(kept.logits(n).flip(-1), None, SIZE) for n in (0, 1)]
    other.write(mirrored, LabelMap(kept.truth().numpy(), 3))
    rows, columns = np.arange(3, 30, 4), np.arange(10, 50, 4)
    device = torch.device("cpu")
    found = fused_at(any_head(), kept, 2, Crop(rows, columns, mirrored=True), device)
    turned = Crop(rows, SIZE[1] - 1 - columns[::-1], mirrored=False)
    assert torch.allclose(found, fused_at(any_head(), other, 2, turned, device).flip(-1), atol=1e-4)


def test_the_truth_of_a_crop_is_that_of_its_pixels(kept: KeptImage) -> None:
    """No pixel's truth is changed, but where the teacher has no label for it, which nothing can be learned from."""
    crop = Crop.draw(SIZE, 40, np.random.default_rng(3))
    wanted = kept.truth().numpy()[crop.rows][:, crop.columns]
    logits = torch.zeros(1, 3, *wanted.shape)
    assert np.array_equal(truth_at(kept, crop, logits)[0].numpy(), wanted)
    logits[:, 1] = -60
    wanted = np.where(wanted == 1, IGNORE, wanted)
    assert np.array_equal(truth_at(kept, crop, logits)[0].numpy(), wanted)


def test_what_cannot_be_is_kept_as_far_below(tmp_path: Path) -> None:
    """Logits of any size, -inf too, are kept as finite numbers, less the pixel's highest."""
    logits = torch.tensor([1e6, 1e6 - 2, -torch.inf]).view(1, 3, 1, 1)
    image = KeptImage(tmp_path / "one.safetensors")
    image.write([ScaledPrediction(logits, None, (4, 4))], LabelMap(np.zeros((4, 4), np.uint8), 3))
    assert image.logits(0).flatten().tolist() == [0, -2, pytest.approx(FLOOR, rel=1e-3)]
    assert (image.classes, image.size(), image.size(0)) == (3, (4, 4), (1, 1))


def test_pixels_of_no_class_are_misses(schema: ClassSchema, tmp_path: Path) -> None:
    """Where a teacher with labels that are no class says one of these, its prediction is none."""
    logits = torch.zeros(1, 4, 8, 8)
    logits[:, 0, :4], logits[:, 3, 4:] = 9, 9
    image = KeptImage(tmp_path / "one.safetensors")
    image.write([ScaledPrediction(logits, None, (8, 8))] * 2, LabelMap(np.zeros((8, 8), np.uint8), 3))
    teacher: Any = TwoSided(schema)
    (found,) = judge_fusions(new_head(4, 4, 0), [image], teacher, (0.5, 1.0))
    assert found["single"].counts[0].tolist() == [32, 0, 0, 32]
    assert found["single"].to_dict(schema)["iou"]["road"] == 0.5
