"""Which images a network in a file takes: any size, multiples of a number, or one size only.

Nothing here computes but the sizes.
"""

from dataclasses import dataclass

from storage.errors import ImageError, SettingsError

PROBES = (64, 128, 256, 512)
"""Sides of the images at which a network that takes any is tried, until one is large enough for it."""


@dataclass(frozen=True, slots=True)
class Side:
    """What a network wants of the images' height or width, in pixels."""

    fixed: int | None = None
    """The only length that it takes; None: it takes several."""
    multiple: int = 1
    """Of which a length has to be one."""
    least: int = 1
    most: int | None = None

    def nearest(self, length: int) -> int:
        """The length that it takes and that is nearest to another."""
        if self.fixed is not None:
            return self.fixed
        low = -(-self.least // self.multiple)
        steps = max(round(length / self.multiple), low, 1)
        return (steps if self.most is None else min(steps, self.most // self.multiple)) * self.multiple

    def __str__(self) -> str:
        if self.fixed is not None:
            return str(self.fixed)
        kind = "any" if self.multiple == 1 else f"a multiple of {self.multiple}"
        low = f" from {self.least}" if self.least > 1 else ""
        return f"{kind}{low}" + ("" if self.most is None else f" to {self.most}")


@dataclass(frozen=True, slots=True)
class ImageForm:
    """Sizes of images."""

    height: Side
    width: Side
    single: bool = False
    """Whether it takes one image at a time only."""

    @property
    def is_fixed(self) -> bool:
        """Whether the network takes images of one height or one width only."""
        return self.height.fixed is not None or self.width.fixed is not None

    def size_for(self, size: tuple[int, int], scale: float, where: str, *, native: bool) -> tuple[int, int]:
        """The size to which images are brought for the network.

        Where it takes one size only, images are stretched to it; where it takes multiples of a number, to the nearest
        of them.

        Args:
            size: (height, width) of the images.
            scale: at which they are.
            where: the network, for messages.
            native: leave them at their size.

        Raises:
            ImageError: their size is to be left, and the network does not take it.
            SettingsError: the network takes one size only, and the images are at another scale than 1.
        """
        if self.is_fixed and scale != 1:
            raise SettingsError(
                f"{where} takes images of {self} only, at every scale the same: choose the scales 1, or export it "
                f"with a height and a width that are left open"
            )
        wanted = (self.height.nearest(size[0]), self.width.nearest(size[1]))
        out_of_range = not self.is_fixed and any(
            abs(new - old) >= side.multiple
            for old, new, side in zip(size, wanted, (self.height, self.width), strict=True)
        )
        if wanted != size and (native or out_of_range):
            raise ImageError(
                f"an image of {size[1]}x{size[0]} pixels at scale {scale} is of no use to {where}, which takes {self}; "
                f"leave the image or the scale out{', or native in the description' if native else ''}"
            )
        return wanted

    def probes(self) -> list[tuple[int, int]]:
        """Sizes (height, width) of images at which to try the network."""
        return list(dict.fromkeys((self.height.nearest(side), self.width.nearest(side)) for side in PROBES))

    def __str__(self) -> str:
        if self.height.fixed is not None and self.width.fixed is not None:
            return f"{self.width.fixed}x{self.height.fixed} pixels"
        if self.height == self.width == Side():
            return "any size"
        return f"a width of {self.width} and a height of {self.height}"
