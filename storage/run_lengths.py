"""Masks as run lengths: how many pixels are outside, then inside, then outside again, and COCO's text of such counts.

Which way the pixels are walked, by rows or by columns, is the format's; here they are in one line.
"""

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

_DIGIT_BITS, _SIGN, _MORE, _ZERO = 5, 0x10, 0x20, 48
_DIGITS = 7
"""Most digits of a count in COCO's text: 35 bits, more pixels than any image has."""


def count_runs(flat: Mask) -> Counts:
    """Lengths of the runs of a mask, by turns outside and inside, the first outside and maybe 0.

    Args:
        flat: (pixel,) bool, at least one.

    Returns:
        (run,) int64, adding up to the pixels.
    """
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return np.concatenate([[0], runs]) if flat[0] else runs


def expand_runs(runs: npt.ArrayLike, pixels: int) -> Mask:
    """The mask of run lengths: (pixels,) bool.

    Args:
        runs: as `count_runs` gives them; not to be trusted.
        pixels: how many there must be. Nothing of that size is made before they are counted.

    Raises:
        LabelError: the runs are no counts, or do not add up to the pixels.
    """
    try:
        counts = np.asarray(runs, np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise LabelError(f"run lengths are no integers: {error}") from error
    if counts.ndim != 1 or (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise LabelError(
            f"{counts.size} run lengths do not describe {pixels} pixels: expected counts of at least 0 that add up to "
            f"that number"
        )
    inside = np.arange(counts.size) % 2 == 1
    return np.repeat(inside, counts)


def coco_text(runs: Counts) -> str:
    """The text that COCO's tools write for run lengths.

    Each count but the first three is given as its difference from the last but one, in digits of five bits, lowest
    first.

    Source: `rleToString` of the COCO API's maskApi.c.
    """
    left = runs.copy()
    left[3:] -= runs[1:-2]
    digits = np.zeros((left.size, _DIGITS), np.uint8)
    used = np.zeros(digits.shape, np.bool_)
    going = np.ones(left.size, np.bool_)
    for place in range(_DIGITS):
        digit = left & (_MORE - 1)
        left >>= _DIGIT_BITS
        used[:, place] = going
        going = going & np.where(digit & _SIGN, left != -1, left != 0)
        digits[:, place] = digit + np.where(going, _MORE, 0) + _ZERO
    assert not going.any(), "counts have at most 34 bits"
    return digits[used].tobytes().decode("ascii")


def parse_coco_text(text: str, pixels: int) -> Counts:
    """Read what `coco_text` writes: (run,) int64, which may be anything if the text is not to be trusted.

    Args:
        text: of run lengths.
        pixels: of the mask; a text that is too long for them is not looked at.

    Raises:
        LabelError: it is no such text.
    """
    if not 0 < len(text) <= _DIGITS * (pixels + 1):
        raise LabelError(f"run lengths of {len(text)} characters are none of a mask of {pixels} pixels")
    digits = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - _ZERO
    ends = np.flatnonzero(digits & _MORE == 0)
    if digits.min() < 0 or digits.max() >= 2 * _MORE or ends.size == 0 or ends[-1] != digits.size - 1:
        raise LabelError("run lengths are no text of COCO's: expected characters from 0 to o, whose last ends a count")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _DIGITS:
        raise LabelError(f"a count in COCO's text has {lengths.max()} digits, no image needs more than {_DIGITS}")
    places = np.arange(digits.size) - np.repeat(starts, lengths)
    counts = np.add.reduceat((digits & (_MORE - 1)) << (_DIGIT_BITS * places), starts)
    negative = digits[ends] & _SIGN != 0
    counts -= negative.astype(np.int64) << (_DIGIT_BITS * lengths)
    # undone within the odd and within the even counts; sums that leave the range are refused when they are expanded
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
