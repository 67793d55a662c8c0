"""Which images deserve a review: the share of wrong pixels that is to be expected of each, given what was seen of it.

Where humans drew little, the share of disagreeing pixels is mostly chance. Neighbouring pixels are right or wrong
together, so the evidence of an image is counted in blocks of it, not in pixels, and its share is drawn towards that of
all images: the more, the fewer blocks were judged, the less of the image they are, and the less images differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

_BLOCKS = 8
"""Rows and columns of blocks that an image is divided into."""


@dataclass(frozen=True, slots=True)
class BlockEvidence:
    """What one image's judged pixels say, counted in blocks."""

    blocks: float
    """As how many blocks of equally many judged pixels they are (Kish); 0 where none is judged."""
    share: float
    """Wrong pixels of the judged ones; 0 where none is judged."""
    seen: float
    """Judged pixels of all of the image, in [0, 1]."""
    spread: float
    """Of the blocks' shares around the image's; its expectation is the variance of a block's share * (blocks - 1)."""

    @classmethod
    def of_image(cls, judged: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> Self:
        """Count one image.

        Args:
            judged: pixels that can be judged, (height, width).
            wrong: of these, the ones that are wrong, of the same shape.
        """
        of_block, wrong_of_block = _count_blocks(judged), _count_blocks(wrong)
        total = of_block.sum()
        if not total:
            return cls(0.0, 0.0, 0.0, 0.0)
        blocks = total**2 / (of_block**2).sum()
        share = wrong_of_block.sum() / total
        seen = of_block > 0
        away = (wrong_of_block[seen] - share * of_block[seen]) ** 2 / of_block[seen]
        return cls(float(blocks), float(share), float(total / judged.size), float(blocks / total * away.sum()))


def _count_blocks(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    rows, columns = (np.unique(np.linspace(0, side, _BLOCKS, endpoint=False).astype(np.intp)) for side in mask.shape)
    return np.add.reduceat(np.add.reduceat(mask, rows, 0, np.float64), columns, 1)


def expected_shares(images: Sequence[BlockEvidence]) -> list[float]:
    """The share of wrong pixels that is to be expected of each image.

    It is the empirical Bayes estimate (n * share + k * mean) / (n + k) of an image of n blocks, of which `seen` was
    judged: k is 1 - seen, times the ratio of the variance between blocks of an image to that between images, both
    estimated from the set by the method of moments. An image that was judged as a whole is what it is; where images do
    not differ by more than chance, the mean of all is expected of each.

    Args:
        images: in any order; the shares are in the same.

    Source: Cochran, Sampling Techniques, 1977, section 2.6 (variance of a mean, of a part of a finite whole); Searle,
    Casella and McCulloch, Variance Components, 1992, section 3.6 (moments); Morris, J. Am. Stat. Assoc. 78, 1983, p. 47
    (the estimate).
    """
    columns = [(one.blocks, one.share, one.seen, one.spread) for one in images]
    blocks, share, seen, spread = np.array(columns, np.float64).reshape(-1, 4).T
    total = blocks.sum()
    if not total:
        return [0.0] * len(images)
    mean = (blocks * share).sum() / total
    freedom = np.maximum(blocks - 1, 0).sum()
    # where no image has two blocks, a block may be all right or all wrong
    within = spread.sum() / freedom if freedom > 0 else mean * (1 - mean)
    by_chance = within * (1 - seen)  # variance of an image's share, times its blocks
    around_mean = (blocks * (share - mean) ** 2).sum()
    excess = around_mean - (by_chance * (1 - blocks / total))[blocks > 0].sum()
    independent = total - (blocks**2).sum() / total  # nothing where one image has all blocks
    if min(excess, independent) <= 0:
        return [float(mean)] * len(images)
    between = excess / independent
    # where blocks are all alike, what was seen counts alone, and the mean for those of which nothing was seen
    own, whole = between * blocks, between * blocks + by_chance
    expected = np.divide(own * share + by_chance * mean, whole, out=np.full_like(share, mean), where=whole > 0)
    return [float(value) for value in np.clip(expected, 0, 1)]
