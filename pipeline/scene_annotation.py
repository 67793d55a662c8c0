"""Coarse labels as a human draws them in a hurry: polygons inside large objects, and nothing for thin or small ones.

It sees outlines from far to near and the true label's borders; it knows nothing of images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.scene_canvas import Point
from storage.schema import IGNORE


@dataclass(frozen=True, slots=True)
class Care:
    """How an annotator in a hurry treats the objects of one class."""

    smallest: float
    """Objects smaller than this share of the image are left out."""
    kept: float
    """Probability of labelling an object that is large enough."""
    overlooked: float = 0.0
    """Probability that an object that is left out is not even spared: what is behind it is labelled through it."""


class Annotator:
    """Draws coarse labels: few-cornered polygons inside large objects, from far to near."""

    def __init__(self, size: tuple[int, int], care: Sequence[Care], rng: np.random.Generator) -> None:
        """Start with nothing labelled.

        Args:
            size: height and width, pixels.
            care: by class index.
            rng: what the annotator leaves to chance.
        """
        self._height, self._width = size
        self._care = care
        self._rng = rng
        self._coarse = Image.new("L", (self._width, self._height), IGNORE)
        self._draw = ImageDraw.Draw(self._coarse)

    def outline(self, label: int, outline: Sequence[Point]) -> None:
        """See an object of this class with this outline in front of all that was seen before."""
        visible = _inside(outline, self._width, self._height)
        if len(visible) < 3:
            return
        care = self._care[label]
        share = _area(visible) / (self._width * self._height)
        kept = share >= care.smallest and self._rng.random() < care.kept
        if not kept and self._rng.random() < care.overlooked:
            return
        self._draw.polygon(visible, fill=IGNORE, outline=IGNORE, width=3)
        if kept:
            self._draw.polygon(self._hasty(visible), fill=label)

    def coarse(self, fine: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The label as drawn, kept clear of the borders between classes.

        Args:
            fine: true label (height, width) uint8.

        Returns:
            Label (height, width) uint8, ignore where nothing was drawn.
        """
        band = max(1, round(self._height / 96))
        label = np.asarray(self._coarse).copy()
        label[_near_border(fine, band)] = IGNORE
        return label

    def _hasty(self, corners: Sequence[Point]) -> list[Point]:
        """Every corner a little inside, and not exactly there."""
        x = sum(p[0] for p in corners) / len(corners)
        y = sum(p[1] for p in corners) / len(corners)
        hasty = []
        for corner, (push, *shake) in zip(corners, self._rng.random((len(corners), 3)).tolist(), strict=True):
            to_x, to_y = x - corner[0], y - corner[1]
            distance = math.hypot(to_x, to_y) + 1e-6
            step = min(0.5, self._height * (0.012 + 0.020 * push) / distance)
            wobble = min(0.1 * distance, 0.012 * self._height)
            hasty.append(
                (
                    corner[0] + step * to_x + wobble * (shake[0] - 0.5),
                    corner[1] + step * to_y + wobble * (shake[1] - 0.5),
                )
            )
        return hasty


def _near_border(label: npt.NDArray[np.uint8], band: int) -> npt.NDArray[np.bool_]:
    """Where another class lies within `band` pixels, rows and columns alike."""
    highest = lowest = np.pad(label, band, mode="edge")
    for axis in (0, 1):
        span = highest.shape[axis] - 2 * band
        shifts = [np.arange(start, start + span) for start in range(2 * band + 1)]
        highest = np.maximum.reduce([highest.take(s, axis) for s in shifts])
        lowest = np.minimum.reduce([lowest.take(s, axis) for s in shifts])
    differs: npt.NDArray[np.bool_] = highest != lowest
    return differs


def hull(points: Sequence[Point]) -> list[Point]:
    """The convex hull of points, its corners in order."""

    def half(ordered: Sequence[Point]) -> list[Point]:
        chain: list[Point] = []
        for x, y in ordered:
            while len(chain) > 1 and (chain[-1][0] - chain[-2][0]) * (y - chain[-2][1]) <= (
                chain[-1][1] - chain[-2][1]
            ) * (x - chain[-2][0]):
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    ordered = sorted(points)
    return half(ordered) + half(ordered[::-1])


def _inside(outline: Sequence[Point], width: int, height: int) -> list[Point]:
    """The part of a polygon that lies in the image (Sutherland and Hodgman's clipping, a side at a time)."""
    corners = list(outline)
    for axis, sign, limit in ((0, 1, 0.0), (0, -1, -(width - 1.0)), (1, 1, 0.0), (1, -1, -(height - 1.0))):
        kept: list[Point] = []
        for before, here in zip(corners[-1:] + corners[:-1], corners, strict=True):
            depth_before, depth = sign * before[axis] - limit, sign * here[axis] - limit
            if (depth_before < 0) != (depth < 0):
                t = depth_before / (depth_before - depth)
                kept.append((before[0] + t * (here[0] - before[0]), before[1] + t * (here[1] - before[1])))
            if depth >= 0:
                kept.append(here)
        corners = kept
    return corners


def _area(corners: Sequence[Point]) -> float:
    pairs = zip(corners, [*corners[1:], corners[0]], strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2
