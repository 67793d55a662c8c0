"""Shares with honest intervals: images, not pixels, are what was drawn independently.

Pixels of one image are right or wrong together, so that a million of them may say no more than a handful of images.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]

LEVEL = 0.95
"""Of every interval, two-sided."""


@dataclass(frozen=True, slots=True)
class RatioSums:
    """What must be summed over images to know a share and how uncertain it is; sums of parts of a set can be added.

    All of one shape, int64, exact whatever the order.
    """

    images: Counts
    """Images in which there is anything to take a share of."""
    part: Counts
    whole: Counts
    part_squared: Counts
    whole_squared: Counts
    product: Counts
    """Of part and whole, image by image."""

    @classmethod
    def of_image(cls, part: Counts, whole: Counts) -> Self:
        """The sums of one image.

        Args:
            part: pixels that count, any shape; at most `whole`.
            whole: pixels of which they are counted.
        """
        part, whole = part.astype(np.int64), whole.astype(np.int64)
        return cls((whole > 0).astype(np.int64), part, whole, part * part, whole * whole, part * whole)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.images + other.images,
            self.part + other.part,
            self.whole + other.whole,
            self.part_squared + other.part_squared,
            self.whole_squared + other.whole_squared,
            self.product + other.product,
        )

    def share(self) -> Shares:
        """Part of whole, in [0, 1]; NaN where the whole is nothing."""
        with np.errstate(invalid="ignore"):
            return self.part / self.whole

    def effective_images(self) -> Shares:
        """As how many images of equal weight they are: few that hold most of the pixels count as few; 0 of nothing.

        Source: Kish, Survey Sampling, 1965, section 11.7.
        """
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(self.whole.astype(np.float64) ** 2 / self.whole_squared)

    def interval(self) -> tuple[Shares, Shares]:
        """Bounds of the share that a set of images like these has, by a two-sided interval of `LEVEL`.

        The variance of a ratio of sums over images says how many independent draws the images were worth; with that
        number Wilson's interval is taken, corrected for few images by Student's distribution, whose degrees of freedom
        are those of `effective_images`. Where all are right, or none, the variance says nothing, and they are worth as
        many draws as that.

        Returns:
            Lower and upper bounds in [0, 1]; NaN where the whole is nothing, 0 and 1 where one image holds all of it.

        Source: Cochran, Sampling Techniques, 1977, section 9A.1 (variance); Korn and Graubard, Survey Methodology 24,
        1998, p. 193 (effective sample size); Franco et al., J. Surv. Stat. Methodol. 7, 2019, p. 334 (with Wilson's).
        """
        from scipy.special import ndtri, stdtrit  # not needed where a calibration's thresholds are only read

        share, images, effective = self.share(), self.images.astype(np.float64), self.effective_images()
        quantile = float(ndtri(0.5 + LEVEL / 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = self.part_squared - 2 * share * self.product + share**2 * self.whole_squared
            variance = images / (images - 1) * np.maximum(spread, 0) / self.whole.astype(np.float64) ** 2
            draws = share * (1 - share) / variance
            degenerate = ~((share > 0) & (share < 1)) | ~np.isfinite(draws)
            draws = np.where(degenerate, effective, np.minimum(draws, self.whole))
            # a single image leaves no degree of freedom, and is worth nothing
            draws = np.nan_to_num(draws * (quantile / stdtrit(effective - 1, 0.5 + LEVEL / 2)) ** 2)
        centre = (share * draws + quantile**2 / 2) / (draws + quantile**2)
        reach = quantile * np.sqrt(draws * share * (1 - share) + quantile**2 / 4) / (draws + quantile**2)
        low, high = np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)
        nothing = self.whole == 0
        return np.where(nothing, np.nan, low), np.where(nothing, np.nan, high)
