"""The demonstration: the whole way from coarse labels to a better student, on generated street scenes.

Nothing in it is scripted: it makes a data set, then calls the same functions as the commands do, and reports what they
gave. Scenes stand for photographs here; figures on them say nothing of photographs.
"""

import io
import json
import time
import tomllib
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.evaluation import Scores, evaluate_labels
from pipeline.labelling import LabelRun
from pipeline.pictures import contact_sheet
from pipeline.scenes import SCHEMA, write_scene_set
from pipeline.settings import LabelSettings, Settings, settings_difference
from pipeline.training import TrainResult, train
from pipeline.training_settings import TrainSettings
from storage.budget import SizeEstimate, estimate_label_bytes, measure_bytes
from storage.errors import ForeignSettingsError
from storage.image_reader import read_image
from storage.label_png import read_label_png
from storage.layouts import list_labels
from storage.schema import load_schema
from storage.workspace import Workspace, write_atomically

STUDENTS = ("fine", "fine + coarse", "fine + auto")
"""The label sets that a student is trained on, each with the same steps, seed and network."""

_SHOWN = 4
"""Rows of the picture."""

_SETTINGS, _TABLE = "settings.toml", "demo"
_UNDECISIVE = {"out", "device"}
"""Settings that may differ when a demonstration is taken up again."""


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
    scales: tuple[float, ...] = (0.5, 1.0)
    threshold: float = 0.5
    device: str = "auto"


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
    """By label set, on held-out scenes."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """How far the demonstration is."""

    stage: str
    done: int
    total: int
    note: str = ""
    unit: str = "images"
    result: DemoResult | None = None
    """With the last one."""


@dataclass(frozen=True, slots=True)
class _Folders:
    root: Path

    def images(self, split: str) -> Path:
        return self.root / "scenes" / "images" / split

    def fine(self, split: str) -> Path:
        return self.root / "scenes" / "labels_fine" / split

    @property
    def coarse(self) -> Path:
        return self.root / "scenes" / "labels_coarse" / "train_extra"

    @property
    def run(self) -> Path:
        return self.root / "auto"

    def training(self, name: str) -> Path:
        return self.root / name.replace(" + ", "_")


def run_demo(settings: DemoSettings) -> Iterator[DemoProgress]:
    """Generate scenes, train a teacher, label, check the bytes, train three students, evaluate.

    Writes below `settings.out`: settings.toml, scenes/, teacher/, auto/ (a run of `label`), students/, summary.json,
    labels.png. A run that was stopped goes on where it was.

    Args:
        settings: sizes and lengths.

    Yields:
        Progress of each stage; the last has the result.

    Raises:
        ForeignSettingsError: the folder holds a demonstration with other settings, or anything else; it is unchanged.
        WorkspaceError: the folder cannot be written, or another process has it.
        AutocoarseError: as the stages do.
    """
    _refuse_strangers(settings.out)
    lock = Workspace(settings.out).lock()
    try:
        _claim(settings)
        yield from _run(settings)
    finally:
        lock.release()


def _stored_settings(out: Path) -> dict[str, Any] | None:
    """The settings of the demonstration that a folder holds; None where it holds none."""
    try:
        stored = tomllib.loads((out / _SETTINGS).read_text("utf-8")).get(_TABLE)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return stored if isinstance(stored, dict) else None


def _refuse_strangers(out: Path) -> None:
    """Never write into a folder that no demonstration made; hidden files, such as a lock, do not count."""
    if out.is_dir() and _stored_settings(out) is None:
        stranger = next((path for path in out.iterdir() if not path.name.startswith(".")), None)
        if stranger is not None:
            raise ForeignSettingsError(
                f"{out} holds {stranger.name}, and no {_SETTINGS} with [{_TABLE}] says that it is a demo's; "
                f"choose a new or an empty folder with --out"
            )


def _claim(settings: DemoSettings) -> None:
    """Write the settings into the folder, unless those of another demonstration are there."""
    stored = _stored_settings(settings.out)
    if stored is not None:
        before = {name: value for name, value in stored.items() if name not in _UNDECISIVE}
        if difference := settings_difference(before, settings.model_dump(mode="json", exclude=_UNDECISIVE)):
            raise ForeignSettingsError(
                f"{settings.out} holds a demo with other settings:\n{difference}\n"
                f"choose another --out, or repeat the settings that are there"
            )
    settings.write(settings.out / _SETTINGS, _TABLE)


def _run(settings: DemoSettings) -> Iterator[DemoProgress]:
    started = time.monotonic()
    folders = _Folders(settings.out)
    count = sum(settings.scenes)
    for done in write_scene_set(settings.out / "scenes", settings.seed, settings.scenes, settings.size):
        yield DemoProgress("generate scenes", done, count, unit="scenes")
    teacher = yield from _train(settings, folders, "teacher", settings.teacher_steps, {})
    yield from _label(settings, folders, teacher.checkpoint)
    extras: dict[str, dict[str, Path]] = {
        "fine": {},
        "fine + coarse": {"coarse_images": folders.images("train_extra"), "coarse_labels": folders.coarse},
        "fine + auto": {"auto_images": folders.images("train_extra"), "auto_labels": folders.run},
    }
    students = {}
    for name in STUDENTS:
        held_out = {"val_images": folders.images("val"), "val_labels": folders.fine("val")}
        sources = extras[name] | held_out
        student = yield from _train(settings, folders, f"students/{name}", settings.student_steps, sources)
        assert student.scores is not None, "held-out scenes were given"
        students[name] = student.scores
    result = _summarise(settings, folders, students, time.monotonic() - started)
    _write_pictures(settings, folders)
    write_atomically(settings.out / "summary.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    yield DemoProgress("done", 1, 1, result=result)


def _train(
    settings: DemoSettings, folders: _Folders, name: str, steps: int, extra: dict[str, Path]
) -> Generator[DemoProgress, None, TrainResult]:
    training = TrainSettings.checked(
        fine_images=folders.images("train"),
        fine_labels=folders.fine("train"),
        classes=SCHEMA,
        encoder=settings.encoder,
        steps=steps,
        crop=settings.crop,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        class_uniform=settings.class_uniform,
        seed=settings.seed,
        scales=settings.scales,
        device=settings.device,
        out=folders.training(name),
        **extra,
    )
    result: TrainResult | None = None
    for progress in train(training):
        if progress.phase != "finished":
            note = "" if progress.loss is None else f"loss {progress.loss:.2f}"
            unit = "steps" if progress.phase == "training" else "images"
            yield DemoProgress(f"{name}: {progress.phase}", progress.done, progress.total, note, unit)
        result = progress.result
    assert result is not None, "training ends with its result"
    return result


def _label(settings: DemoSettings, folders: _Folders, checkpoint: Path) -> Iterator[DemoProgress]:
    labelling = LabelSettings.checked(
        images=folders.images("train_extra"),
        teacher=str(checkpoint),
        scales=settings.scales,
        threshold=settings.threshold,
        device=settings.device,
        out=folders.run,
    )
    with LabelRun(labelling) as run:
        for done, _ in enumerate(run, len(run.plan.done) + 1):
            yield DemoProgress("label", done, run.plan.total, f"{run.summary.bytes / 1e3:.0f} KB")


def _judge(labels: Path, folders: _Folders) -> Scores:
    """Judge a label folder of the coarse set against its known truth."""
    *_, last = evaluate_labels(labels, folders.fine("train_extra"), load_schema(SCHEMA))
    return last.scores()


def _summarise(settings: DemoSettings, folders: _Folders, students: dict[str, Scores], seconds: float) -> DemoResult:
    measured = measure_bytes(folders.run)
    return DemoResult(
        auto=_judge(folders.run, folders),
        coarse=_judge(folders.coarse, folders),
        labels=measured.labels,
        label_bytes=measured.label_bytes,
        soft=estimate_label_bytes([settings.size], measured.labels, len(load_schema(SCHEMA))),
        students=students,
        seconds=seconds,
    )


def _write_pictures(settings: DemoSettings, folders: _Folders) -> None:
    """Write image | coarse | auto | truth of the first scenes of the coarse set as one picture."""
    schema = load_schema(SCHEMA)
    auto, coarse, truth = (list_labels(f) for f in (folders.run, folders.coarse, folders.fine("train_extra")))
    rows = []
    for key in sorted(auto)[:_SHOWN]:
        labels = (read_label_png(found[key].path, schema).values for found in (coarse, auto, truth))
        rows.append((read_image(folders.images("train_extra") / f"{key}.png"), *labels))
    sheet = contact_sheet(rows, ("image", "coarse", "auto", "truth"), schema, zoom=2)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomically(settings.out / "labels.png", content.getvalue())
