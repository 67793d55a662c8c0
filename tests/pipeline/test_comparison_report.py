"""The arithmetic and the texts of a comparison, on made-up scores."""

import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.comparison_report import (
    Comparison,
    Student,
    compare_students,
    comparison_markdown,
    comparison_plot,
    gain_text,
)
from pipeline.label_counts import LabelCounts
from pipeline.scores import Scores

CLASSES = ("road", "pole")


def student(name: str, seed: int, road: float | None, pole: float | None, miou: float | None = None) -> Student:
    """A student with these IoUs; its mIoU is their mean."""
    iou = {"road": road, "pole": pole}
    known = [value for value in iou.values() if value is not None]
    scores = Scores(
        images=2,
        miou=sum(known) / len(known) if miou is None else miou,
        iou=iou,
        pixel_accuracy=0.5,
        coverage=1.0,
        precision=0.5,
        precision_by_class=iou,
        recall_by_class=iou,
    )
    return Student(name, seed, scores, steps=100, seconds=10.0 + seed)


def compared(
    students: list[Student], names: tuple[str, ...] = ("fine", "coarse", "auto"), **changes: Any
) -> Comparison:
    """A comparison of these students against the coarse labels."""
    labels = {name: LabelCounts(4, 1, 1000, {"road": 300, "pole": 50}) for name in names}
    kinds = {name: name if name in ("fine", "coarse") else "auto" for name in names}
    return compare_students(students, labels, kinds, **{"baseline": "coarse", "expected": 9} | changes)


@pytest.fixture
def students() -> list[Student]:
    """Two sets over three seeds; the seeds differ much, the sets little but always."""
    return [
        *(student("coarse", seed, road, road) for seed, road in enumerate((0.40, 0.50, 0.60))),
        *(student("auto", seed, road, road) for seed, road in enumerate((0.42, 0.53, 0.61))),
    ]


def test_gain_is_the_mean_of_the_paired_differences(students: list[Student]) -> None:
    """What seeds do to both sets drops out of the gain and its error, and stays in the spread of each."""
    coarse, auto = compared(students).rows
    assert auto.miou.mean == pytest.approx(0.52)
    assert auto.miou.deviation == pytest.approx(math.sqrt((0.10**2 + 0.01**2 + 0.09**2) / 2))
    assert auto.miou.values == {0: 0.42, 1: 0.53, 2: 0.61}
    assert auto.gain is not None
    assert (auto.gain.mean, auto.gain.deviation) == pytest.approx((0.02, 0.01))
    assert auto.gain.error == pytest.approx(0.01 / math.sqrt(3))
    assert auto.gain.seeds == 3
    assert (coarse.gain, coarse.gain_by_class) == (None, {"road": None, "pole": None})
    assert (auto.steps, auto.seconds) == (100, 11.0)


def test_only_seeds_that_both_have_are_compared(students: list[Student]) -> None:
    """A comparison that is not finished pairs what there is, and says how many seeds each row rests on."""
    comparison = compared([s for s in students if (s.name, s.seed) != ("auto", 2)])
    auto = comparison.rows[1]
    assert auto.gain is not None
    assert (auto.gain.mean, auto.gain.seeds) == (pytest.approx(0.025), 2)
    assert (comparison.finished, comparison.students) == (5, 9)
    assert "5 of 9 students" in comparison_markdown(comparison)


def test_a_class_that_a_seed_lacks_is_left_out_of_its_figures() -> None:
    """A class is compared over the seeds in which both students have a figure for it, or not at all."""
    found = [
        *(student("coarse", 0, 0.5, None), student("coarse", 1, 0.5, 0.2)),
        *(student("auto", 0, 0.6, 0.3), student("auto", 1, 0.6, 0.3)),
    ]
    auto = compared(found).rows[1]
    pole = auto.gain_by_class["pole"]
    assert pole is not None
    assert (pole.mean, pole.error, pole.seeds) == (pytest.approx(0.1), None, 1)
    nowhere = compared([student("coarse", 0, 0.5, None), student("auto", 0, 0.6, None)])
    assert nowhere.rows[1].iou["pole"] is None
    assert "| pole | - (-) | - (-) |" in comparison_markdown(nowhere)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ((0.42, 0.53, 0.61), "auto gains 2.00 points, more than twice the standard error of 0.58"),
        ((0.44, 0.44, 0.62), "auto gains 0.00 points, not more than twice"),
        ((0.38, 0.47, 0.59), "auto loses 2.00 points, more than twice"),
    ],
)
def test_verdict_says_whether_a_gain_is_clear(second: tuple[float, ...], says: str) -> None:
    """The sentence holds each set's gain against twice its standard error, and says how little three seeds are."""
    found = [student("coarse", seed, value, value) for seed, value in enumerate((0.40, 0.50, 0.60))]
    found += [student("auto", seed, value, value) for seed, value in enumerate(second)]
    verdict = compared(found).verdict
    assert says in verdict
    assert "with 3 seeds, 4.3 times is needed" in verdict


def test_one_seed_is_said_to_tell_nothing(students: list[Student]) -> None:
    """Without a second seed there is no error, and no judgement."""
    comparison = compared([s for s in students if s.seed == 0])
    assert "one seed, which tells nothing" in comparison.verdict
    auto = comparison.rows[1]
    assert (auto.miou.deviation, gain_text(auto.gain)) == (None, "+2.00")
    assert "No student can be compared" in compared([student("auto", 0, 0.5, 0.5)]).verdict


def test_markdown_has_every_figure(students: list[Student]) -> None:
    """The text holds the tables of students, classes and labels."""
    text = comparison_markdown(compared(students))
    assert "| auto | 3 | 52.00 | 9.54 | 42.00, 53.00, 61.00 | +2.00 ± 0.58 | 100 | 11 | 35.00 |" in text
    assert "| coarse | 3 | 50.00 | 10.00 | 40.00, 50.00, 60.00 | - | 100 | 11 | 35.00 |" in text
    assert "| pole | 50.00 (-) | 52.00 (+2.00 ± 0.58) |" in text
    assert "| coverage, % | 35.00 | 35.00 | 35.00 |" in text
    assert "| of them road | 300 | 300 | 300 |" in text
    assert "| images without | 1 | 1 | 1 |" in text


def test_json_has_every_figure(students: list[Student]) -> None:
    """All figures are in the plain values, which survive JSON."""
    content = json.loads(json.dumps(compared(students).to_dict()))
    assert content.keys() == {"baseline", "rows", "labels", "kinds", "finished", "students", "verdict"}
    auto = content["rows"][1]
    assert auto["miou"]["values"] == {"0": 0.42, "1": 0.53, "2": 0.61}
    assert auto["gain"].keys() == {"mean", "deviation", "error", "seeds"}
    assert auto["gain_by_class"]["pole"]["mean"] == pytest.approx(0.02)
    assert content["labels"]["auto"]["coverage"] == 0.35
    assert content["labels"]["auto"]["by_class"] == {"road": 300, "pole": 50}


def test_plot_grows_with_classes_and_sets(students: list[Student]) -> None:
    """There is a picture as soon as there is a gain, and five sets of gains get more room than one."""
    assert comparison_plot(compared([s for s in students if s.name == "coarse"])) is None
    sizes = []
    for names in (("auto",), ("auto", "fill", "sure", "agree", "third")):
        found = [s for s in students if s.name == "coarse"]
        found += [student(name, seed, 0.5, 0.6) for name in names for seed in range(3)]
        content = comparison_plot(compared(found, ("coarse", *names)))
        assert content is not None
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] < sizes[1][1]


shares = st.floats(0, 1)
triples = st.tuples(shares, shares, shares)


@given(triples, triples, triples, st.permutations(["fine", "coarse", "auto"]), st.randoms())
def test_order_changes_no_number(
    fine: tuple[float, ...], coarse: tuple[float, ...], auto: tuple[float, ...], names: list[str], random: Any
) -> None:
    """Neither the order of the sets nor that in which students finish changes a figure."""
    values = {"fine": fine, "coarse": coarse, "auto": auto}
    found = [student(name, seed, v, 1 - v, v) for name in values for seed, v in enumerate(values[name])]
    expected = {row.name: row for row in compared(found).rows}
    random.shuffle(found)
    shuffled = compared(found, tuple(names)).rows
    assert [row.name for row in shuffled] == names
    assert {row.name: row for row in shuffled} == expected


@given(triples, triples)
def test_gain_and_its_opposite_agree(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    """Exchanging baseline and set turns the gain round and leaves its error."""
    found = [student(name, seed, v, v) for name, vs in (("coarse", one), ("auto", other)) for seed, v in enumerate(vs)]
    there, back = (
        next(row.gain for row in compared(found, baseline=base).rows if row.name != base) for base in ("coarse", "auto")
    )
    assert there is not None
    assert back is not None
    assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert there.error == pytest.approx(back.error, abs=1e-12)
