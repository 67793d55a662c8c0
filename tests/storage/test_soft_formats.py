"""Soft labels in other formats: what they take raw is arithmetic, what they take compressed is measured."""

import numpy as np
import pytest

from storage.soft_formats import SOFT_FORMATS, SoftFormat

BY_NAME = {form.name: form for form in SOFT_FORMATS}


@pytest.mark.parametrize(("name", "expected"), [("fp32", 76), ("fp16", 38), ("uint8", 19), ("top3", 6), ("top2", 4)])
def test_raw_bytes_of_a_pixel_of_nineteen_classes(name: str, expected: int) -> None:
    """Every class in 4, 2 or 1 bytes, or index and probability of the likeliest in one byte each."""
    assert BY_NAME[name].raw_bytes(1, 19) == expected
    assert BY_NAME[name].raw_bytes(1000, 19) == 1000 * expected


def test_no_more_classes_are_kept_than_there_are() -> None:
    """Two classes have no third."""
    assert BY_NAME["top3"].raw_bytes(10, 2) == BY_NAME["top2"].raw_bytes(10, 2) == 40


def test_coarser_formats_compress_to_less(rng: np.random.Generator) -> None:
    """Smooth probabilities take less in fewer bits and with fewer classes, and all take less than raw."""
    scores = rng.standard_normal((6, 40, 50)).cumsum(1).cumsum(2).astype(np.float32)
    probabilities = np.exp(scores - scores.max(0))
    probabilities /= probabilities.sum(0)
    sizes = {form.name: form.compressed_bytes(probabilities) for form in SOFT_FORMATS}
    assert sizes["fp32"] > sizes["fp16"] > sizes["uint8"]
    assert sizes["top3"] > sizes["top2"]
    assert all(sizes[form.name] < form.raw_bytes(2000, 6) for form in SOFT_FORMATS)


def test_the_likeliest_classes_are_those_that_are_kept() -> None:
    """Index and rounded probability of each rank, one plane after the other; the input stays as it is."""
    probabilities = np.array([[[0.1, 0.6]], [[0.7, 0.3]], [[0.2, 0.1]]], np.float32)
    before = probabilities.copy()
    planes = list(SoftFormat("top2", "uint8", 2)._planes(probabilities))
    assert [plane.tolist() for plane in planes] == [[[1, 0]], [[178, 153]], [[2, 1]], [[51, 76]]]
    assert (probabilities == before).all()
