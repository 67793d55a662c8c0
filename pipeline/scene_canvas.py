"""The paper that street scenes are painted on: a pinhole camera, the light, and an image painted with its labels.

It knows shapes and colours, not what is in a street.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Point = tuple[float, float]
"""Column and row, in pixels of the finished image."""

Place = tuple[float, float, float]
"""Right of the camera, above the ground, in front of the camera; metres."""

Colour = tuple[int, int, int]
"""Red, green, blue, each 0..255."""

SUPERSAMPLING = 2
"""The image is painted this many times larger and averaged down, so that its edges are soft; labels are picked."""

NEAREST = 0.8
"""Metres; whatever is closer to the camera is pushed to this distance before it is projected."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A level pinhole camera above a flat ground."""

    focal: float
    """Focal length, pixels."""
    height: float
    """Height above the ground, metres."""
    horizon: float
    """Row of the horizon, pixels."""
    centre: float
    """Column of the vanishing point, pixels."""

    def project(self, places: Sequence[Place]) -> list[Point]:
        """Where places in front of the camera appear, in pixels."""
        points = []
        for right, up, forward in places:
            scale = self.focal / max(forward, NEAREST)
            points.append((self.centre + scale * right, self.horizon + scale * (self.height - up)))
        return points

    def pixels(self, length: float, distance: float) -> float:
        """How many pixels a length in metres covers at a distance in metres."""
        return self.focal * length / max(distance, NEAREST)


def strip(left: float, right: float, near: float, far: float) -> list[Place]:
    """The corners of a rectangle on the ground, metres."""
    return [(left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far)]


@dataclass(frozen=True, slots=True)
class Light:
    """What the weather does to colours before the camera sees them."""

    haze: Colour
    """The colour into which far things fade."""
    visibility: float
    """Distance at which haze takes 63 % of the colour, metres."""
    sunny_side: int
    """-1 or 1: the side of the street whose house fronts the sun reaches."""
    contrast: float
    """0..1: how much darker shadows are."""

    def on(self, colour: Sequence[float], distance: float, gain: float = 1.0) -> Colour:
        """The colour of a surface seen from a distance in metres, `gain` times as bright."""
        clear = math.exp(-distance / self.visibility)
        red, green, blue = (
            min(255, max(0, int(gain * c * clear + h * (1.0 - clear)))) for c, h in zip(colour, self.haze, strict=True)
        )
        return red, green, blue


class Canvas:
    """An image and its fine label, painted together from far to near."""

    def __init__(self, sky: npt.NDArray[np.uint8], label: int) -> None:
        """Start with the sky everywhere.

        Args:
            sky: image (height, width, 3) uint8.
            label: class index of the sky.
        """
        self.height, self.width = sky.shape[:2]
        large = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        self._image = Image.fromarray(sky).resize(large, Image.Resampling.BILINEAR)
        self._label = Image.new("L", large, label)
        # In this mode a fill's fourth channel blends it into what is there, which is how shadows are painted.
        self._draw_image = ImageDraw.Draw(self._image, "RGBA")
        self._draw_label = ImageDraw.Draw(self._label)

    def polygon(self, points: Sequence[Point], colour: tuple[int, ...], label: int | None = None) -> None:
        """Fill a polygon; without a label it is a mark on the surface that is already there."""
        large = [c * SUPERSAMPLING for point in points for c in point]
        self._draw_image.polygon(large, fill=colour)
        if label is not None:
            self._draw_label.polygon(large, fill=label)

    def ellipse(
        self, centre: Point, radii: tuple[float, float], colour: tuple[int, ...], label: int | None = None
    ) -> None:
        """Fill an upright ellipse with these horizontal and vertical radii in pixels."""
        (x, y), (across, down) = centre, radii
        box = [c * SUPERSAMPLING for c in (x - across, y - down, x + across, y + down)]
        self._draw_image.ellipse(box, fill=colour)
        if label is not None:
            self._draw_label.ellipse(box, fill=label)

    def bar(self, ends: Sequence[Point], width: float, colour: tuple[int, ...], label: int | None = None) -> None:
        """Draw a line through points, `width` pixels wide and never thinner than one pixel."""
        large = [c * SUPERSAMPLING for point in ends for c in point]
        thick = max(SUPERSAMPLING, round(width * SUPERSAMPLING))
        self._draw_image.line(large, fill=colour, width=thick, joint="curve")
        if label is not None:
            self._draw_label.line(large, fill=label, width=thick, joint="curve")

    def image(self) -> npt.NDArray[np.uint8]:
        """The image as painted so far: (height, width, 3) uint8."""
        return np.asarray(self._image.reduce(SUPERSAMPLING))

    def fine(self) -> npt.NDArray[np.uint8]:
        """The label of every pixel: (height, width) uint8."""
        return np.ascontiguousarray(np.asarray(self._label)[::SUPERSAMPLING, ::SUPERSAMPLING])
