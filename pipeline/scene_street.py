"""A street in perspective: ground, houses and what stands before them, laid out at random and painted far to near."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pipeline.scene_canvas import Colour, strip
from pipeline.scene_houses import FACADES, paint_row_of_houses
from pipeline.scene_things import (
    BUILDING,
    FOLIAGE,
    ROAD,
    SIDEWALK,
    SKY,
    Painter,
    paint_car,
    paint_foliage,
    paint_lamp,
    paint_person,
    paint_sign,
    paint_tree,
)

END = 75.0
"""Where the street ends, metres."""

ASPHALT: tuple[Colour, ...] = ((92, 92, 96), (112, 110, 108), (78, 80, 86), (126, 122, 120))
PAVING: tuple[Colour, ...] = ((150, 144, 138), (168, 160, 150), (134, 132, 134), (160, 136, 122), (124, 122, 118))


@dataclass(frozen=True, slots=True)
class _Street:
    """Where the parts of a street lie, metres."""

    kerb: float
    """From the middle of the road to its edge."""
    walk: float
    """Breadth of a sidewalk."""
    shift: float
    """The middle of the road, right of the camera."""


def paint_street(painter: Painter) -> None:
    """Paint a street and all that is in it over the sky."""
    kerb = painter.between(3.1, 4.8)
    street = _Street(kerb, painter.between(2.0, 3.8), painter.between(-0.4, 0.4) * kerb)
    width, horizon = float(painter.canvas.width), painter.camera.horizon
    painter.annotator.outline(SKY, [(0.0, 0.0), (width, 0.0), (width, horizon), (0.0, horizon)])
    _ground(painter, street)
    _markings(painter, street)
    _shadows_of_houses(painter, street)
    _far_end(painter, street)
    things = list(_passers_by(painter, street))
    for side in (-1, 1):
        paint_row_of_houses(painter, side, street.shift + side * (street.kerb + street.walk), END)
        things += [*_furniture(painter, street, side), *_traffic(painter, street, side)]
    # From the camera, a house is behind all that stands on its sidewalk, however far: houses first, then the rest.
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()


def _ground(painter: Painter, street: _Street) -> None:
    """Road, sidewalks with joints and kerb stones, and where the asphalt was mended."""
    camera, canvas, light, between = painter.camera, painter.canvas, painter.light, painter.between
    asphalt, paving = painter.one_of(ASPHALT), painter.one_of(PAVING)
    left, right = street.shift - street.kerb, street.shift + street.kerb
    canvas.polygon(camera.project(strip(-400.0, 400.0, 1.0, 300.0)), light.on(paving, 12.0), SIDEWALK)
    for side, edge in ((-1, left), (1, right)):
        wall = edge + side * (street.walk + 1.0)
        painter.annotator.outline(SIDEWALK, camera.project(strip(edge, wall, 1.0, 0.5 * END)))
        joint = light.on(paving, 10.0, 0.86)
        for k in range(2, 26):
            ends = camera.project([(edge, 0.0, 1.2 * k), (wall, 0.0, 1.2 * k)])
            canvas.bar(ends, camera.pixels(0.03, 1.2 * k), joint)
    road = camera.project(strip(left, right, 1.0, 300.0))
    painter.annotator.outline(ROAD, road)
    canvas.polygon(road, light.on(asphalt, 12.0), ROAD)
    for near, far in ((20.0, 45.0), (45.0, 300.0)):
        canvas.polygon(camera.project(strip(left, right, near, far)), light.on(asphalt, near))
    for side, edge in ((-1, left), (1, right)):
        stones = camera.project(strip(edge, edge + 0.25 * side, 1.0, 200.0))
        canvas.polygon(stones, light.on(paving, 8.0, 1.14), SIDEWALK)
    for _ in range(int(between(0, 4))):
        x, z, half = street.shift + between(-0.8, 0.8) * street.kerb, between(4, 16), between(0.3, 0.9)
        patch = camera.project(strip(x - half, x + half, z, z + 2 * half))
        canvas.polygon(patch, light.on(asphalt, z, between(0.8, 1.1)))


def _markings(painter: Painter, street: _Street) -> None:
    """A dashed line and a crossing."""
    white = (214, 212, 204)

    def mark(left: float, right: float, near: float, far: float) -> None:
        points = painter.camera.project(strip(left, right, near, far))
        painter.canvas.polygon(points, painter.light.on(white, near))

    if painter.rng.random() < 0.75:
        dash = painter.between(1.5, 3.5)
        for k in range(14):
            start = 2.0 + 2 * dash * k
            mark(street.shift - 0.08, street.shift + 0.08, start, start + dash)
    if painter.rng.random() < 0.35:
        near, step = painter.between(7.0, 22.0), 2 * street.kerb / 9
        for k in range(9):
            left = street.shift - street.kerb + (k + 0.25) * step
            mark(left, left + 0.5 * step, near, near + 3.0)


def _shadows_of_houses(painter: Painter, street: _Street) -> None:
    """What the houses on the side of the sun throw over sidewalk and road."""
    sun, reach = painter.light.sunny_side, painter.between(0.1, 1.5) * street.kerb
    wall = street.shift - sun * (street.kerb + street.walk)
    near = 1.0
    while near < END:
        far = near + painter.between(6.0, 18.0)
        if painter.rng.random() < 0.75:
            edge = wall + sun * (street.walk + reach * painter.between(0.7, 1.1))
            painter.shadow(strip(wall, edge, near, far), 0.55)
        near = far


def _far_end(painter: Painter, street: _Street) -> None:
    """Hills and houses where the street is lost in haze."""
    camera, between = painter.camera, painter.between
    half, leaves = street.kerb + street.walk, painter.one_of(FOLIAGE)
    for k in range(14):
        right = (k - 7) * 5.0 + between(-2, 2)
        paint_foliage(painter, (right, 0.5, 1.6 * END), (between(3, 6), between(2, 7)), leaves)
    if painter.rng.random() < 0.6:
        x, wide, tall = between(-half, half), between(3, 10), between(4, 13)
        wall = [(x - wide, 0.0, END), (x + wide, 0.0, END), (x + wide, tall, END), (x - wide, tall, END)]
        painter.annotator.outline(BUILDING, camera.project(wall))
        colour = painter.one_of(FACADES)
        painter.canvas.polygon(camera.project(wall), painter.light.on(colour, END, 0.85), BUILDING)
        glass = painter.light.on(colour, END, 0.6)
        for k in range(int(wide)):
            for floor in range(int(tall / 3.0)):
                left, low = x - wide + 2.0 * k + 0.5, 3.0 * floor + 0.9
                pane = [(left, low, END), (left + 1.0, low, END), (left + 1.0, low + 1.5, END), (left, low + 1.5, END)]
                painter.canvas.polygon(camera.project(pane), glass)


_Thing = tuple[float, Callable[[], None]]
"""How far away it is, and how to paint it."""


def _furniture(painter: Painter, street: _Street, side: int) -> Iterator[_Thing]:
    """Trees, lamps and signs along a kerb."""
    between, chance = painter.between, painter.rng.random
    edge = street.shift + side * street.kerb
    trees = between(0.0, 0.5)
    forward = between(5.0, 12.0)
    while forward < 0.8 * END:
        if chance() < trees:
            yield forward, partial(paint_tree, painter, edge + side * between(0.6, 1.0), forward)
        elif chance() < 0.6:
            yield forward, partial(paint_lamp, painter, edge + side * 0.4, forward)
        if chance() < 0.4:
            beyond = forward + between(1.0, 3.0)
            yield beyond, partial(paint_sign, painter, edge + side * between(0.3, 0.8), beyond)
        forward += between(5.0, 9.0)


def _traffic(painter: Painter, street: _Street, side: int) -> Iterator[_Thing]:
    """Cars parked along a kerb, and one that drives."""
    between, chance = painter.between, painter.rng.random
    parked = between(0.05, 0.6)
    forward = between(5.0, 14.0)
    while forward < 0.7 * END:
        if chance() < parked:
            right, away = street.shift + side * (street.kerb - 1.05), side > 0 or chance() < 0.2
            yield forward, partial(paint_car, painter, right, forward, away)
        forward += between(5.2, 7.5)
    if chance() < 0.6:
        forward, lane = between(9.0, 40.0), max(0.9, street.kerb - 3.3)
        yield forward, partial(paint_car, painter, street.shift + side * lane, forward, side > 0)


def _passers_by(painter: Painter, street: _Street) -> Iterator[_Thing]:
    """People, most of them on the sidewalks."""
    between, chance = painter.between, painter.rng.random
    for _ in range(int(between(2.0, 4.0) + 10.0 * chance() * chance())):
        side = 1.0 if chance() < 0.5 else -1.0
        forward = 5.0 + 26.0 * chance() ** 1.3
        across = street.kerb + between(0.3, street.walk) if chance() < 0.8 else between(0.0, street.kerb)
        yield forward, partial(paint_person, painter, street.shift + side * across, forward)
