"""Comparisons from end to end on tiny images, and the counting of label sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.comparison import CompareProgress, CompareSettings, compare
from pipeline.comparison_report import Comparison
from pipeline.label_counts import LabelCounts, count_labels
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from storage.errors import ForeignSettingsError, LabelError, LayoutError, MissingFileError, SettingsError
from storage.schema import ClassSchema
from storage.workspace import Workspace


@pytest.fixture
def run(data: Path, tiny_teacher: Path) -> Path:
    """What a teacher made of the extra images."""
    settings = LabelSettings.checked(
        images=data / "extra",
        teacher=str(tiny_teacher),
        scales=(1.0,),
        threshold=0.4,
        device="cpu",
        out=data / "run",
    )
    with LabelRun(settings) as labelling:
        assert len(list(labelling)) == 2
    return data / "run"


def settings_for(data: Path, **changes: Any) -> CompareSettings:
    """Settings of a comparison of seconds."""
    values: dict[str, Any] = {
        "fine_images": data / "fine",
        "fine_labels": data / "fine_labels",
        "extra_images": data / "extra",
        "set": (f"coarse={data / 'extra_labels'}",),
        "val_images": data / "val",
        "val_labels": data / "val_labels",
        "classes": str(data / "classes.json"),
        "encoder": "resnet10t",
        "steps": 2,
        "crop": (32, 40),
        "batch": 2,
        "scales": (1.0,),
        "seeds": 1,
        "workers": 0,
        "device": "cpu",
        "out": data / "out",
    }
    return CompareSettings.checked(**{**values, **changes})


def finished(settings: CompareSettings) -> tuple[Comparison, list[CompareProgress]]:
    """Compare to the end."""
    steps = list(compare(settings))
    assert steps[-1].comparison is not None
    return steps[-1].comparison, steps


def trained(steps: list[CompareProgress]) -> list[tuple[str, int]]:
    """The students of which steps were taken, in order."""
    names = [(s.name, s.seed) for s in steps if s.training is not None and s.training.figures is not None]
    return list(dict.fromkeys(names))


def test_comparison_trains_every_set_with_every_seed(data: Path, run: Path) -> None:
    """All sets come with the first seed, then with the second; the figures are those of the students' own files."""
    comparison, steps = finished(settings_for(data, set=(f"auto={run}",), seeds=2, seed=5))
    assert trained(steps) == [("fine", 5), ("auto", 5), ("fine", 6), ("auto", 6)]
    assert [s.done for s in steps if s.phase == "training" and s.training and s.training.result] == list(range(4))
    assert (comparison.baseline, comparison.kinds) == ("fine", {"fine": "fine", "auto": "auto"})
    for row in comparison.rows:
        for seed, miou in row.miou.values.items():
            metrics = json.loads((data / f"out/students/{row.name}/seed-{seed}/metrics.json").read_text())
            assert miou in [scores["miou"] for scores in metrics["validation"].values()]
        assert (row.steps, list(row.miou.values)) == (2, [5, 6])
    assert json.loads((data / "out/comparison.json").read_text())["verdict"] == comparison.verdict
    assert "4 of 4 students" in (data / "out/comparison.md").read_text()
    with Image.open(data / "out/comparison.png") as picture:
        assert picture.format == "PNG"
    with (data / "out/students/auto/seed-5/settings.toml").open() as file:
        assert f'auto_labels = "{run}"' in file.read()


def test_a_stopped_comparison_has_a_table_and_goes_on(data: Path, run: Path) -> None:
    """The table holds what is finished; a set may be added, and nothing is trained twice."""
    stopped = compare(settings_for(data))
    next(s for s in stopped if s.name == "coarse" and s.training is not None)
    stopped.close()  # type: ignore[attr-defined] # a generator
    early = json.loads((data / "out/comparison.json").read_text())
    assert (early["finished"], early["students"], [row["name"] for row in early["rows"]]) == (1, 2, ["fine"])
    assert not (data / "out/comparison.png").exists()
    _, steps = finished(settings_for(data))
    assert trained(steps) == [("coarse", 0)]
    comparison, steps = finished(settings_for(data, set=(f"auto={run}", f"coarse={data / 'extra_labels'}")))
    assert trained(steps) == [("auto", 0)]
    assert [row.name for row in comparison.rows] == ["fine", "auto", "coarse"]
    assert comparison.rows[0].miou.mean == early["rows"][0]["miou"]["mean"]


def test_other_recipes_are_refused(data: Path) -> None:
    """A folder holds students of one recipe; another is refused with the difference. More seeds are welcome."""
    first = compare(settings_for(data))
    next(first)
    first.close()  # type: ignore[attr-defined] # a generator
    with pytest.raises(ForeignSettingsError, match="steps: 2 -> 3"):
        next(compare(settings_for(data, steps=3)))
    with pytest.raises(ForeignSettingsError, match="seed: 0 -> 1"):
        next(compare(settings_for(data, seed=1)))
    assert next(compare(settings_for(data, seeds=3, device="auto", workers=1))).phase == "counting"


def test_a_folder_of_something_else_is_left_alone(data: Path) -> None:
    """A folder with other files in it is refused, and nothing is written."""
    (data / "out").mkdir()
    (data / "out/notes.txt").write_text("mine")
    with pytest.raises(ForeignSettingsError, match=r"notes\.txt.*--out"):
        next(compare(settings_for(data)))
    assert [p.name for p in (data / "out").iterdir()] == ["notes.txt"]


def test_one_of_several_launched_processes_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher's processes would all write the same table, so they are told how to start it."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="start it once"):
        next(compare(settings_for(data)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"set": ("coarse",)}, "'coarse' is no label set; expected NAME=DIR"),
        ({"set": ("../up=.",)}, "no label set"),
        ({"set": ("a:fine=.",)}, "no label set"),
        ({"set": ("fine=.",)}, "none 'fine'"),
        ({"set": ("a=.", "A=.")}, "each name must be another"),
        ({"set": ()}, "set: "),
        ({"baseline": "auto"}, "expected one of the sets fine, coarse"),
        ({"seeds": 2, "seed": 2**31 - 1}, "give a lower seed"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(data: Path, changes: dict[str, Any], says: str) -> None:
    """Names become folders and must differ, and the baseline must be one of them."""
    with pytest.raises(SettingsError, match=says):
        settings_for(data, **changes)


def test_kind_of_a_set_is_looked_up_or_said(data: Path) -> None:
    """A RUN is auto and a folder coarse, unless the set says otherwise; gains are against the first coarse set."""
    Workspace(data / "run").prepare()
    Workspace(data / "run").ledger.touch()
    settings = settings_for(data, set=(f"a={data / 'run'}", f"b={data / 'fine'}", f"c:auto={data / 'fine'}"))
    sets = settings.label_sets()
    assert [(s.name, s.kind) for s in sets] == [("fine", "fine"), ("a", "auto"), ("b", "coarse"), ("c", "auto")]
    assert settings.baseline_of(sets) == "b"
    told = settings_for(data, set=(f"a:coarse={data / 'run'}", f"c:auto={data / 'fine'}"))
    assert told.baseline_of(told.label_sets()) == "a"
    only = settings_for(data, set=(f"a={data / 'run'}",))
    assert only.baseline_of(only.label_sets()) == "fine"
    with pytest.raises(MissingFileError, match="labels of the set x"):
        settings_for(data, set=(f"x={data / 'nowhere'}",)).label_sets()


def test_labels_that_fit_no_image_are_known_before_training(data: Path, make_image: Callable[..., object]) -> None:
    """A set without a label for any image stops the comparison before its first student."""
    make_image(data / "strange/other.png", (40, 48))
    steps = compare(settings_for(data, set=(f"x={data / 'strange'}",)))
    with pytest.raises(LayoutError, match="no image of"):
        list(steps)
    assert not (data / "out/students").exists()


def counted(data: Path, labels: Path, schema: ClassSchema, images: str = "extra") -> tuple[LabelCounts, int]:
    """Counts of a label set, and how many labels were read for them."""
    steps = list(count_labels(data / images, labels, "coarse", schema, "folder", None, data / "cache.json"))
    assert steps[-1].counts is not None
    return steps[-1].counts, len(steps) - 1


def test_labels_of_a_folder_are_counted_once(data: Path, schema: ClassSchema) -> None:
    """The labels are read, and not again until one changes or is gone."""
    counts, read = counted(data, data / "fine_labels", schema, "fine")
    values = np.concatenate([np.array(Image.open(p)).ravel() for p in sorted((data / "fine_labels").iterdir())])
    assert counts.by_class == {name: int((values == i).sum()) for i, name in enumerate(schema.names)}
    assert (counts.images, counts.images_without_label, counts.pixels, read) == (3, 0, 3 * 40 * 48, 3)
    assert counts.coverage == pytest.approx((values != 255).mean())
    assert counted(data, data / "fine_labels", schema, "fine") == (counts, 0)
    (data / "fine_labels/0.png").unlink()
    fewer, read = counted(data, data / "fine_labels", schema, "fine")
    assert (fewer.images, fewer.images_without_label, read) == (2, 1, 2)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(data / "fine_labels/1.png")
    with pytest.raises(LabelError, match="value 9"):
        counted(data, data / "fine_labels", schema, "fine")
    (data / "cache.json").write_text("{")
    (data / "fine_labels/1.png").unlink()
    assert counted(data, data / "fine_labels", schema, "fine")[1] == 1


def test_a_runs_ledger_has_the_counts(data: Path, run: Path, schema: ClassSchema) -> None:
    """No label of a RUN is read, and the counts are those of reading it; its leftovers do not count."""
    counts, read = counted(data, run, schema)
    assert read == 0
    (data / "copy").mkdir()
    for path in (run / "labels").iterdir():
        (data / "copy" / path.name).write_bytes(path.read_bytes())
    assert counted(data, data / "copy", schema) == (counts, 2)
    (data / "some").mkdir()
    (data / "extra/0.png").rename(data / "some/0.png")
    assert counted(data, run, schema, images="some")[0].images == 1
    assert counted(data, run, schema, images="some")[0].pixels == 40 * 48


def test_added_set_does_not_cost_the_table(data: Path) -> None:
    """While a set that was added is still trained, the table holds all that was finished before, in the sets' order."""
    finished(settings_for(data, seeds=2))
    more = settings_for(data, seeds=2, set=(f"a={data / 'extra_labels'}", f"coarse={data / 'extra_labels'}"))
    steps = compare(more)
    next(s for s in steps if s.training is not None and s.training.figures is not None)
    steps.close()  # type: ignore[attr-defined] # a generator
    rows = json.loads((data / "out/comparison.json").read_text())["rows"]
    assert [(row["name"], len(row["miou"]["values"])) for row in rows] == [("fine", 2), ("coarse", 2)]
