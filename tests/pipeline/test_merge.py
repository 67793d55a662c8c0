"""The merge of two labels: its laws, for any pair of labels, and its counts."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.merge import MergeCounts, Policy, merge_labels
from storage.errors import SettingsError, ShapeError
from storage.label_map import LabelMap
from storage.schema import IGNORE

CLASSES = 3
POLICIES: tuple[Policy, ...] = get_args(Policy)

labels = arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, IGNORE])).map(lambda v: LabelMap(v, CLASSES))
unions = st.sets(st.integers(0, CLASSES - 1)).map(tuple)
borders = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4))
policies = st.sampled_from(POLICIES)
BLANK = LabelMap(np.full((6, 8), IGNORE, np.uint8), CLASSES)


def values(*arguments: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The merged label's values."""
    return merge_labels(*arguments)[0].values


@given(labels, labels, unions, borders)
def test_fill_never_changes_a_human_pixel(coarse: LabelMap, auto: LabelMap, union: Any, border: Any) -> None:
    """Where the human says something, fill says the same."""
    merged = values(coarse, auto, "fill", union, border)
    human = coarse.values != IGNORE
    np.testing.assert_array_equal(merged[human], coarse.values[human])


@given(labels, labels)
def test_fill_covers_what_either_covers(coarse: LabelMap, auto: LabelMap) -> None:
    """Without a border a pixel is ignore only where both labels are."""
    merged = values(coarse, auto, "fill")
    np.testing.assert_array_equal(merged == IGNORE, (coarse.values == IGNORE) & (auto.values == IGNORE))


@given(labels, labels)
def test_agree_is_symmetric(one: LabelMap, other: LabelMap) -> None:
    """Without union classes and border it does not matter who is the human."""
    np.testing.assert_array_equal(values(one, other, "agree"), values(other, one, "agree"))


@given(labels, labels)
def test_agree_ignores_exactly_the_conflicts_of_fill(coarse: LabelMap, auto: LabelMap) -> None:
    """It differs from fill only where both labels have a class and differ, and is ignore there."""
    filled, agreed = values(coarse, auto, "fill"), values(coarse, auto, "agree")
    conflicts = (coarse.values != auto.values) & (coarse.values != IGNORE) & (auto.values != IGNORE)
    np.testing.assert_array_equal(agreed, np.where(conflicts, IGNORE, filled))


@given(labels, policies, unions)
def test_a_label_merged_with_itself_is_itself(label: LabelMap, policy: Policy, union: Any) -> None:
    """For every policy, and nothing is filled or in conflict."""
    merged, counts = merge_labels(label, label, policy, union)
    np.testing.assert_array_equal(merged.values, label.values)
    assert counts.kept == counts.human
    assert sum(counts.filled) == sum(counts.conflicts) == 0


@given(labels, policies)
def test_a_blank_human_label_gives_the_auto_label(auto: LabelMap, policy: Policy) -> None:
    """For every policy, and all of it counts as filled."""
    merged, counts = merge_labels(BLANK, auto, policy)
    np.testing.assert_array_equal(merged.values, auto.values)
    assert sum(counts.filled) + counts.ignored == counts.pixels


@given(labels, st.sampled_from(["fill", "agree"]), borders)
def test_a_blank_auto_label_gives_the_human_label(coarse: LabelMap, policy: Policy, border: Any) -> None:
    """With any border: the human's label is never lost to it."""
    np.testing.assert_array_equal(values(coarse, BLANK, policy, (), border), coarse.values)


@given(labels, labels, unions)
def test_auto_is_the_auto_label_and_the_human_pixels_of_the_union(coarse: LabelMap, auto: LabelMap, union: Any) -> None:
    """Nothing else of the human label is in it."""
    expected = np.where(np.isin(coarse.values, union), coarse.values, auto.values)
    np.testing.assert_array_equal(values(coarse, auto, "auto", union), expected)


@given(labels, labels, policies, unions, borders)
def test_the_human_pixels_of_a_union_class_are_in_every_result(
    coarse: LabelMap, auto: LabelMap, policy: Policy, union: Any, border: Any
) -> None:
    """Whatever policy and border say, and the union changes no other pixel."""
    with_union = values(coarse, auto, policy, union, border)
    of_union = np.isin(coarse.values, union)
    np.testing.assert_array_equal(with_union[of_union], coarse.values[of_union])
    np.testing.assert_array_equal(with_union[~of_union], values(coarse, auto, policy, (), border)[~of_union])


@given(labels, labels, policies, borders)
def test_a_border_is_an_auto_label_that_is_blank_there(
    coarse: LabelMap, auto: LabelMap, policy: Policy, border: Any
) -> None:
    """It masks the teacher and nobody else, whatever the counts are of."""
    top, bottom, left, right = border
    rows, columns = np.indices((6, 8))
    outside = (rows < top) | (rows >= 6 - bottom) | (columns < left) | (columns >= 8 - right)
    masked = LabelMap(np.where(outside, IGNORE, auto.values).astype(np.uint8), CLASSES)
    merged, counts = merge_labels(coarse, auto, policy, (), border)
    expected, expected_counts = merge_labels(coarse, masked, policy)
    np.testing.assert_array_equal(merged.values, expected.values)
    assert counts == expected_counts


@given(labels, labels, policies, unions, borders)
def test_counts_account_for_every_pixel(
    coarse: LabelMap, auto: LabelMap, policy: Policy, union: Any, border: Any
) -> None:
    """Each pixel comes from one of the two labels or is ignore, and is counted once, under its class."""
    merged, counts = merge_labels(coarse, auto, policy, union, border)
    from_a_parent = (merged.values == coarse.values) | (merged.values == auto.values)
    assert (from_a_parent | (merged.values == IGNORE)).all()
    assert counts.pixels == sum(counts.kept) + sum(counts.filled) + counts.ignored == merged.values.size
    assert [k + f for k, f in zip(counts.kept, counts.filled, strict=True)] == merged.counts[:CLASSES].tolist()
    assert counts.ignored == merged.ignored
    assert list(counts.human) == coarse.counts[:CLASSES].tolist()
    assert all(k <= h and c <= h for k, c, h in zip(counts.kept, counts.conflicts, counts.human, strict=True))


def test_each_kind_of_pixel_is_decided_and_counted_as_documented() -> None:
    """Conflict, blank, agreement, union: one pixel each, for the three policies."""
    coarse = LabelMap(np.array([[0, 255, 1, 255, 2]], np.uint8), CLASSES)
    auto = LabelMap(np.array([[1, 2, 1, 255, 0]], np.uint8), CLASSES, unknown=1)
    expected = {
        "fill": ([0, 2, 1, 255, 2], (1, 1, 1), (0, 0, 1)),
        "auto": ([1, 2, 1, 255, 2], (0, 1, 1), (0, 1, 1)),
        "agree": ([255, 2, 1, 255, 2], (0, 1, 1), (0, 0, 1)),
    }
    for policy in POLICIES:
        merged, counts = merge_labels(coarse, auto, policy, [2])
        got = (merged.values[0].tolist(), counts.kept, counts.filled)
        assert got == expected[policy]
        assert (counts.conflicts, counts.human, counts.unknown) == ((1, 0, 1), (1, 1, 1), 1)


@given(labels, labels, policies)
def test_counts_of_images_add_up(one: LabelMap, other: LabelMap, policy: Policy) -> None:
    """The counts of two images are those of the two side by side, and zero is none."""
    _, first = merge_labels(one, other, policy)
    _, second = merge_labels(other, one, policy)
    beside = [LabelMap(np.hstack([a.values, b.values]), CLASSES) for a, b in ((one, other), (other, one))]
    assert MergeCounts.zero(CLASSES) + first + second == merge_labels(beside[0], beside[1], policy)[1]


def test_the_labels_given_are_left_as_they_are() -> None:
    """Merging writes into neither of its arguments."""
    coarse, auto = (LabelMap(np.array(v, np.uint8), CLASSES) for v in ([[0, 255]], [[1, 1]]))
    for policy in POLICIES:
        merge_labels(coarse, auto, policy, [0])
    assert (coarse.values.tolist(), auto.values.tolist()) == ([[0, 255]], [[1, 1]])


@pytest.mark.parametrize("border", [(6, 0, 0, 0), (3, 3, 0, 0), (0, 0, 5, 3), (0, 0, 0, 90)])
def test_a_border_that_leaves_no_pixel_is_refused(border: Any) -> None:
    """The message says which border and which size."""
    with pytest.raises(SettingsError, match="leaves no pixel of 8x6"):
        merge_labels(BLANK, BLANK, "fill", (), border)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fill", (3,)), r"union class 3 is no class index, expected 0\.\.2"),
        (("fill", (-1,)), "union class -1"),
        (("fill", (IGNORE,)), "union class 255"),
        (("fill", (), (0, -1, 0, 0)), "not negative"),
        (("union",), "policy is 'union', expected one of fill, auto, agree"),
    ],
)
def test_what_was_asked_for_out_of_range_is_named(arguments: tuple[Any, ...], says: str) -> None:
    """Classes, borders and policies that are none are refused."""
    with pytest.raises(SettingsError, match=says):
        merge_labels(BLANK, BLANK, *arguments)


def test_labels_of_two_sizes_or_schemas_are_refused() -> None:
    """The message gives both sizes."""
    with pytest.raises(ShapeError, match="8x6 with 3 classes, the auto label 6x8"):
        merge_labels(BLANK, LabelMap(BLANK.values.T, CLASSES))
    with pytest.raises(ShapeError, match="with 4"):
        merge_labels(BLANK, LabelMap(BLANK.values, 4))
