"""What a calibration counts and chooses: exact sums, and thresholds that keep their laws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration_counts import CalibrationCounts, PixelCounts
from pipeline.calibration_file import MAX_BYTES, Calibration, read_calibration
from pipeline.scores import count_pixels
from pipeline.threshold_choice import ChoiceRule, choose_thresholds
from storage.errors import LabelError, MissingFileError, SettingsError
from storage.label_map import LabelMap
from storage.soft_store import NO_CONFIDENCE, apply_thresholds

NAMES = ("road", "pole", "sky")
STEPS = 20

Image = tuple[LabelMap, np.ndarray]


def noisy_image(seed: int, size: tuple[int, int] = (12, 16), skill: float = 1.0) -> Image:
    """A truth and what a teacher says of it, who is right about as often as it is sure; some pixels are special."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size).astype(np.uint8)
    codes = rng.integers(0, STEPS, size).astype(np.uint8)
    right = rng.random(size) < skill * (codes + 0.5) / STEPS
    classes = np.where(right, truth, (truth + 1) % 3).astype(np.uint8)
    truth[0], codes[1, :3] = 255, NO_CONFIDENCE
    return LabelMap(truth, 3), np.stack([classes, codes])


def count(images: list[Image], block: int = 1) -> CalibrationCounts:
    """The counts of images."""
    return CalibrationCounts.of((PixelCounts.of_image(*image, STEPS) for image in images), 3, STEPS, block)


def calibration(counts: CalibrationCounts, **rule: float) -> Calibration:
    """A calibration of these counts."""
    chosen = ChoiceRule(**({"target_precision": 0.8, "min_pixels": 1} | rule))  # type: ignore[arg-type]
    measured = {"classes": list(NAMES), "temperature": 1.0}
    return Calibration("here", measured, counts, chosen, choose_thresholds(counts, NAMES, chosen), {"x": "torn"}, 7)


def test_counts_are_those_of_the_labels_at_every_threshold() -> None:
    """What is counted at thresholds is what labels made at them would give, pixel by pixel and image by image."""
    images = [noisy_image(seed) for seed in range(4)]
    counts = count(images)
    for levels in ([0, 0, 0], [19, 3, 10], [7, 19, 0]):
        thresholds = [level / STEPS for level in levels]
        labels = [LabelMap(apply_thresholds(planes, thresholds, STEPS), 3) for _, planes in images]
        singly = [count_pixels(truth, label) for (truth, _), label in zip(images, labels, strict=True)]
        assert np.array_equal(counts.confusion(np.array(levels)), sum(singly))
        given = np.array([one[:, :-1].sum(axis=0) for one in singly])
        right = np.array([one.diagonal() for one in singly])
        place = (np.arange(3), levels)
        assert np.array_equal(counts.precision.product[place], (given * right).sum(axis=0))
        assert np.array_equal(counts.given_images[place], (given > 0).sum(axis=0))
        assert np.array_equal(counts.coverage.part[place], right.sum(axis=0))


def test_the_order_of_independent_images_changes_nothing() -> None:
    """Where each image is a unit, another order of them gives the same content of the file."""
    images = [noisy_image(seed) for seed in range(5)]
    assert calibration(count(images[::-1])).to_json() == calibration(count(images)).to_json()


def test_a_block_of_neighbours_is_one_unit() -> None:
    """Blocks count like images that hold all of their pixels; the last one may be smaller than the others."""
    images = [noisy_image(seed) for seed in range(7)]
    joined = [
        (LabelMap(np.vstack([truth.values for truth, _ in some]), 3), np.hstack([planes for _, planes in some]))
        for some in (images[:3], images[3:6], images[6:])
    ]
    blocks, large = count(images, 3), count(joined)
    for what in ("precision", "coverage"):
        for got, wanted in zip(getattr(blocks, what).interval(), getattr(large, what).interval(), strict=True):
            assert np.array_equal(got, wanted, equal_nan=True)
    assert (blocks.images, large.images) == (7, 3)
    assert blocks.given_images.max() == 7
    assert np.array_equal(blocks.pixels.joint, count(images).pixels.joint)


def test_neighbours_that_are_alike_are_worth_no_more_than_one() -> None:
    """The same image over and over makes an interval narrower where each is a unit, and not where a block is."""
    images = [noisy_image(seed, (60, 80)) for seed in range(8) for _ in range(8)]
    singly, blocks, once = count(images), count(images, 8), count(images[::8])
    (low, _), (low_of_blocks, _), (low_once, _) = (one.precision.interval() for one in (singly, blocks, once))
    assert np.nanmean(low) > np.nanmean(low_of_blocks) + 0.005
    assert np.nanmean(low_of_blocks) == pytest.approx(np.nanmean(low_once), abs=0.005)


def test_counts_do_not_grow_with_the_images() -> None:
    """After many images the counts are arrays of the size that they were before the first."""
    before, after = (count([noisy_image(s) for s in range(n)]) for n in (1, 30))
    assert [a.nbytes for a in (before.pixels.joint, before.precision.part)] == [
        a.nbytes for a in (after.pixels.joint, after.precision.part)
    ]


def test_a_truth_of_another_size_is_refused() -> None:
    """A truth that is not of the prediction's size cannot be counted."""
    with pytest.raises(LabelError, match="12x16"):
        PixelCounts.of_image(noisy_image(0, (16, 12))[0], noisy_image(0)[1], STEPS)


@given(st.integers(0, 10_000), st.floats(0.3, 1), st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)))
@settings(deadline=None, max_examples=40)
def test_a_higher_target_never_gives_more_than_a_lower_one(
    seed: int, skill: float, targets: tuple[float, float]
) -> None:
    """A higher precision never lowers a threshold, a higher coverage never raises one, whatever was counted."""
    counts = count([noisy_image(seed + n, (4, 8), skill) for n in range(12)])
    low, high = sorted(targets)
    for name, sign in (("target_precision", 1), ("target_coverage", -1)):
        chosen = [
            choose_thresholds(counts, NAMES, ChoiceRule(**{name: target}, min_pixels=1)) for target in (low, high)
        ]
        for lower, higher in zip(*chosen, strict=True):
            assert sign * higher.threshold >= sign * lower.threshold
            assert higher.status != "met" or lower.status == "met"


def test_the_lower_end_of_the_interval_meets_the_target() -> None:
    """The chosen threshold is the lowest from which every one up to the best keeps the promise."""
    found = calibration(count([noisy_image(seed, (30, 40)) for seed in range(20)]), target_precision=0.75)
    for choice in found.choices:
        curve = found.curve(choice.name)
        lows = [point.low or 0 for point in curve]
        level = round(choice.threshold * STEPS)
        assert choice.status == "met"
        assert all(low >= 0.75 for low in lows[level : int(np.argmax(lows)) + 1])
        assert level == 0 or lows[level - 1] < 0.75


def test_a_target_that_is_reached_nowhere_is_told() -> None:
    """Such a class takes the threshold with the best lower end; for a coverage it keeps all."""
    counts = count([noisy_image(seed, skill=0.5) for seed in range(20)])
    found = calibration(counts, target_precision=0.99)
    assert {choice.status for choice in found.choices} == {"unreached"}
    for choice in found.choices:
        best = max(found.curve(choice.name), key=lambda point: point.low or 0)
        assert choice.threshold == best.threshold
    covered = choose_thresholds(counts, NAMES, ChoiceRule(target_coverage=0.99))
    assert {(choice.threshold, choice.status) for choice in covered} == {(0.0, "unreached")}


def test_too_little_evidence_keeps_the_default_threshold() -> None:
    """By images as by pixels: a million pixels of few images are no evidence."""
    images = [noisy_image(seed, (100, 100)) for seed in range(9)]
    few = calibration(count(images), default_threshold=0.35)
    assert {(c.threshold, c.status) for c in few.choices} == {(0.35, "little evidence")}
    assert not any(one.enough for one in few.quality().classes)
    enough = calibration(count([*images, noisy_image(9)]))
    assert {choice.status for choice in enough.choices} == {"met"}
    wanting = calibration(count([*images, noisy_image(9)]), min_pixels=10**6)
    assert {choice.status for choice in wanting.choices} == {"little evidence"}


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"target_precision": 0.9, "target_coverage": 0.9},
        {"target_precision": 1},
        {"target_precision": 0.9, "min_images": 1},
    ],
)
def test_a_rule_has_one_target_in_range(rule: dict[str, float]) -> None:
    """Neither target, both, one that nothing can prove, and one image as evidence are refused."""
    with pytest.raises(SettingsError):
        ChoiceRule.checked(**rule)


def test_quality_is_that_of_the_thresholds() -> None:
    """At the chosen thresholds by default, at others where they are given; only those of the grid can be told."""
    found = calibration(count([noisy_image(seed) for seed in range(12)]))
    quality = found.quality()
    assert [one.threshold for one in quality.classes] == list(found.thresholds.values())
    confusion = found.confusion()
    assert quality.precision == confusion.diagonal().sum() / confusion[:, :-1].sum()
    assert quality.coverage == confusion[:, :-1].sum() / confusion.sum()
    everything = found.quality(dict.fromkeys(NAMES, 0.0))
    assert everything.classes[1].pixels == found.counts.pixels.joint[:, 1].sum()
    with pytest.raises(SettingsError, match=r"the nearest are 0\.5 and 0\.55"):
        found.quality(dict.fromkeys(NAMES, 0.51))
    with pytest.raises(SettingsError, match="pole, sky of here got no threshold"):
        found.quality({"road": 0.5})
    with pytest.raises(SettingsError, match="'tree' is no class"):
        found.curve("tree")


def test_a_calibrated_teacher_has_a_small_calibration_error() -> None:
    """Who is right as often as it is sure has an error near 0; who is right half as often, half of its confidence."""
    honest, boaster = (calibration(count([noisy_image(s, (60, 60), k) for s in range(8)])) for k in (1.0, 0.5))
    assert honest.ece == pytest.approx(0, abs=0.02)
    assert boaster.ece == pytest.approx(0.25, abs=0.02)
    bins = honest.reliability
    assert sum(one.pixels for one in bins) == honest.counts.pixels.joint.sum()
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """The file holds everything: read and written again it is the same, and another target can be chosen from it."""
    found = calibration(count([noisy_image(seed) for seed in range(12)]))
    path = tmp_path / "calibration.json"
    path.write_bytes(found.to_json())
    again = read_calibration(path)
    assert again.to_json() == found.to_json()
    assert (again.failed, again.unknown, again.images, again.temperature) == ({"x": "torn"}, 7, 12, 1.0)
    rule = ChoiceRule(target_coverage=0.2, min_pixels=1)
    assert again.chosen_by(rule).choices == choose_thresholds(found.counts, NAMES, rule)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:-40], "is no calibration"),
        (lambda _: "[]", "is no calibration"),
        (lambda _: "[" * 100_000, "is no calibration"),
        (lambda text: text.replace('"calibration"', '"audit"', 1), "is a audit of version 1"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "of version 2"),
        (lambda text: text.replace('"steps": 20', '"steps": 10'), "counts of shape"),
        (lambda text: text.replace('"joint": [[0, 0', '"joint": [[0, 9'), "counts a class 9"),
        (lambda text: text.replace('"joint": [[0, 0', '"joint": [[0, 2'), "contradict"),
        (lambda text: text.replace('"name": "pole"', '"name": "tree"'), "do not agree"),
        (lambda text: text.replace('"target_precision"', '"target"'), "is no calibration"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[str], str], words: str) -> None:
    """Whatever is wrong with a file, the error names it and says what to do."""
    path = tmp_path / "calibration.json"
    path.write_text(damage(calibration(count([noisy_image(seed) for seed in range(12)])).to_json().decode()))
    with pytest.raises(SettingsError, match=words) as error:
        read_calibration(path)
    assert str(path) in str(error.value)


def test_a_missing_or_a_huge_file_is_refused(tmp_path: Path) -> None:
    """Nothing is read of a file that is larger than any calibration."""
    with pytest.raises(MissingFileError, match="autocoarse calibrate"):
        read_calibration(tmp_path / "calibration.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(SettingsError, match="expected a calibration of at most"):
        read_calibration(tmp_path / "huge.json")
