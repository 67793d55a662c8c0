"""Masks as run lengths, brushes and polygons: exact both ways, agreed with the tools that own them, safe to read."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.brush_rle import decode_brush, encode_brush
from storage.errors import LabelError
from storage.polygon_fill import fill_polygon
from storage.run_lengths import coco_text, count_runs, expand_runs, parse_coco_text

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(masks)
@settings(max_examples=60, deadline=None)
def test_a_mask_comes_back_from_run_lengths_and_from_their_text(mask: np.ndarray) -> None:
    """Run lengths, and COCO's text of them, hold a mask exactly."""
    runs = count_runs(mask.ravel())
    np.testing.assert_array_equal(parse_coco_text(coco_text(runs), int(runs.sum())), runs)
    np.testing.assert_array_equal(expand_runs(runs, mask.size).reshape(mask.shape), mask)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_coco_s_own_api_reads_and_writes_the_same_text(mask: np.ndarray) -> None:
    """The text is, character for character, the one of pycocotools."""
    coco = pytest.importorskip("pycocotools.mask")
    text = coco_text(count_runs(mask.ravel(order="F")))
    assert text.encode() == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(coco.decode({"counts": text.encode(), "size": list(mask.shape)}), mask)


def test_long_runs_have_a_text() -> None:
    """Counts of a large image, which take several digits and large differences, come back."""
    runs = np.array([178_956_970, 1, 3, 90_000_000, 5, 2], np.int64)
    np.testing.assert_array_equal(parse_coco_text(coco_text(runs), int(runs.sum())), runs)


@given(masks)
@settings(max_examples=60, deadline=None)
def test_a_mask_comes_back_from_a_brush(mask: np.ndarray) -> None:
    """Label Studio's stream holds a mask exactly."""
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_a_brush_with_literal_values_and_soft_borders_is_read() -> None:
    """Values one by one are read, and a pixel is inside from half its opacity on."""
    alpha = [0, 127, 128, 255]
    values = [value for a in alpha for value in (1, 2, 3, a)]
    bits = f"{16:032b}{7:05b}" + "0010" + "0011" + "0111" + "1111"
    bits += "0" + "01" + f"{15:04b}" + "".join(f"{v:08b}" for v in values)
    bits += "0" * (-len(bits) % 8)
    rle = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    np.testing.assert_array_equal(decode_brush(rle, (2, 2)), [[False, False], [True, True]])


def test_a_large_mask_takes_several_runs_of_a_brush() -> None:
    """A region of more values than one run can count is written in several."""
    mask = np.zeros((300, 301), np.bool_)
    mask[3:298] = True
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


@pytest.mark.parametrize("runs", [[], [3], [2, -1, 3], [1, 4], [2**63 - 1, 2**63 - 1, 6], [[1, 3]], ["x"], [10**30]])
def test_runs_that_do_not_describe_the_pixels_are_refused(runs: list) -> None:
    """Nothing is made of counts that do not add up, whatever they claim."""
    with pytest.raises(LabelError):
        expand_runs(runs, 4)


@pytest.mark.parametrize("text", ["", "\x00", "é", "o", "P" * 20 + "0", "p0"])
def test_a_text_that_is_no_run_lengths_is_refused(text: str) -> None:
    """Characters out of range, and counts without an end or of too many digits, are errors of ours."""
    with pytest.raises(LabelError):
        parse_coco_text(text, 100)


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_brush_or_an_error_of_ours(content: bytes) -> None:
    """A brush that is not to be trusted never gives another error, nor a mask of another size."""
    header = (64).to_bytes(4, "big")
    for rle in (content, header + content):
        with contextlib.suppress(LabelError):
            assert decode_brush(list(rle), (4, 4)).shape == (4, 4)


def test_a_brush_that_claims_other_pixels_is_refused_before_any_are_made() -> None:
    """The stream's own count must be the image's."""
    rle = [255, 255, 255, 255, *encode_brush(np.ones((2, 2), np.bool_))[4:]]
    with pytest.raises(LabelError, match="expected 16 of 8"):
        decode_brush(rle, (2, 2))


def test_a_polygon_covers_the_pixels_whose_centres_it_holds() -> None:
    """A rectangle covers its pixels, two that share an edge share no pixel, and what is outside is cut off."""
    left, right = [-5, 1, 3, 1, 3, 4, -5, 4], [3, 1, 99, 1, 99, 4, 3, 4]
    first, second = (fill_polygon(one, (6, 8)) for one in (left, right))
    expected = np.zeros((6, 8), np.bool_)
    expected[1:4] = True
    np.testing.assert_array_equal(first | second, expected)
    assert not (first & second).any()
    assert first.sum() == 9


def test_a_star_has_a_hole_where_it_covers_itself() -> None:
    """Where a polygon crosses itself the even-odd rule holds."""
    star = fill_polygon([5, 0, 8, 10, 0, 4, 10, 4, 2, 10], (10, 10))
    assert not star[5, 5]
    assert star[2, 5]


@pytest.mark.parametrize("corners", [[0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, float("nan"), 1, 2, 2], [0] * 200_002])
def test_what_is_no_polygon_is_refused(corners: list[float]) -> None:
    """Too few or too many corners, and those that are no numbers, are errors."""
    with pytest.raises(LabelError):
        fill_polygon(corners, (4, 4))
