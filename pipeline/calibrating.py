"""Calibration: what held-out labels say of a teacher at every threshold, and the thresholds that are chosen by it.

It streams: an image is counted and forgotten. What was counted is saved now and then, so that the same command goes on
after a stop; what is finished stays good for every other target, which needs no teacher's work.
"""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from pipeline.calibrate_settings import CalibrateSettings
from pipeline.calibration_file import Calibration, read_calibration
from pipeline.calibration_samples import count_samples
from pipeline.calibration_state import CalibrationState, read_state, refuse_other
from pipeline.guard import refuse_trained_images
from pipeline.samples import Sample, collect_samples, fingerprint_files
from pipeline.teacher_decider import TeacherDecider
from pipeline.temperature import TemperatureSums, fit_samples
from pipeline.threshold_choice import choose_thresholds
from storage.errors import LabelError, WorkspaceError
from storage.new_folder import locked
from storage.schema import load_schema
from storage.workspace import remove_partial_files, write_atomically
from teacher import Teacher, load_teacher
from teacher.tables import table

_FITTED = ("temperature", "temperature_fit")

SAVE_SECONDS = 10.0
"""So much work at most is lost when the process is killed."""


def state_folder(out: Path) -> Path:
    """Where what was counted lies until the calibration is whole: a folder beside it, of this run alone."""
    return out.with_name(f"{out.name}.state")


def _state_file(out: Path) -> Path:
    return state_folder(out) / "counts.json"


def _fit_file(out: Path) -> Path:
    return state_folder(out) / "temperature.json"


@dataclass(frozen=True, slots=True)
class CalibrationRun:
    """A calibration, opened: iterate over it to count, then ask for the result."""

    settings: CalibrateSettings
    teacher: Teacher
    samples: tuple[Sample, ...]
    """All held-out images with their truth, in order."""
    measured: Mapping[str, Any]
    """What is counted, and how."""
    state: CalibrationState
    """How far an earlier run has come."""
    fit: TemperatureSums | None
    """How far the fit of a temperature has come, which comes before the counting; None: there is nothing to fit."""
    finished: Calibration | None
    """The calibration, where an earlier run has counted all of it."""
    images_without_truth: int
    """They are not judged."""
    truth_without_image: int

    @classmethod
    def open(cls, settings: CalibrateSettings) -> Self:
        """Load the teacher, pair images and truth, and find what an earlier run has counted.

        Raises:
            MissingFileError: there is no such folder or file.
            LayoutError: no image has a truth.
            LeakError: the teacher was trained on some of the images.
            ForeignSettingsError: `out`, or what was counted for it, is of another calibration.
            WorkspaceError: what was counted is damaged, or `out` cannot be written.
            SettingsError: `out` is something else.
            SettingsError, SchemaError, CheckpointError: the teacher cannot be made as asked.
        """
        schema = None if settings.classes is None else load_schema(settings.classes)
        teacher = load_teacher(
            settings.teacher,
            settings.weights,
            schema=schema,
            device=settings.device,
            precision=settings.precision,
            compiled=settings.compiled,
        )
        found = collect_samples(
            settings.images, settings.truth, "fine", settings.layout, settings.ids, partial=True, schema=teacher.schema
        )
        if not settings.allow_training_images:
            refuse_trained_images(found.samples, teacher.trained_on, "this teacher")
        measured = {
            **settings.decisive(teacher),
            "classes_digest": teacher.schema.digest,
            "steps": settings.keep_steps,
            "block": settings.block or math.isqrt(len(found.samples)),
            "ids": settings.ids,
            "images": len(found.samples),
            "files": fingerprint_files(found.samples),
            "allow_training_images": settings.allow_training_images,
            "fit_temperature": settings.fit_temperature,
        }
        finished = fit = None
        if settings.out.exists():
            finished = read_calibration(settings.out)
            if settings.fit_temperature:  # what came of the fit is no part of the question
                measured |= {name: finished.measured.get(name) for name in _FITTED}
            refuse_other(settings.out, finished.measured, measured)
        elif settings.fit_temperature:
            fit = TemperatureSums.read(_fit_file(settings.out), measured)
        # what is counted at a temperature can only be asked for when that is known
        state = read_state(_state_file(settings.out), measured) if fit is None else CalibrationState.nothing(measured)
        missing = len(found.images_without_label), len(found.labels_without_image)
        return cls(settings, teacher, found.samples, measured, state, fit, finished, *missing)

    def fit_temperature(self) -> Iterator[TemperatureSums]:
        """Fit a temperature on what is not looked at yet; yields the sums after each image.

        Raises:
            WorkspaceError: they cannot be saved, or another process makes the calibration.
            RuntimeError, MemoryError: the device cannot predict, or has no room for the joint logits of an image.
        """
        assert self.fit is not None, "it is asked for where it is needed"
        settings, saved, measured = self.settings, _fit_file(self.settings.out), dict(self.measured)

        def predict(image: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            logits = self.teacher.logits(image, settings.scales, flip=settings.flip, fusion=settings.fusion)
            # taken where they are: all of them are a hundred times as many bytes
            chosen = logits.flatten(1).index_select(1, table(places, logits.device)).T
            return cast(npt.NDArray[np.float32], chosen.cpu().numpy())

        with self._alone():
            self._refuse_overtaken(TemperatureSums.read(saved, measured).done, self.fit.done)
            last, last_saved = self.fit, time.monotonic()
            last.save(saved, measured)
            try:
                for sums in fit_samples(self.samples, self.teacher.schema, predict, self.fit):
                    last = sums
                    if time.monotonic() - last_saved > SAVE_SECONDS:
                        sums.save(saved, measured)
                        last_saved = time.monotonic()
                    yield sums
            finally:
                last.save(saved, measured)

    def with_temperature(self, sums: TemperatureSums) -> Self:
        """The run that counts at the temperature that was fitted, or goes on with what was counted.

        Args:
            sums: of all images.

        Raises:
            ForeignSettingsError, WorkspaceError: as `open`.
        """
        measured = {**self.measured, "temperature": sums.temperature, "temperature_fit": sums.to_plain()}
        return replace(self, measured=measured, state=read_state(_state_file(self.settings.out), measured), fit=None)

    def __iter__(self) -> Iterator[CalibrationState]:
        """Count what is not counted yet; yields the state after each image, and saves it now and then.

        Raises:
            WorkspaceError: it cannot be saved, or another process makes the calibration.
            RuntimeError, MemoryError: the device cannot predict.
        """
        settings, saved = self.settings, _state_file(self.settings.out)
        with self._alone():
            self._refuse_overtaken(read_state(saved, self.measured).done, self.state.done)
            self.state.save(saved, self.measured)  # what cannot be saved should not be begun
            decider = TeacherDecider(self.teacher, settings.way(self.teacher, self.measured["temperature"]))
            last, last_saved = self.state, time.monotonic()
            try:
                for state in count_samples(self.samples, self.teacher.schema, decider, self.state):
                    last = state
                    if time.monotonic() - last_saved > SAVE_SECONDS:
                        state.save(saved, self.measured)
                        last_saved = time.monotonic()
                    yield state
            finally:
                last.save(saved, self.measured)  # also after an error, or Ctrl-C

    def result(self, state: CalibrationState) -> Calibration:
        """Choose the thresholds, and write the calibration.

        Args:
            state: of all images; of no meaning where an earlier run had finished.

        Raises:
            LabelError: no image could be counted, or their truth has no pixel with a class.
            WorkspaceError: the file cannot be written, or another process makes it.
        """
        settings, schema = self.settings, self.teacher.schema
        if self.finished is not None:
            calibration = self.finished.chosen_by(settings.rule)
        else:
            if not state.counts.pixels.truth.any():
                reason = next(iter(state.failed.values()), "the truth has no pixel with a class")
                raise LabelError(f"nothing could be judged of {len(self.samples)} images: {reason}")
            rule, counts = settings.rule, state.counts.closed()
            choices = choose_thresholds(counts, schema.names, rule)
            calibration = Calibration(
                str(settings.out), self.measured, counts, rule, choices, state.failed, state.unknown
            )
        with self._alone():
            write_atomically(settings.out, calibration.to_json(), state_folder(settings.out))
            shutil.rmtree(state_folder(settings.out))
        return calibration

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder of what is under way for this process, and sweep up what a killed one left half written."""
        folder = state_folder(self.settings.out)
        with locked(folder / ".lock", self.settings.out):
            remove_partial_files(folder)
            yield

    def _refuse_overtaken(self, saved: int, known: int) -> None:
        """Never go on from what another process has gone on from since it was read."""
        out = self.settings.out
        if saved != known or out.exists():
            raise WorkspaceError(f"another autocoarse process has worked on {out} since; run the same command again")
