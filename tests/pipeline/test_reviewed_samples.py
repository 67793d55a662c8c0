"""Reviewed labels in training and in comparisons: they stand instead of the teacher's, and nothing is lost unsaid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.comparison import CompareSettings
from pipeline.label_counts import LabelCounts, count_labels
from pipeline.reviewed_samples import override
from pipeline.sample_index import SampleIndex, build_index
from pipeline.samples import collect_samples
from pipeline.sampling import CropSampler
from pipeline.training_data import collect, decisive_settings
from pipeline.training_settings import TrainSettings
from storage.errors import LayoutError, MissingFileError, SettingsError
from storage.ledger import Ledger
from storage.schema import ClassSchema
from storage.workspace import Workspace


@pytest.fixture
def reviewed(data: Path, make_run: Callable[..., Path]) -> Path:
    """A reviewed label of extra image 1, which is all road."""
    run = make_run(data / "reviewed", data / "extra", {"1": np.zeros((40, 48))})
    with Ledger(Workspace(run).ledger) as ledger:
        ledger.claim((ledger.settings or {}) | {"kind": "reviewed"})
    return run


def recipe(data: Path, **changes: Any) -> dict[str, Any]:
    """Settings of trainings of seconds."""
    values: dict[str, Any] = {
        "fine_images": data / "fine",
        "fine_labels": data / "fine_labels",
        "classes": str(data / "classes.json"),
        "encoder": "resnet10t",
        "steps": 2,
        "crop": (32, 40),
        "batch": 2,
        "scales": (1.0,),
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    return values | changes


def training(data: Path, **changes: Any) -> TrainSettings:
    """Settings of a training on fine and automatic labels."""
    auto = {"auto_images": data / "extra", "auto_labels": data / "extra_labels"}
    return TrainSettings.checked(**recipe(data, **(auto | changes)))


def test_a_reviewed_label_stands_instead_of_the_automatic_and_the_coarse_one(
    data: Path, reviewed: Path, schema: ClassSchema
) -> None:
    """Every image has one label of those kinds; fine ones are left as they are."""
    coarse = {"coarse_images": data / "extra", "coarse_labels": data / "extra_labels"}
    found = collect(training(data, reviewed_labels=reviewed, **coarse), schema)
    kinds = [(sample.key, sample.kind) for sample in found.samples]
    assert kinds == [("0", "fine"), ("1", "fine"), ("2", "fine"), ("0", "auto"), ("0", "coarse"), ("1", "reviewed")]
    assert found.messages == ("reviewed labels: 1 instead of automatic or coarse ones, 0 of images that had none",)
    only_coarse = collect(
        training(data, reviewed_labels=reviewed, auto_images=None, auto_labels=None, **coarse), schema
    )
    assert [sample.kind for sample in only_coarse.samples][3:] == ["coarse", "reviewed"]


def test_a_reviewed_label_of_an_image_without_another_is_added(data: Path, reviewed: Path, schema: ClassSchema) -> None:
    """An image that the teacher failed on has a label now."""
    (data / "extra_labels/1.png").unlink()
    samples = collect_samples(data / "extra", data / "extra_labels", "auto", partial=True).samples
    found = override(samples, data / "extra", reviewed, "folder", None, schema)
    assert (found.instead, found.added) == (0, 1)
    assert [sample.kind for sample in found.samples] == ["auto", "reviewed"]


def test_a_reviewed_label_without_an_image_and_a_run_that_nobody_reviewed_are_refused(
    data: Path, reviewed: Path, schema: ClassSchema, make_run: Callable[..., Path]
) -> None:
    """Somebody's work that would silently teach nothing is an error, and so are labels that are no one's work."""
    (data / "extra/1.png").rename(data / "extra/other.png")
    (data / "extra_labels/1.png").rename(data / "extra_labels/other.png")
    with pytest.raises(LayoutError, match="no image of"):
        collect(training(data, reviewed_labels=reviewed), schema)
    folder = data / "folder"
    folder.mkdir()
    for name in ("0", "1"):
        Image.fromarray(np.zeros((40, 48), np.uint8)).save(folder / f"{name}.png")
    with pytest.raises(LayoutError, match=r"1 reviewed labels of .* have no image"):
        collect(training(data, reviewed_labels=folder), schema)
    other = make_run(data / "run", data / "extra", {"0": np.zeros((40, 48))})
    with pytest.raises(SettingsError, match="nobody has reviewed"):
        collect(training(data, reviewed_labels=other), schema)
    with pytest.raises(SettingsError, match="without the images"):
        training(data, reviewed_labels=reviewed, auto_images=None, auto_labels=None)


def index_of(settings: TrainSettings, schema: ClassSchema) -> SampleIndex:
    """What a training run reads before its first step."""
    *_, last = build_index(collect(settings, schema).samples, schema, tile=(32, 40), cache=None)
    assert last.index is not None
    return last.index


def test_reviewed_samples_are_drawn_like_fine_ones(data: Path, reviewed: Path, schema: ClassSchema) -> None:
    """They are complete, so they share the fine labels' part of the crops."""
    index = index_of(training(data, reviewed_labels=reviewed), schema)
    sampler = CropSampler(index, schema, class_uniform=0, fine_share=0.5, boost_classes=None, seed=0)
    mix = sampler.expected_mix()
    assert (mix["fine"], mix["reviewed"], mix["auto"]) == pytest.approx((0.375, 0.125, 0.5))


def test_what_was_reviewed_decides_the_weights_and_where_it_lies_does_not(
    data: Path, reviewed: Path, schema: ClassSchema
) -> None:
    """A run with other reviewed labels is another run; one whose folder was moved is the same."""

    def decisive(folder: Path | None) -> dict[str, Any]:
        settings = training(data, reviewed_labels=folder)
        return decisive_settings(settings, schema, index_of(settings, schema))

    without, before = decisive(None), decisive(reviewed)
    assert without != before
    assert decisive(reviewed.rename(data / "moved")) == before


def counted(data: Path, labels: Path, reviewed: Path | None, schema: ClassSchema) -> LabelCounts:
    """Counts of the extra images' labels."""
    cache = data / "counts.json"
    *_, last = count_labels(data / "extra", labels, "auto", schema, "folder", None, cache, reviewed)
    assert last.counts is not None
    return last.counts


def test_counts_of_a_set_are_those_of_the_labels_that_are_trained_on(
    data: Path, reviewed: Path, schema: ClassSchema, make_run: Callable[..., Path]
) -> None:
    """A reviewed label counts instead of the one whose place it takes, from ledgers as from files."""
    values = {name: np.array(Image.open(data / f"extra_labels/{name}.png")) for name in ("0", "1")}
    run = make_run(data / "run", data / "extra", values)
    without, with_reviews = (counted(data, run, other, schema) for other in (None, reviewed))
    assert with_reviews == counted(data, data / "extra_labels", reviewed, schema)
    road = int(np.count_nonzero(values["0"] == 0))
    assert with_reviews.by_class["road"] == road + 40 * 48
    assert with_reviews.by_class["sky"] == int(np.count_nonzero(values["0"] == 2))
    assert (without.images, with_reviews.images, with_reviews.pixels) == (2, 2, 2 * 40 * 48)


def comparison(data: Path, reviewed: tuple[str, ...]) -> CompareSettings:
    """The same automatic labels twice, and reviewed ones by a set's name."""
    more = {"val_images": data / "val", "val_labels": data / "val_labels", "extra_images": data / "extra", "seeds": 1}
    sets = tuple(f"{name}:auto={data / 'extra_labels'}" for name in ("auto", "auto+review"))
    return CompareSettings.checked(**recipe(data, set=sets, reviewed=reviewed, **more))


def test_a_set_is_compared_with_and_without_its_reviewed_labels(data: Path, reviewed: Path) -> None:
    """Reviewed labels go to the students of the set that is named, and to no other."""
    settings = comparison(data, (f"auto+review={reviewed}",))
    fine, auto, with_reviews = settings.label_sets()
    found = [settings.training(one, 0).reviewed_labels for one in (fine, auto, with_reviews)]
    assert found == [None, None, reviewed]


@pytest.mark.parametrize("text", ["auto", "auto=", "fine=x", "nobody=x"])
def test_reviewed_labels_of_no_set_are_refused(data: Path, text: str) -> None:
    """A name that is none of the sets, or no folder, is an error of the settings."""
    with pytest.raises(SettingsError, match="expected NAME=DIR with one of the sets auto"):
        comparison(data, (text,))
    with pytest.raises(MissingFileError, match="reviewed labels"):
        comparison(data, (f"auto={data / 'nowhere'}",)).label_sets()
