"""The demonstration: the whole way from coarse labels to a better student, on generated street scenes.

Nothing in it is scripted: it makes a data set, hands it to the stages of `run` and to `compare`, and reports what they
gave. Scenes stand for photographs here; figures on them say nothing of photographs.
"""

import io
import json
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.claim import claimed_folder
from pipeline.comparison import CompareSettings, compare
from pipeline.evaluation import evaluate_labels
from pipeline.pictures import contact_sheet
from pipeline.report_settings import ReportSettings
from pipeline.reporting import make_report
from pipeline.scenes import SCHEMA, write_scene_set
from pipeline.scores import Scores
from pipeline.settings import Settings
from pipeline.stages import RunProgress, make_labels, make_teacher
from pipeline.stages_settings import RunSettings
from storage.budget import SizeEstimate, estimate_label_bytes, measure_bytes
from storage.image_reader import read_image
from storage.label_png import read_label_png
from storage.layouts import list_labels
from storage.schema import load_schema
from storage.workspace import write_atomically

_SHOWN = 4
"""Rows of the picture."""


class DemoSettings(Settings):
    """What `demo` does. The command line offers `out` and `seed`; the rest is set so that it ends within minutes."""

    out: Path
    seed: int = Field(0, ge=0, lt=2**31)
    size: tuple[int, int] = (192, 256)
    """(height, width) of the scenes."""
    scenes: tuple[int, int, int] = (20, 120, 30)
    """With fine labels, with coarse ones, held out."""
    encoder: str = "resnet10t"
    teacher_steps: int = 320
    student_steps: int = 160
    batch: int = 8
    crop: tuple[int, int] = (96, 96)
    class_uniform: float = 0.75
    learning_rate: float = 4e-3
    precise_bn: int = 40
    scales: tuple[float, ...] = (0.5, 1.0)
    threshold: float = 0.5
    device: str = "auto"

    def decisive(self) -> dict[str, Any]:
        """The settings that must be as they were when a demonstration is taken up again."""
        return self.model_dump(mode="json", exclude={"out", "device"})

    def images(self, split: str) -> Path:
        """The images of a split."""
        return self.out / "scenes" / "images" / split

    def fine(self, split: str) -> Path:
        """Their true labels."""
        return self.out / "scenes" / "labels_fine" / split

    @property
    def coarse(self) -> Path:
        """The coarse labels of the extra images."""
        return self.out / "scenes" / "labels_coarse" / "train_extra"

    def stages(self) -> RunSettings:
        """The settings of the stages up to the teacher's labels."""
        return RunSettings.checked(
            **self._data(),
            out=self.out,
            teacher={**self._recipe(), "steps": self.teacher_steps},
            label={"scales": self.scales, "threshold": self.threshold, "keep": "confidence"},
            evaluate={"scales": self.scales},
        )

    def comparison(self, auto: Path) -> CompareSettings:
        """The settings of the students' comparison."""
        return CompareSettings.checked(
            **self._data(),
            **self._recipe(),
            set=(f"fine+coarse:coarse={self.coarse}", f"fine+auto:auto={auto}"),
            seeds=1,
            steps=self.student_steps,
            scales=self.scales,
            out=self.out / "comparison",
        )

    def report(self) -> ReportSettings:
        """The settings of the report of the teacher's labels."""
        return ReportSettings.checked(
            run=self.stages().folder("label"),
            truth=self.fine("train_extra"),
            coarse=self.coarse,
            out=self.out / "report",
        )

    def _data(self) -> dict[str, Any]:
        return {
            "fine_images": self.images("train"),
            "fine_labels": self.fine("train"),
            "extra_images": self.images("train_extra"),
            "val_images": self.images("val"),
            "val_labels": self.fine("val"),
            "classes": SCHEMA,
            "device": self.device,
        }

    def _recipe(self) -> dict[str, Any]:
        return self.model_dump(
            include={"encoder", "batch", "crop", "class_uniform", "learning_rate", "precise_bn", "seed"}
        )


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration gave; every figure was measured."""

    auto: Scores
    """The auto labels against the known truth."""
    coarse: Scores
    """The coarse labels against the known truth."""
    labels: int
    label_bytes: int
    soft: SizeEstimate
    """What soft labels of the same images would take."""
    students: dict[str, Scores]
    """By label set, on held-out scenes; all trained with the same steps, seed and network."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """How far the demonstration is."""

    step: RunProgress
    """Of the stage that it is in; stages of its own, such as the generation of scenes, among them."""
    result: DemoResult | None = None
    """With the last one."""


def run_demo(settings: DemoSettings) -> Iterator[DemoProgress]:
    """Generate scenes, train a teacher, label, check the bytes, train three students, evaluate, report.

    Writes below `settings.out`: settings.toml, scenes/, teacher/, auto/ (a run of `label`), comparison/ (what `compare`
    makes), report/ (of the labels), summary.json, labels.png. A run that was stopped goes on where it was.

    Args:
        settings: sizes and lengths.

    Yields:
        Progress of each stage; the last has the result.

    Raises:
        ForeignSettingsError: the folder holds a demonstration with other settings, or anything else; it is unchanged.
        WorkspaceError: the folder cannot be written, or another process has it.
        AutocoarseError: as the stages do.
    """
    with claimed_folder(settings.out / "settings.toml", "demo", settings, DemoSettings.decisive):
        started = time.monotonic()
        students: dict[str, Scores] = {}
        for step in _work(settings, students):
            yield DemoProgress(step)
        for made in make_report(settings.report()):
            yield DemoProgress(RunProgress("report", made.done, made.total))
        result = _summarise(settings, students, time.monotonic() - started)
        _write_pictures(settings)
        write_atomically(settings.out / "summary.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
        yield DemoProgress(RunProgress("finished"), result)


def _work(settings: DemoSettings, students: dict[str, Scores]) -> Generator[RunProgress, None, None]:
    """Do everything that takes time; puts the students' scores into `students`."""
    count = sum(settings.scenes)
    for done in write_scene_set(settings.out / "scenes", settings.seed, settings.scenes, settings.size):
        yield RunProgress("generate scenes", done, count, "scenes")
    stages = settings.stages()
    teacher = yield from make_teacher(stages)
    *_, auto = yield from make_labels(stages, teacher.checkpoint)
    for progress in compare(settings.comparison(auto.labels)):
        name = progress.name.replace("+", " + ")
        if progress.phase == "counting":
            yield RunProgress(f"labels of {name}", progress.done, progress.total, "labels")
        elif progress.training is not None:
            yield RunProgress(f"student {name}", training=progress.training)
            if progress.training.result is not None and progress.training.result.scores is not None:
                students[name] = progress.training.result.scores


def _judge(settings: DemoSettings, labels: Path) -> Scores:
    """Judge a label folder of the coarse set against its known truth."""
    *_, last = evaluate_labels(labels, settings.fine("train_extra"), load_schema(SCHEMA))
    return last.scores()


def _summarise(settings: DemoSettings, students: dict[str, Scores], seconds: float) -> DemoResult:
    auto = settings.stages().folder("label")
    measured = measure_bytes(auto)
    return DemoResult(
        auto=_judge(settings, auto),
        coarse=_judge(settings, settings.coarse),
        labels=measured.labels,
        label_bytes=measured.label_bytes,
        soft=estimate_label_bytes([settings.size], measured.labels, len(load_schema(SCHEMA))),
        students=students,
        seconds=seconds,
    )


def _write_pictures(settings: DemoSettings) -> None:
    """Write image | coarse | auto | truth of the first scenes of the coarse set as one picture."""
    schema = load_schema(SCHEMA)
    folders = (settings.coarse, settings.stages().folder("label"), settings.fine("train_extra"))
    labels = [list_labels(folder) for folder in folders]
    rows = []
    for key in sorted(labels[1])[:_SHOWN]:
        values = (read_label_png(found[key].path, schema).values for found in labels)
        rows.append((read_image(settings.images("train_extra") / f"{key}.png"), *values))
    sheet = contact_sheet(rows, ("image", "coarse", "auto", "truth"), schema, zoom=2)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomically(settings.out / "labels.png", content.getvalue())
