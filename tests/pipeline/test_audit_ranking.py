"""The share of wrong pixels that is expected of an image: what it is drawn to, and by how much."""

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit_ranking import BlockEvidence, expected_shares


def evidence(share: float, blocks: int = 64, spread: float = 0.05, seen: float | None = None) -> BlockEvidence:
    """Of an image with so many blocks, of which the shares have a standard deviation of about `spread`."""
    return BlockEvidence(float(blocks), share, blocks / 70 if seen is None else seen, spread**2 * max(blocks - 1, 0))


EVIDENCE = st.lists(
    st.builds(evidence, st.floats(0, 1), st.integers(1, 64), st.floats(0, 0.5)), min_size=1, max_size=12
)


@given(images=EVIDENCE)
def test_expected_shares_lie_between_the_images_and_the_mean(images: list[BlockEvidence]) -> None:
    """What is expected of an image lies between its own share and the mean of all."""
    mean = np.average([one.share for one in images], weights=[one.blocks for one in images])
    for one, expected in zip(images, expected_shares(images), strict=True):
        low, high = sorted((one.share, mean))
        assert low - 1e-9 <= expected <= high + 1e-9


@given(images=EVIDENCE, order=st.randoms())
def test_the_order_changes_nothing(images: list[BlockEvidence], order: Random) -> None:
    """Each image is expected to have the same share in whatever order they come."""
    mixed = list(range(len(images)))
    order.shuffle(mixed)
    shares = expected_shares(images)
    assert expected_shares([images[i] for i in mixed]) == pytest.approx([shares[i] for i in mixed])


@given(images=EVIDENCE, blocks=st.integers(2, 64))
def test_of_equal_evidence_the_worse_share_is_the_worse(images: list[BlockEvidence], blocks: int) -> None:
    """Of two images of as many blocks the one with more wrong pixels is never ranked better."""
    better, worse = expected_shares([*images, evidence(0.2, blocks), evidence(0.4, blocks)])[-2:]
    assert better <= worse


def test_little_evidence_is_believed_little() -> None:
    """An image of which one block was judged, all wrong, comes after one of which half of many blocks is wrong."""
    normal = [evidence(share) for share in np.linspace(0.01, 0.1, 30)]
    half, one_block = expected_shares([*normal, evidence(0.5), evidence(1.0, blocks=1, spread=0.3)])[-2:]
    assert half > 0.45
    assert 0.05 < one_block < 1


def test_nothing_seen_is_the_mean() -> None:
    """An image without a judged pixel is expected to be like the others; a set without any is expected to be right."""
    shares = expected_shares([evidence(0.1), evidence(0.3), BlockEvidence(0, 0, 0, 0)])
    assert shares[2] == pytest.approx(0.2)
    assert expected_shares([BlockEvidence(0, 0, 0, 0)] * 2) == [0, 0]
    assert expected_shares([]) == []


def test_images_that_differ_by_chance_are_all_expected_to_be_the_mean() -> None:
    """Where little was seen, and shares vary no more than blocks do, nothing is known of one that is not of all."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(50):
        judged = rng.random((64, 64)) < 0.1
        images.append(BlockEvidence.of_image(judged, judged & (rng.random((64, 64)) < 0.1)))
    shares = expected_shares(images)
    assert max(shares) - min(shares) < 0.01


@given(shares=st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_an_image_that_was_judged_as_a_whole_is_what_it_is(shares: list[float]) -> None:
    """Where every pixel was judged, nothing is left to chance, and the share itself is expected."""
    assert expected_shares([evidence(share, seen=1.0) for share in shares]) == pytest.approx(shares)


def masks(*rows: str) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Judged and wrong pixels: `.` is not judged, `r` right, `w` wrong."""
    values = np.array([list(row) for row in rows])
    return values != ".", values == "w"


def test_blocks_are_counted_by_their_judged_pixels() -> None:
    """In an image of less than 8x8 pixels each pixel is a block; without a judged pixel there is none."""
    assert BlockEvidence.of_image(*masks("rw.", "r.r")) == BlockEvidence(4.0, 0.25, 4 / 6, pytest.approx(0.75))
    assert BlockEvidence.of_image(*masks("...", "...")) == BlockEvidence(0, 0, 0, 0)


def test_pixels_of_one_block_are_one_piece_of_evidence() -> None:
    """However many pixels lie together, they are one block; spread over the image, they are many."""
    judged = np.zeros((80, 80), bool)
    judged[:10, :10] = True
    assert BlockEvidence.of_image(judged, judged).blocks == 1
    spread = np.zeros((80, 80), bool)
    spread[::8, ::8] = True
    assert spread.sum() == judged.sum()
    assert BlockEvidence.of_image(spread, spread).blocks > 40
