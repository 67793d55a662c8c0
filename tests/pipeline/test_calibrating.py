"""Calibrating a teacher on held-out images: the same whatever happens, and refused where it proves nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import calibrating
from pipeline import samples as samples_module
from pipeline.calibrate_settings import CalibrateSettings
from pipeline.calibrating import CalibrationRun, state_folder
from pipeline.calibration_counts import CalibrationCounts
from pipeline.calibration_file import Calibration, read_calibration
from pipeline.calibration_samples import count_samples
from pipeline.calibration_state import CalibrationState
from pipeline.evaluation import evaluate_network
from pipeline.guard import hash_images
from pipeline.samples import Sample
from pipeline.scores import compute_scores
from pipeline.teacher_decider import TeacherDecider
from storage.errors import ForeignSettingsError, LabelError, LayoutError, LeakError, SettingsError, WorkspaceError
from storage.schema import ClassSchema
from teacher import load_teacher

COUNT = 8


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path) -> CalibrateSettings:
    """Held-out images of two sizes with truths that leave some pixels out."""
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        size = (40, 48) if number % 3 else (36, 56)
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1)
        for folder, values in (("images", rng.integers(0, 256, (*size, 3), np.uint8)), ("truth", truth)):
            (tmp_path / folder / "town").mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"town/{number:02}.png")
    return CalibrateSettings(
        teacher=str(tiny_teacher),
        images=tmp_path / "images",
        truth=tmp_path / "truth",
        scales=(0.5, 1.0),
        device="cpu",
        target_precision=0.3,
        min_images=2,
        min_pixels=1,
        out=tmp_path / "calibration.json",
    )


def calibrate(settings: CalibrateSettings, **changes: object) -> Calibration:
    """Calibrate to the end."""
    run = CalibrationRun.open(settings.model_copy(update=changes))
    if run.fit is not None:
        run = run.with_temperature([run.fit, *run.fit_temperature()][-1])
    return run.result(run.state if run.finished is not None else list(run)[-1])


def test_the_counts_are_those_of_the_evaluation(settings: CalibrateSettings, schema: ClassSchema) -> None:
    """At a constant threshold the confusion is that which the network's own evaluation counts."""
    found = calibrate(settings)
    teacher = load_teacher(settings.teacher)
    for threshold in (0.0, 0.6):
        *_, last = evaluate_network(teacher, settings.images, settings.truth, settings.scales, threshold=threshold)
        confusion = found.confusion(dict.fromkeys(schema.names, threshold))
        # where nothing is kept, pixels next to a threshold are decided in float64
        assert np.abs(confusion - last.counts).sum() <= 2
        scores = compute_scores(confusion, schema, COUNT)
        quality = found.quality(dict.fromkeys(schema.names, threshold))
        assert [one.precision for one in quality.classes] == list(scores.precision_by_class.values())
        assert [one.coverage for one in quality.classes] == list(scores.recall_by_class.values())
    assert found.images == COUNT
    assert read_calibration(settings.out).to_json() == found.to_json()
    assert not state_folder(settings.out).exists()


def test_what_is_finished_is_found_and_serves_another_target(
    settings: CalibrateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same question asks the teacher nothing again; another target gives what it would have given at first."""
    first = calibrate(settings)
    content = settings.out.read_bytes()
    other = calibrate(settings, target_precision=None, target_coverage=0.4, out=settings.out.with_name("other.json"))
    with monkeypatch.context() as patch:
        patch.setattr(TeacherDecider, "decide", None)
        assert calibrate(settings).to_json() == first.to_json()
        assert settings.out.read_bytes() == content
        again = calibrate(settings, target_precision=None, target_coverage=0.4)
    assert again.to_json() == other.to_json()


def test_a_killed_calibration_is_finished_by_the_same_command(settings: CalibrateSettings) -> None:
    """Kill -9 in the middle, then the same command: the file is byte for byte that of an undisturbed one."""
    whole = calibrate(settings, out=settings.out.with_name("whole.json")).to_json()
    code = (
        "import sys, time\n"
        "from pipeline import calibrating, calibration_samples as counting\n"
        "calibrating.SAVE_SECONDS = 0\n"
        "decide = counting._decide\n"
        "begun = []\n"
        # so few are counted at once that the kill comes in the middle, however long it takes
        "def slow(*given):\n"
        "    begun.append(0)\n"
        "    time.sleep(0.1 if len(begun) < 5 else 600)\n"
        "    return decide(*given)\n"
        "counting._decide = slow\n"
        "from cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "calibrate", "--teacher", settings.teacher, "--images", str(settings.images)]
    command += ["--truth", str(settings.truth), "--scales", "0.5,1", "--device", "cpu", "--target-precision", "0.3"]
    command += ["--min-images", "2", "--min-pixels", "1", "--out", str(settings.out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    saved = state_folder(settings.out) / "counts.json"
    while not saved.exists() or json.loads(saved.read_bytes())["done"] < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not settings.out.exists()
    before = json.loads(saved.read_bytes())["done"]
    assert 3 <= before < COUNT
    run = CalibrationRun.open(settings)
    states = list(run)
    assert [state.done for state in states] == list(range(before + 1, COUNT + 1))
    run.result(states[-1])
    assert settings.out.read_bytes() == whole
    assert not state_folder(settings.out).exists()


def test_an_interrupted_calibration_loses_nothing(settings: CalibrateSettings) -> None:
    """An end that Python sees, as Ctrl-C, saves all that was counted, and nothing is counted twice."""
    whole = calibrate(settings, out=settings.out.with_name("whole.json")).to_json()
    for stop in (1, 5):
        steps = iter(CalibrationRun.open(settings))
        for state in steps:
            if state.done == stop:
                break
        steps.close()  # type: ignore[attr-defined] # it is a generator
        assert CalibrationRun.open(settings).state.done == stop
    assert calibrate(settings).to_json() == whole


def test_two_calibrations_at_a_time_do_not_mix(settings: CalibrateSettings) -> None:
    """The second one is told so and harms nothing, while the first works and also when it has gone on or finished."""
    first, second, third = (CalibrationRun.open(settings) for _ in range(3))
    counting = iter(first)
    next(counting)
    with pytest.raises(WorkspaceError, match="another autocoarse process makes"):
        next(iter(second))
    counting.close()  # type: ignore[attr-defined] # it is a generator
    with pytest.raises(WorkspaceError, match=r"has worked on .* since; run the same command again"):
        next(iter(second))
    whole = calibrate(settings).to_json()
    with pytest.raises(WorkspaceError, match=r"has worked on .* since; run the same command again"):
        next(iter(third))
    assert settings.out.read_bytes() == whole


def test_a_temperature_is_fitted_first_and_goes_on_as_well(settings: CalibrateSettings) -> None:
    """Stopped in the fit and in the counting, the file is that of an undisturbed calibration, and is found again."""
    settings = settings.model_copy(update={"fit_temperature": True})
    whole = calibrate(settings, out=settings.out.with_name("whole.json"))
    assert whole.temperature != 1
    assert whole.measured["temperature_fit"]["nll_after"] < whole.measured["temperature_fit"]["nll_before"]
    fitting = CalibrationRun.open(settings).fit_temperature()
    next(fitting), next(fitting)
    fitting.close()  # type: ignore[attr-defined] # it is a generator
    run = CalibrationRun.open(settings)
    assert run.fit is not None
    assert run.fit.done == 2
    counting = iter(run.with_temperature(list(run.fit_temperature())[-1]))
    next(counting)
    counting.close()  # type: ignore[attr-defined] # it is a generator
    assert calibrate(settings).to_json() == whole.to_json()
    assert CalibrationRun.open(settings).finished is not None
    with pytest.raises(ForeignSettingsError, match="fit_temperature: True -> False"):
        CalibrationRun.open(settings.model_copy(update={"fit_temperature": False}))


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(settings: CalibrateSettings, finished: bool) -> None:
    """A finished calibration is never written over, and one under way never gone on with; the message says why."""
    if finished:
        calibrate(settings)
    else:
        next(iter(CalibrationRun.open(settings)))
    for changes, words in (
        ({"scales": (1.0,)}, r"scales: \[0.5, 1.0\] -> \[1.0\]"),
        ({"flip": True}, "flip: False -> True"),
        ({"keep_steps": 50}, "steps: 100 -> 50"),
        ({"ids": "source"}, "ids: None -> source"),
        ({"allow_training_images": True}, "allow_training_images: False -> True"),
    ):
        with pytest.raises(ForeignSettingsError, match=words):
            CalibrationRun.open(settings.model_copy(update=changes))


def test_changed_files_are_another_calibration(settings: CalibrateSettings) -> None:
    """A truth that was replaced since is not the one that was counted."""
    calibrate(settings)
    file = settings.truth / "town/03.png"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    with pytest.raises(ForeignSettingsError, match="files: "):
        CalibrationRun.open(settings)


def test_something_else_is_never_written_over(settings: CalibrateSettings) -> None:
    """A file that is no calibration stays, and so does damaged work, which the message tells to remove."""
    settings.out.write_text("my notes")
    with pytest.raises(SettingsError, match="is no calibration"):
        CalibrationRun.open(settings)
    settings.out.unlink()
    next(iter(CalibrationRun.open(settings)))
    saved = state_folder(settings.out) / "counts.json"
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(WorkspaceError, match=r"damaged.*remove it to count from the start"):
        CalibrationRun.open(settings)


def test_images_that_the_teacher_was_trained_on_are_refused(
    settings: CalibrateSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precision on them would promise what new images do not keep; it must be allowed by name."""
    run = CalibrationRun.open(settings)
    digest = next(iter(hash_images(run.samples)))

    def trained(*arguments: object, **options: object) -> object:
        teacher = load_teacher(*arguments, **options)  # type: ignore[arg-type]
        teacher.trained_on[digest] = "town/00"
        return teacher

    monkeypatch.setattr(calibrating, "load_teacher", trained)
    with pytest.raises(LeakError, match=r"1 of 8 images .*town/00\.png"):
        CalibrationRun.open(settings)
    assert calibrate(settings, allow_training_images=True).images == COUNT


def test_an_image_that_cannot_be_read_costs_itself_alone(settings: CalibrateSettings) -> None:
    """Others are counted as if it were not there, and the calibration tells which failed and why."""
    (settings.images / "town/02.png").write_bytes(b"no image")
    Image.new("L", (9, 9)).save(settings.truth / "town/05.png")
    Image.new("RGB", (5, 5)).save(settings.images / "town/07.png")
    Image.new("L", (5, 5)).save(settings.truth / "town/07.png")
    found = calibrate(settings)
    assert sorted(found.failed) == ["town/02", "town/05", "town/07"]
    assert found.images == COUNT - 3
    assert "expected sides of at least" in found.failed["town/07"]
    for name in found.failed:
        (settings.images / f"{name}.png").unlink()
    without = calibrate(settings, out=settings.out.with_name("without.json"))
    assert without.counts.to_plain() == found.counts.to_plain()


def test_nothing_to_judge_is_an_error(settings: CalibrateSettings, tmp_path: Path) -> None:
    """A truth without a class, or none of the images, leaves no file."""
    for file in settings.truth.rglob("*.png"):
        Image.new("L", Image.open(file).size, 255).save(file)
    with pytest.raises(LabelError, match="the truth has no pixel with a class"):
        calibrate(settings)
    assert not settings.out.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError):
        calibrate(settings, images=tmp_path / "empty")


@dataclass
class _Kept:
    """What is made of one image."""

    label: np.ndarray
    soft: np.ndarray
    attention: None = None


class _Counting:
    """Decides that all is road, and looks how many images are alive meanwhile."""

    def __init__(self, alive: "list[int]") -> None:
        self.alive, self.most = alive, 0

    def decide(self, images: Sequence[np.ndarray]) -> list[_Kept]:
        """As `Decider.decide`."""
        time.sleep(0.002)  # the readers are faster
        self.most = max(self.most, len(self.alive))
        self.alive.pop()
        planes = np.zeros((2, *images[0].shape[:2]), np.uint8)
        return [_Kept(planes[0], planes)]


def test_few_images_are_in_memory_however_many_there_are(
    settings: CalibrateSettings, schema: ClassSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers stay a few images ahead of the device and wait for it."""
    samples = CalibrationRun.open(settings).samples * 10
    alive: list[int] = []
    lock = threading.Lock()
    read = samples_module.read_sample

    def watched(sample: Sample, schema: ClassSchema) -> object:
        content = read(sample, schema)
        with lock:
            alive.append(1)
        return content

    monkeypatch.setattr(samples_module, "read_sample", watched)
    decider = _Counting(alive)
    state = CalibrationState(CalibrationCounts.nothing(len(schema), 100))
    *_, last = count_samples(samples, schema, decider, state)
    assert last.done == 10 * COUNT
    assert decider.most <= samples_module.AHEAD + 1


class _Slow:
    """A device that says when it is given an image and when what it made of one is asked for."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.given = 0

    def decide(self, images: Sequence[np.ndarray]) -> list["_Coming"]:
        """As `Decider.decide`."""
        self.given += 1
        self.seen.append(f"given {self.given}")
        return [_Coming(self, self.given, images[0].shape[:2])]


@dataclass
class _Coming:
    """What is made of one image, all of it road."""

    device: _Slow
    number: int
    size: tuple[int, ...]

    @property
    def soft(self) -> np.ndarray:
        """Asked for once."""
        self.device.seen.append(f"waited for {self.number}")
        return np.zeros((2, *self.size), np.uint8)


def test_the_device_has_the_next_image_before_the_last_one_is_waited_for(
    settings: CalibrateSettings, schema: ClassSchema
) -> None:
    """While the host waits and counts, the device has an image to decide; one that cannot be read is told in turn."""
    samples = CalibrationRun.open(settings).samples[:4]
    samples[1].image.write_bytes(b"no image")
    device = _Slow()
    state = CalibrationState(CalibrationCounts.nothing(len(schema), 100))
    states = list(count_samples(samples, schema, device, state))  # type: ignore[arg-type] # no more is asked of it
    assert device.seen == ["given 1", "waited for 1", "given 2", "given 3", "waited for 2", "waited for 3"]
    assert [(state.done, list(state.failed)) for state in states] == [
        (1, []),
        (2, [samples[1].key]),
        (3, [samples[1].key]),
        (4, [samples[1].key]),
    ]
