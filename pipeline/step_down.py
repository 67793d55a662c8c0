"""What is done when the device's memory does not suffice: fewer images at a time, then tiles, remembered by image size.

It knows sizes and ways, and nothing of the device or of what is labelled.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Way:
    """How images of one size are labelled."""

    batch: int = 1
    """Images at a time."""
    tile: int | None = None
    """Side of the tiles in pixels; None: images are labelled whole."""

    def __str__(self) -> str:
        images = "one image" if self.batch == 1 else f"{self.batch} images"
        return f"{images} at a time" + ("" if self.tile is None else f", in tiles of {self.tile} pixels")

    @property
    def need(self) -> tuple[float, int]:
        """By which ways are ordered: the smaller takes less memory."""
        return (float("inf") if self.tile is None else self.tile, self.batch)


@dataclass(slots=True)
class StepDown:
    """The way for each image size: as it was first, or the one that was reached when memory ran out.

    What runs out for a size runs out for larger ones too; they start where the smaller one has come to.

    Args:
        first: the way for a size, given as (height, width), where nothing is known against it.
        next_tile: side of the next smaller tiles for a size, after those of the given side or, for None, after whole
            images; None where there are none.
    """

    first: Callable[[tuple[int, int]], Way]
    next_tile: Callable[[tuple[int, int], int | None], int | None]
    _first: dict[int, Way] = field(default_factory=dict, repr=False)
    """By pixels of the image, as `_reached`."""
    _reached: dict[int, Way] = field(default_factory=dict, repr=False)

    def way(self, size: tuple[int, int]) -> Way:
        """How images of a size are labelled now."""
        pixels = size[0] * size[1]
        if pixels not in self._first:
            self._first[pixels] = self.first(size)
        known = [way for smaller, way in self._reached.items() if smaller <= pixels]
        return min([self._first[pixels], *known], key=lambda way: way.need)

    def step_down(self, size: tuple[int, int], together: int) -> bool:
        """Take the next smaller way for a size, for the rest of the run.

        Args:
            size: (height, width) of the images for which memory ran out.
            together: how many they were.

        Returns:
            Whether there is one.
        """
        way = self.way(size)
        if together > 1:
            lower = Way(together // 2, way.tile)
        else:
            tile = self.next_tile(size, way.tile)
            if tile is None:
                return False
            lower = Way(1, tile)
        self._reached[size[0] * size[1]] = lower
        return True
