"""The scores are those of Cityscapes' own evaluation script on the same files."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.evaluation import evaluate_labels
from pipeline.scores import Scores
from storage.schema import load_schema

pytest.importorskip("cityscapesscripts")
pytest.importorskip("pyquaternion", reason="cityscapesscripts was installed without what it imports")

SUFFIX = "_gtFine_labelIds.png"
FRAMES = ("aachen/aachen_000000_000019", "aachen/aachen_000001_000019", "bochum/bochum_000000_000313")
SIZE = (48, 64)
ABSTENTION = 0  # "unlabeled": an id that the script never asks for
ONLY_PREDICTED = 31  # train
NOWHERE = (32, 33)  # motorcycle, bicycle
PERFECT = 23  # sky

Judge = Callable[[Path, Path], tuple[Scores, dict[str, Any]]]


def save(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write a label file as any tool would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official script as a module; it would look for its folders in the environment when it is imported."""
    for name in ("CITYSCAPES_DATASET", "CITYSCAPES_RESULTS", "CITYSCAPES_EXPORT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")


@pytest.fixture
def judge(official: Any) -> Judge:
    """Judge predictions with this project, and with the official script on the very same files."""

    def both(predicted: Path, truth: Path) -> tuple[Scores, dict[str, Any]]:
        arguments = official.CArgs()  # of this test alone: the script's own are global
        vars(arguments).update(vars(official.args))
        arguments.evalInstLevelScore = False  # needs files of instances, and scores what is not compared here
        arguments.JSONOutput = False
        arguments.quiet = True
        arguments.predictionPath, arguments.predictionWalk = str(predicted), None
        truths = sorted(str(path) for path in truth.glob(f"gtFine/val/*/*{SUFFIX}"))
        predictions = [official.getPrediction(arguments, path) for path in truths]
        theirs = official.evaluateImgLists(predictions, truths, arguments)
        schema = load_schema("cityscapes")
        *_, last = evaluate_labels(predicted, truth, schema, "cityscapes", "source")
        assert last.done == len(truths)
        assert last.unknown == 0
        return last.scores(), theirs

    return both


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Truths of all ids but three, and predictions that are right, wrong, abstentions, or of an ignored id."""
    ids = np.setdiff1d(np.arange(34), (ONLY_PREDICTED, *NOWHERE)).astype(np.uint8)
    for frame in FRAMES:
        truth = rng.choice(ids, SIZE)
        predicted = truth.copy()
        wrong = (rng.random(SIZE) < 0.3) & (truth != PERFECT)
        predicted[wrong] = rng.choice(ids[ids != PERFECT], int(wrong.sum()))
        predicted[rng.random(SIZE) < 0.05] = ONLY_PREDICTED
        predicted[rng.random(SIZE) < 0.1] = ABSTENTION
        predicted[truth == PERFECT] = PERFECT
        save(tmp_path / f"truth/gtFine/val/{frame}{SUFFIX}", truth)
        save(tmp_path / f"predicted/val/{frame}{SUFFIX}", predicted)
    return tmp_path


def assert_agree(ours: Scores, theirs: dict[str, Any]) -> None:
    """Each class and the mean agree to 1e-6; a class that has no score has none in both."""
    for name, iou in ours.iou.items():
        official_iou = theirs["classScores"][name]
        assert math.isnan(official_iou) if iou is None else iou == pytest.approx(official_iou, abs=1e-6), name
    scored = {name for name, iou in theirs["classScores"].items() if not math.isnan(iou)}
    assert scored == {name for name, iou in ours.iou.items() if iou is not None}
    assert ours.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-6)


def test_scores_are_those_of_the_official_script(data: Path, judge: Judge) -> None:
    """Ignored ids, abstentions, classes that are only predicted and classes that are nowhere count as officially."""
    before = sorted(data.rglob("*"))
    ours, theirs = judge(data / "predicted", data / "truth")
    assert_agree(ours, theirs)
    assert (ours.iou["train"], ours.iou["motorcycle"], ours.iou["bicycle"]) == (0.0, None, None)
    assert ours.coverage < 1
    assert sorted(data.rglob("*")) == before


def test_perfect_labels_score_one_in_both(data: Path, judge: Judge) -> None:
    """The truth judged against itself is right in every class that it has."""
    (data / "same").mkdir()
    (data / "truth/gtFine/val").rename(data / "same/val")
    for path in (data / "same").rglob("*.png"):
        save(data / "truth/gtFine" / path.relative_to(data / "same"), np.array(Image.open(path)))
    ours, theirs = judge(data / "same", data / "truth")
    assert_agree(ours, theirs)
    assert ours.miou == 1


def test_abstaining_everywhere_scores_zero_in_both(data: Path, judge: Judge) -> None:
    """Where nothing but abstentions is predicted, every class of the truth scores 0 in both, and no other does."""
    for frame in FRAMES:
        save(data / f"predicted/val/{frame}{SUFFIX}", np.full(SIZE, ABSTENTION, np.uint8))
    ours, theirs = judge(data / "predicted", data / "truth")
    assert_agree(ours, theirs)
    assert (ours.miou, ours.iou["road"], ours.iou["train"]) == (0.0, 0.0, None)
