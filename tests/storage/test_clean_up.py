"""Clean-up of label maps: small components become ignore, and nothing else happens."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.clean_up import remove_small_components
from storage.errors import SettingsError
from storage.label_map import LabelMap

VALUES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 255]))
SIZES = st.integers(0, 12)


def clean(values: npt.NDArray[np.uint8], min_pixels: int) -> npt.NDArray[np.uint8]:
    """The cleaned values of a label map of three classes."""
    return remove_small_components(LabelMap(values, 3), min_pixels).values


def flood(values: npt.NDArray[np.uint8], start: tuple[int, int]) -> set[tuple[int, int]]:
    """The pixels of a pixel's component, found step by step."""
    found, waiting = {start}, [start]
    while waiting:
        row, column = waiting.pop()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= near[0] < values.shape[0] and 0 <= near[1] < values.shape[1]
            if inside and near not in found and values[near] == values[start]:
                found.add(near)
                waiting.append(near)
    return found


def test_small_components_of_each_class_become_ignore() -> None:
    """Components are counted over edges and within one class; a corner joins nothing, ignore is no component."""
    values = np.array(
        [
            [0, 0, 0, 1, 255, 2],
            [0, 1, 1, 255, 255, 255],
            [1, 0, 0, 255, 2, 2],
        ],
        np.uint8,
    )
    expected = np.array(
        [
            [0, 0, 0, 255, 255, 255],
            [0, 255, 255, 255, 255, 255],
            [255, 255, 255, 255, 255, 255],
        ],
        np.uint8,
    )
    assert clean(values, 3).tolist() == expected.tolist()
    assert clean(values, 5).tolist() == np.full((3, 6), 255).tolist()


def test_a_class_in_the_corner_and_class_zero_are_components_like_any_other() -> None:
    """Class 0 is no background: a small component of it goes, a large one stays."""
    values = np.array([[0, 1, 1, 1], [1, 1, 0, 0]], np.uint8)
    assert clean(values, 2).tolist() == [[255, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("min_pixels", [0, 1])
def test_components_of_one_pixel_stay_where_none_is_asked_for(min_pixels: int) -> None:
    """0 and 1 change nothing, as no component has fewer than one pixel."""
    values = np.array([[0, 1], [2, 255]], np.uint8)
    assert clean(values, min_pixels).tolist() == values.tolist()


def test_what_is_known_of_the_label_stays() -> None:
    """The number of classes and of pixels of unknown source ids are those of the label; the label is left as it is."""
    label = LabelMap(np.array([[0, 1, 1, 255]], np.uint8), 7, unknown=1)
    cleaned = remove_small_components(label, 2)
    assert (cleaned.num_classes, cleaned.unknown, cleaned.values.dtype) == (7, 1, np.uint8)
    assert label.values.tolist() == [[0, 1, 1, 255]]


def test_a_negative_size_is_refused() -> None:
    """A negative number of pixels is an error that says what was got and what is expected."""
    with pytest.raises(SettingsError, match="fewer than -1 pixels do not exist; expected 0 or more"):
        clean(np.zeros((2, 2), np.uint8), -1)


@given(values=VALUES, min_pixels=SIZES)
def test_twice_is_the_same_as_once(values: npt.NDArray[np.uint8], min_pixels: int) -> None:
    """Cleaning what is clean changes nothing."""
    once = clean(values, min_pixels)
    assert np.array_equal(clean(once, min_pixels), once)


@given(values=VALUES, min_pixels=SIZES)
def test_no_pixel_changes_its_class(values: npt.NDArray[np.uint8], min_pixels: int) -> None:
    """A pixel keeps its class or becomes ignore."""
    cleaned = clean(values, min_pixels)
    assert ((cleaned == values) | (cleaned == 255)).all()


@given(values=VALUES, one=SIZES, other=SIZES)
def test_a_larger_size_never_keeps_more(values: npt.NDArray[np.uint8], one: int, other: int) -> None:
    """What is kept at a size is kept at every smaller size."""
    smaller, larger = sorted((one, other))
    kept = clean(values, larger) != 255
    assert (clean(values, smaller)[kept] == values[kept]).all()


@given(values=VALUES, min_pixels=SIZES)
def test_components_are_those_of_a_flood_fill(values: npt.NDArray[np.uint8], min_pixels: int) -> None:
    """A pixel stays if, and only if, a flood from it over its class reaches enough pixels."""
    expected = values.copy()
    for row, column in np.ndindex(values.shape):
        if len(flood(values, (row, column))) < min_pixels:
            expected[row, column] = 255
    assert np.array_equal(clean(values, min_pixels), expected)
