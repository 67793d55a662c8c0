"""Counting and scoring, on cases small enough to be counted by hand."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import pipeline.samples as samples_module
from pipeline.evaluation import EvaluationProgress, evaluate_labels, evaluate_network
from pipeline.samples import AHEAD, Sample
from pipeline.scores import Scores, compute_scores, count_pixels
from storage.clean_up import remove_small_components
from storage.errors import ImageError, LabelError, LayoutError, MissingFileError, SettingsError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_png
from storage.schema import ClassInfo, ClassSchema
from teacher import Teacher, load_teacher

LABELS = arrays(np.uint8, (8, 6), elements=st.sampled_from([0, 1, 2, 255]))
THREE = ClassSchema("three", tuple(ClassInfo(n, (0, 0, 0), (i + 7,)) for i, n in enumerate(("road", "pole", "sky"))))


def label_map(*rows: list[int]) -> LabelMap:
    """A label map of three classes."""
    return LabelMap(np.array(rows, np.uint8), 3)


def write_label(path: Path, values: object) -> None:
    """Write a label file as any tool would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def last_of(evaluation: object) -> EvaluationProgress:
    """The last progress of an evaluation."""
    *_, last = evaluation  # type: ignore[misc] # any iterator of progress
    assert isinstance(last, EvaluationProgress)
    return last


def test_counts_by_truth_and_prediction() -> None:
    """Rows are the truth, columns the prediction, the last column abstentions; ignored truth is not counted."""
    truth = label_map([0, 0, 1, 255], [2, 0, 1, 255])
    prediction = label_map([0, 1, 1, 2], [255, 0, 255, 255])
    assert count_pixels(truth, prediction).tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]]


def test_scores_by_hand() -> None:
    """Every score of a case that was counted by hand."""
    counts = np.array([[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]])
    scores = compute_scores(counts, THREE, 1)
    assert scores.iou == {"road": pytest.approx(2 / 3), "pole": pytest.approx(1 / 3), "sky": 0.0}
    assert scores.miou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == pytest.approx(3 / 6)
    assert scores.coverage == pytest.approx(4 / 6)
    assert scores.precision == pytest.approx(3 / 4)
    assert scores.precision_by_class == {"road": 1.0, "pole": 0.5, "sky": None}
    assert scores.recall_by_class == {"road": pytest.approx(2 / 3), "pole": 0.5, "sky": 0.0}
    assert scores.images == 1


def test_class_that_nobody_names_is_none() -> None:
    """A class with neither truth nor prediction has no IoU and does not count in the mean."""
    scores = compute_scores(np.array([[3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]), THREE, 1)
    assert scores.iou["sky"] is None
    assert scores.miou == 1.0


def test_class_that_is_only_predicted_counts_in_the_mean() -> None:
    """A class without truth that is predicted has IoU 0, and the mean is over all classes that have an IoU."""
    scores = compute_scores(np.array([[3, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]), THREE, 1)
    assert scores.iou["sky"] == 0.0
    assert scores.miou == pytest.approx((3 / 4 + 1 + 0) / 3)


def test_abstaining_everywhere_has_no_precision() -> None:
    """Where nothing is given a class, coverage is 0 and there is no precision."""
    scores = compute_scores(np.array([[0, 0, 0, 3], [0, 0, 0, 1], [0, 0, 0, 0]]), THREE, 1)
    assert (scores.coverage, scores.precision, scores.miou) == (0.0, None, 0.0)


def test_truth_without_classes_is_refused() -> None:
    """Where the truth is ignore everywhere, nothing can be judged, and that is said."""
    with pytest.raises(LabelError, match="no pixel with a class"):
        compute_scores(np.zeros((3, 4), np.int64), THREE, 2)


@given(truth=LABELS, prediction=LABELS)
def test_counts_agree_with_pixelwise_definitions(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Scores from counts equal those from the definitions applied to the pixels."""
    counts = count_pixels(LabelMap(truth, 3), LabelMap(prediction, 3))
    judged = truth != 255
    assert counts.sum() == judged.sum()
    if not judged.any():
        return
    scores = compute_scores(counts, THREE, 1)
    decided = judged & (prediction != 255)
    assert scores.coverage == pytest.approx(decided.sum() / judged.sum())
    assert scores.pixel_accuracy == pytest.approx((judged & (truth == prediction)).sum() / judged.sum())
    for index, name in enumerate(THREE.names):
        both = (truth == index) & (prediction == index)
        either = judged & ((truth == index) | (prediction == index))
        assert scores.iou[name] == (pytest.approx(both.sum() / either.sum()) if either.any() else None)


@given(truth=LABELS)
def test_perfect_prediction_scores_one(truth: np.ndarray) -> None:
    """A truth judged against itself is right everywhere."""
    counts = count_pixels(LabelMap(truth, 3), LabelMap(truth, 3))
    if counts.any():
        scores = compute_scores(counts, THREE, 1)
        assert (scores.miou, scores.pixel_accuracy, scores.coverage, scores.precision) == (1, 1, 1, 1)


@given(truth=LABELS, prediction=LABELS, dropped=arrays(np.bool_, (8, 6)))
def test_abstaining_more_never_raises_the_iou(truth: np.ndarray, prediction: np.ndarray, dropped: np.ndarray) -> None:
    """Turning right predictions into abstentions never raises accuracy, coverage or a recall."""
    fewer = np.where(dropped & (prediction == truth), 255, prediction).astype(np.uint8)
    before, after = (count_pixels(LabelMap(truth, 3), LabelMap(p, 3)) for p in (prediction, fewer))
    if not before.any():
        return
    one, other = compute_scores(before, THREE, 1), compute_scores(after, THREE, 1)
    assert other.pixel_accuracy <= one.pixel_accuracy
    assert other.coverage <= one.coverage
    assert other.miou <= one.miou + 1e-12


def test_label_folders_are_judged_where_both_have_a_file(tmp_path: Path) -> None:
    """Only images in both folders are judged; what is in one alone is counted."""
    write_label(tmp_path / "labels/town/a.png", [[0, 1], [2, 255]])
    write_label(tmp_path / "labels/town/only.png", [[0]])
    write_label(tmp_path / "truth/town/a.png", [[0, 1], [2, 2]])
    write_label(tmp_path / "truth/b.png", [[0]])
    write_label(tmp_path / "truth/c.png", [[0]])
    last = last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE))
    assert (last.done, last.total, last.without_truth, last.without_prediction) == (1, 1, 1, 2)
    assert last.scores().coverage == 0.75


def test_source_ids_are_understood_in_both_folders(tmp_path: Path) -> None:
    """With source ids, both folders' values go through the schema; unknown ids are ignored."""
    write_label(tmp_path / "labels/a.png", [[7, 8, 9, 7]])
    write_label(tmp_path / "truth/a.png", [[7, 8, 8, 33]])
    scores = last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE, ids="source")).scores()
    assert scores.pixel_accuracy == pytest.approx(2 / 3)


def test_unknown_source_ids_of_the_truth_are_counted(tmp_path: Path) -> None:
    """Progress carries how many pixels of all truths were taken as ignore because the schema does not know them."""
    for name in ("a", "b"):
        write_label(tmp_path / f"labels/{name}.png", [[7, 33, 33, 33]])
        write_label(tmp_path / f"truth/{name}.png", [[7, 8, 255, 33]])
    progress = list(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE, ids="source"))
    assert [p.unknown for p in progress] == [1, 2]


def test_labels_are_judged_as_they_are_and_cleaned(tmp_path: Path) -> None:
    """A clean-up is judged beside the labels over all images, with the bytes of both; it changes nothing of theirs."""
    for name, values in (("a", [[0, 0, 1, 0], [0, 0, 0, 0]]), ("b", [[2, 2, 0, 1], [2, 2, 0, 255]])):
        write_label(tmp_path / f"labels/{name}.png", values)
    write_label(tmp_path / "truth/a.png", [[0, 0, 0, 0], [0, 0, 0, 0]])
    write_label(tmp_path / "truth/b.png", [[2, 2, 0, 1], [2, 2, 0, 1]])
    folders = tmp_path / "labels", tmp_path / "truth", THREE
    plain, cleaned = last_of(evaluate_labels(*folders)), last_of(evaluate_labels(*folders, min_component=2))
    assert (plain.clean_up, plain.cleaned_scores()) == (None, None)
    assert cleaned.scores() == plain.scores()
    after = cleaned.cleaned_scores()
    assert after is not None
    assert (plain.scores().coverage, plain.scores().precision) == (15 / 16, 14 / 15)
    assert (after.coverage, after.precision) == (13 / 16, 1.0)
    assert after.iou == {"road": 9 / 10, "pole": 0.0, "sky": 1.0}
    assert cleaned.clean_up is not None
    assert cleaned.clean_up.min_pixels == 2
    labels = [read_label_png(tmp_path / f"labels/{name}.png", THREE) for name in ("a", "b")]
    assert cleaned.clean_up.bytes_before == sum(len(encode_label_png(one)) for one in labels)
    assert cleaned.clean_up.bytes == sum(len(encode_label_png(remove_small_components(one, 2))) for one in labels)


@pytest.mark.parametrize("min_component", [0, 1])
def test_a_clean_up_of_nothing_changes_nothing(tmp_path: Path, min_component: int) -> None:
    """Components of fewer than 0 or 1 pixels do not exist: scores and bytes are the same before and after."""
    write_label(tmp_path / "labels/a.png", [[0, 1], [2, 255]])
    write_label(tmp_path / "truth/a.png", [[0, 0], [2, 2]])
    last = last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE, min_component=min_component))
    assert last.cleaned_scores() == last.scores()
    assert last.clean_up is not None
    assert last.clean_up.bytes == last.clean_up.bytes_before


def test_a_clean_up_of_negative_size_is_refused(tmp_path: Path) -> None:
    """A negative number of pixels is an error of its own, with what is expected."""
    write_label(tmp_path / "labels/a.png", [[0]])
    with pytest.raises(SettingsError, match="expected 0 or more pixels"):
        last_of(evaluate_labels(tmp_path / "labels", tmp_path / "labels", THREE, min_component=-1))


def test_size_mismatch_names_both_files(tmp_path: Path) -> None:
    """A label of another size than its truth is an error that names both files and both sizes."""
    write_label(tmp_path / "labels/a.png", np.zeros((8, 6)))
    write_label(tmp_path / "truth/a.png", np.zeros((4, 6)))
    with pytest.raises(LabelError, match=r"labels/a\.png is 6x8 but its truth .*truth/a\.png is 6x4"):
        last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE))


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    """Folders without an image in common are an error that shows a name of each."""
    write_label(tmp_path / "labels/a.png", [[0]])
    write_label(tmp_path / "truth/x/a.png", [[0]])
    with pytest.raises(LayoutError, match=r"a is not among labels such as x/a"):
        last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE))
    with pytest.raises(MissingFileError, match="no label folder"):
        last_of(evaluate_labels(tmp_path / "nowhere", tmp_path / "truth", THREE))


def test_illegal_value_names_file_and_value(tmp_path: Path) -> None:
    """A value that is no class index stops the evaluation with the file's name."""
    write_label(tmp_path / "labels/a.png", [[0]])
    write_label(tmp_path / "truth/a.png", [[33]])
    with pytest.raises(LabelError, match=r"truth/a\.png: value 33 is no class index"):
        last_of(evaluate_labels(tmp_path / "labels", tmp_path / "truth", THREE))


def test_network_agrees_with_its_own_labels(tmp_path: Path, schema: ClassSchema, tiny_teacher: Path) -> None:
    """A network judged against the labels it gives at threshold 0 is right everywhere, on images of any size."""
    teacher = load_teacher(tiny_teacher)
    for number, size in enumerate([(48, 40), (33, 52)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
        write_label(tmp_path / f"truth/{number}.png", teacher.label([pixels], [0.5, 1.0], 0)[0])
    Image.new("RGB", (8, 8)).save(tmp_path / "images/without.png")
    last = last_of(evaluate_network(teacher, tmp_path / "images", tmp_path / "truth", [1.0, 0.5]))
    scores = last.scores()
    assert isinstance(scores, Scores)
    assert (scores.pixel_accuracy, scores.coverage, scores.images, last.without_truth) == (1, 1, 2, 1)
    assert last.unknown == 0
    assert list(scores.iou) == list(schema.names)


def test_images_are_read_while_the_network_predicts(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network finds the image that follows read already, and never more than a few."""
    write_images(tmp_path, 2 * AHEAD)
    read, decide = samples_module.read_sample, Teacher.decide
    more, keys, predicted, most = threading.Condition(), [], [], []

    def watched(sample: Sample, schema: ClassSchema) -> object:
        content = read(sample, schema)
        with more:
            keys.append(sample.key)
            more.notify_all()
        return content

    def predict(self: Teacher, *args: object, **options: object) -> object:
        predicted.append(1)
        with more:
            assert more.wait_for(lambda: len(keys) >= min(len(predicted) + 1, 2 * AHEAD), timeout=300)
            most.append(len(keys) - len(predicted))
        return decide(self, *args, **options)

    monkeypatch.setattr(samples_module, "read_sample", watched)
    monkeypatch.setattr(Teacher, "decide", predict)
    teacher = load_teacher(tiny_teacher)
    last = last_of(evaluate_network(teacher, tmp_path / "images", tmp_path / "truth", [1.0]))
    assert last.done == len(keys) == 2 * AHEAD
    assert max(most) <= AHEAD


def test_an_unreadable_image_ends_the_evaluation_in_its_turn(tmp_path: Path, tiny_teacher: Path) -> None:
    """Images before one that cannot be read are judged, and its error names it."""
    write_images(tmp_path, 4)
    (tmp_path / "images/2.png").write_bytes(b"no image")
    evaluation = evaluate_network(load_teacher(tiny_teacher), tmp_path / "images", tmp_path / "truth", [1.0])
    assert [next(evaluation).done for _ in range(2)] == [1, 2]
    with pytest.raises(ImageError, match=r"images/2\.png"):
        next(evaluation)


def write_images(folder: Path, count: int) -> None:
    """Noise images, and a truth for each."""
    (folder / "images").mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        write_label(folder / f"truth/{number}.png", np.zeros((40, 48)))
