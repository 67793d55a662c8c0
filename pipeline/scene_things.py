"""The things that stand and move in a street: trees, poles, signs, people and cars.

Each is painted at its place in metres; where to put them is the street's business.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.scene_annotation import Annotator, hull
from pipeline.scene_canvas import Camera, Canvas, Colour, Light, Place, Point, strip

SKY, BUILDING, ROAD, SIDEWALK, VEGETATION, POLE, SIGN, PERSON, CAR = range(9)

CAR_PAINTS: tuple[Colour, ...] = (
    (178, 40, 38), (42, 72, 140), (226, 226, 222), (34, 36, 40), (150, 154, 160), (92, 100, 108), (40, 92, 72),
    (212, 172, 48), (120, 84, 60), (196, 186, 166),
)  # fmt: skip
FOLIAGE: tuple[Colour, ...] = (
    (70, 112, 50), (54, 98, 56), (96, 124, 56), (84, 104, 62), (60, 88, 44), (168, 128, 46), (150, 84, 44),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (176, 52, 48), (54, 84, 142), (222, 218, 210), (40, 42, 48), (132, 136, 140), (60, 104, 74), (206, 170, 66),
    (136, 96, 66), (120, 70, 110), (190, 140, 120), (92, 112, 126), (212, 120, 54),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((226, 184, 156), (198, 148, 116), (140, 96, 70), (92, 64, 50))
HAIRS: tuple[Colour, ...] = ((36, 28, 24), (92, 62, 40), (190, 156, 96), (128, 124, 120))
METALS: tuple[Colour, ...] = ((84, 88, 92), (128, 132, 134), (56, 62, 60), (110, 98, 84), (160, 162, 160))

RED, BLUE, WHITE = (184, 32, 38), (36, 76, 156), (232, 232, 228)
PLATES: tuple[Colour, ...] = (BLUE, (38, 110, 72), (222, 182, 44), WHITE)
TROUSERS: tuple[Colour, ...] = ((44, 50, 70), (60, 62, 66), (120, 104, 84), (36, 34, 36))
BARKS: tuple[Colour, ...] = ((92, 74, 58), (112, 98, 84), (70, 62, 56))

# Length and roof line of a car seen from the side: shares of its length and of its height, from the rear on.
SALOON = ((0.0, 0.62), (0.14, 0.66), (0.28, 0.98), (0.58, 1.0), (0.75, 0.66), (0.97, 0.58), (1.0, 0.24))
HATCHBACK = ((0.0, 0.6), (0.03, 0.68), (0.12, 0.98), (0.56, 1.0), (0.76, 0.64), (0.97, 0.56), (1.0, 0.24))
VAN = ((0.0, 0.94), (0.02, 0.98), (0.12, 1.0), (0.72, 1.0), (0.86, 0.6), (0.98, 0.5), (1.0, 0.22))
CAR_BOTTOM = 0.2

SCREEN, TYRE = (44, 54, 66), (26, 26, 28)


@dataclass(frozen=True, slots=True)
class Painter:
    """Everything that painting a thing needs."""

    camera: Camera
    light: Light
    canvas: Canvas
    annotator: Annotator
    rng: np.random.Generator

    def between(self, low: float, high: float) -> float:
        """A random number between two."""
        return low + (high - low) * self.rng.random()

    def one_of(self, colours: Sequence[Colour]) -> Colour:
        """One of these colours, not quite."""
        red, green, blue = colours[int(self.rng.random() * len(colours))]
        shift = self.between(-14, 14)
        return int(red + shift), int(green + shift), int(blue + shift + self.between(-8, 8))

    def shadow(self, places: Sequence[Place], strength: float = 0.6) -> None:
        """Darken a piece of ground."""
        alpha = int(255 * strength * self.light.contrast)
        self.canvas.polygon(self.camera.project(places), (14, 16, 30, alpha))


def paint_foliage(painter: Painter, centre: Place, radii: tuple[float, float], colour: Colour) -> None:
    """Paint a crown, a bush or a hedge: leaves in bunches, the upper ones lighter.

    Args:
        painter: what to paint with.
        centre: of the crown, metres.
        radii: across and up, metres.
        colour: of the leaves.
    """
    camera, rng, distance = painter.camera, painter.rng, centre[2]
    x, y = camera.project([centre])[0]
    across, up = (camera.pixels(r, distance) for r in radii)
    angles = [k * math.tau / 10 for k in range(10)]
    painter.annotator.outline(
        VEGETATION, [(x + 1.02 * across * math.cos(a), y + 1.02 * up * math.sin(a)) for a in angles]
    )
    painter.canvas.ellipse((x, y), (0.86 * across, 0.86 * up), painter.light.on(colour, distance, 0.55), VEGETATION)
    bunches = int(min(80, 10 + 0.05 * across * up))
    size = 0.9 * math.sqrt(across * up / bunches) + 0.5
    turn, reach, shade, stretch = rng.random((4, bunches))
    columns = x + across * np.sqrt(reach) * np.cos(math.tau * turn) * 0.92
    sines = np.sqrt(reach) * np.sin(math.tau * turn) * 0.92
    gains = 0.88 - 0.24 * sines - 0.1 * painter.light.sunny_side * np.cos(math.tau * turn) + 0.4 * (shade - 0.5)
    shades = [painter.light.on(colour, distance, gain) for gain in (0.45, 0.6, 0.75, 0.9, 1.05, 1.2, 1.35)]
    tones = np.clip((gains - 0.45) / 0.15, 0, 6).astype(int)
    bunch_radii = size * (0.6 + 0.8 * stretch)
    # From the bottom up, so that the lighter bunches lie over the darker ones.
    order = np.argsort(-sines)
    rows = zip(*(v[order].tolist() for v in (columns, y + up * sines, bunch_radii, tones)), strict=True)
    for column, row, radius, tone in rows:
        painter.canvas.ellipse((column, row), (1.15 * radius, 0.85 * radius), shades[tone], VEGETATION)


def paint_tree(painter: Painter, right: float, forward: float) -> None:
    """Paint a street tree with its foot at this place in metres."""
    height, spread = painter.between(3.6, 6.5), painter.between(1.0, 1.9)
    colour, bark = painter.one_of(FOLIAGE), painter.one_of(BARKS)
    foot, fork = (right, 0.0, forward), (right + painter.between(-0.2, 0.2), height * 0.66, forward)
    painter.shadow(strip(right - 1.1, right + 1.3, forward - 0.9, forward + 0.9))
    trunk = painter.camera.project([foot, fork])
    width = painter.camera.pixels(painter.between(0.22, 0.4), forward)
    painter.annotator.outline(VEGETATION, _widened(trunk[0], trunk[1], width))
    painter.canvas.bar(trunk, width, painter.light.on(bark, forward, 0.9), VEGETATION)
    paint_foliage(painter, (fork[0], height * 0.72, forward), (spread, height * 0.3), colour)


def paint_lamp(painter: Painter, right: float, forward: float) -> None:
    """Paint a lamp post, its arm over the road."""
    height, metal = painter.between(4.5, 7.5), painter.one_of(METALS)
    inward = -math.copysign(painter.between(0.6, 1.6), right)
    top = (right, height, forward)
    tip = (right + inward, height + 0.25, forward)
    colour = painter.light.on(metal, forward)
    post = painter.camera.project([(right, 0.0, forward), top])
    thick = painter.camera.pixels(painter.between(0.15, 0.24), forward)
    painter.annotator.outline(POLE, _widened(post[0], post[1], thick))
    painter.canvas.bar(post, thick, colour, POLE)
    if painter.rng.random() < 0.7:
        arm = painter.camera.project([top, tip])
        painter.canvas.bar(arm, 0.6 * thick, colour, POLE)
        reach = painter.camera.pixels(0.32, forward), painter.camera.pixels(0.1, forward)
        painter.canvas.ellipse(arm[1], reach, painter.light.on((214, 208, 186), forward), POLE)


def paint_sign(painter: Painter, right: float, forward: float) -> None:
    """Paint a traffic sign on its pole."""
    camera, canvas, rng = painter.camera, painter.canvas, painter.rng
    height, size = painter.between(2.1, 2.9), painter.between(0.4, 0.56)
    thick = camera.pixels(0.11, forward)
    foot, middle = camera.project([(right, 0.0, forward), (right, height, forward)])
    radius = max(1.6, camera.pixels(size, forward))
    painter.annotator.outline(POLE, _widened(foot, middle, thick))
    painter.annotator.outline(SIGN, _regular(middle, radius * 1.2, 4, math.pi / 4))
    canvas.bar([foot, middle], thick, painter.light.on(painter.one_of(METALS), forward), POLE)
    outer, inner = painter.light.on(RED, forward), painter.light.on(WHITE, forward)
    kind = rng.random()
    if kind < 0.3:
        inner = outer if rng.random() < 0.3 else inner
        canvas.ellipse(middle, (radius, radius), outer, SIGN)
        canvas.ellipse(middle, (0.7 * radius, 0.7 * radius), inner)
    elif kind < 0.5:
        turn = math.pi / 2 if rng.random() < 0.3 else -math.pi / 2
        canvas.polygon(_regular(middle, 1.2 * radius, 3, turn), outer, SIGN)
        canvas.polygon(_regular(middle, 0.7 * radius, 3, turn), inner)
    elif kind < 0.6:
        canvas.polygon(_regular(middle, radius, 8, math.pi / 8), outer, SIGN)
        canvas.polygon(_box(middle, 0.7 * radius, 0.16 * radius), inner)
    elif kind < 0.8:
        face = painter.light.on(BLUE, forward)
        canvas.ellipse(middle, (radius, radius), face, SIGN)
        canvas.bar([(middle[0], middle[1] + 0.5 * radius), (middle[0], middle[1] - 0.5 * radius)], 0.25 * radius, inner)
    else:
        face = painter.light.on(painter.one_of(PLATES), forward)
        canvas.polygon(_box(middle, painter.between(0.7, 1.3) * radius, radius), face, SIGN)
        canvas.polygon(_box(middle, 0.5 * radius, 0.22 * radius), inner)


def paint_person(painter: Painter, right: float, forward: float) -> None:
    """Paint someone standing or walking."""
    camera, canvas, light, between = painter.camera, painter.canvas, painter.light, painter.between
    height, stride, lean = between(1.5, 1.9), between(0.02, 0.16), between(-0.04, 0.04)
    hem = between(0.3, 0.48)
    shirt, trousers, skin, hair = (painter.one_of(c) for c in (CLOTHES, TROUSERS, SKINS, HAIRS))

    def at(across: float, up: float) -> Point:
        return camera.project([(right + across, up * height, forward)])[0]

    wide = camera.pixels(0.16, forward)
    painter.shadow(strip(right - 0.3, right + 0.4, forward - 0.2, forward + 0.3))
    painter.annotator.outline(PERSON, [at(-0.3, 0.0), at(-0.3, 0.8), at(0.0, 1.02), at(0.3, 0.8), at(0.3, 0.0)])
    for side, gain in ((-1, 0.85), (1, 1.0)):
        leg = [at(side * 0.07 + lean, 0.5), at(side * (0.07 + stride * 0.5), 0.25), at(side * (0.06 + stride), 0.02)]
        canvas.bar(leg, wide, light.on(trousers, forward, gain), PERSON)
    for side in (-1, 1):
        arm = [at(side * 0.2 + lean, 0.8), at(side * (0.24 + 0.3 * stride), 0.62), at(side * (0.2 + stride), 0.47)]
        canvas.bar(arm, 0.6 * wide, light.on(shirt, forward, 0.85), PERSON)
    torso = [at(-0.2 + lean, 0.83), at(0.2 + lean, 0.83), at(0.17 + lean, hem), at(-0.17 + lean, hem)]
    canvas.polygon(torso, light.on(shirt, forward), PERSON)
    head = max(0.6, camera.pixels(0.062 * height, forward))
    canvas.ellipse(at(lean, 0.93), (0.85 * head, 1.1 * head), light.on(hair, forward), PERSON)
    canvas.ellipse(at(lean, 0.915), (0.7 * head, 0.85 * head), light.on(skin, forward))


def paint_car(painter: Painter, right: float, forward: float, away: bool) -> None:
    """Paint a car whose nearest end is at this place; `away` when it shows its rear."""
    camera, canvas, light = painter.camera, painter.canvas, painter.light
    draw = painter.rng.random()
    profile = SALOON if draw < 0.45 else HATCHBACK if draw < 0.85 else VAN
    tall = painter.between(1.4, 1.55) if draw < 0.85 else painter.between(1.9, 2.3)
    long, half = painter.between(3.7, 4.7), painter.between(0.83, 0.95)
    paint = painter.one_of(CAR_PAINTS)
    line = [(s if away else 1.0 - s, up * tall) for s, up in ((0.0, CAR_BOTTOM), *profile, (1.0, CAR_BOTTOM))]
    left_side = [(right - half, up, forward + s * long) for s, up in line]
    right_side = [(right + half, up, forward + s * long) for s, up in line]
    painter.shadow(strip(right - 1.05, right + 1.05, forward - 0.2, forward + long + 0.3), 1.0)
    corners = [(right + side * half, 0.1, forward + s * long) for side in (-1, 1) for s in (0.06, 0.94)]
    painter.annotator.outline(CAR, hull(camera.project(left_side + right_side + corners)))
    for side in (-1, 1):
        x, y = camera.project([(right + side * (half - 0.11), 0.2, forward + 0.3)])[0]
        canvas.polygon(_box((x, y), camera.pixels(0.11, forward), camera.pixels(0.2, forward)), TYRE, CAR)
    _car_top(painter, left_side, right_side, paint, away)
    flank = left_side if right > half else right_side if right < -half else None
    if flank is not None:
        gain = 1.0 if light.sunny_side * right < 0 else 0.72
        canvas.polygon(camera.project(flank), light.on(paint, forward, gain), CAR)
        _car_flank(painter, flank[0][0], forward, long, tall, profile, away)
    lamp = light.on((196, 30, 30) if away else (240, 238, 214), forward)
    breadth, depth = camera.pixels(0.14, forward), camera.pixels(0.07, forward)
    for across in (0.2 - half, half - 0.2):
        canvas.polygon(_box(camera.project([(right + across, 0.5 * tall, forward)])[0], breadth, depth), lamp)
    number = camera.project([(right, 0.34 * tall, forward)])[0]
    canvas.polygon(_box(number, 1.7 * breadth, depth), light.on((226, 222, 196), forward))


def _car_top(painter: Painter, left: list[Place], right: list[Place], paint: Colour, away: bool) -> None:
    """Rear, windows, roof and bonnet, from far to near."""
    tall = max(up for _, up, _ in left)
    steps = range(len(left) - 1)
    for k in reversed(steps) if away else steps:
        (_, low, start), (_, high, end) = left[k], left[k + 1]
        steepness = abs(high - low) / (abs(end - start) + 1e-6)
        glass = steepness > 0.3 and min(low, high) > 0.5 * tall
        colour = painter.light.on(SCREEN if glass else paint, start, 0.8 if steepness > 1.5 else 1.15)
        quad = painter.camera.project([left[k], left[k + 1], right[k + 1], right[k]])
        painter.canvas.polygon(quad, colour, CAR)


def _car_flank(
    painter: Painter, right: float, forward: float, long: float, tall: float, profile: Sequence[Point], away: bool
) -> None:
    """Side windows and wheels."""
    camera, canvas, light = painter.camera, painter.canvas, painter.light

    def at(share: float, up: float) -> Point:
        return camera.project([(right, up, forward + (share if away else 1.0 - share) * long)])[0]

    roof = [s for s, up in profile if up > 0.97]
    sill = [s for s, up in profile if up < 0.7]
    front = min(s for s in sill if s > 0.6)
    low, high = 0.68 * tall, 0.93 * tall
    rear = min(roof) - 0.06
    glass = [at(max(0.08, rear), low), at(min(roof) + 0.03, high), at(max(roof) - 0.02, high), at(front - 0.05, low)]
    canvas.polygon(glass, light.on(SCREEN, forward))
    canvas.bar([at(0.44, low), at(0.44, high)], camera.pixels(0.08, forward), light.on((20, 22, 26), forward))
    for share in (0.19, 0.8):
        for radius, colour in ((0.33, TYRE), (0.17, (128, 130, 134))):
            turns = [k * math.tau / 12 for k in range(12)]
            rim = [at(share + radius / long * math.cos(t), 0.33 + radius * math.sin(t)) for t in turns]
            canvas.polygon(rim, light.on(colour, forward), CAR)


def _widened(foot: Point, top: Point, width: float) -> list[Point]:
    half = max(0.5, width / 2)
    return [(foot[0] - half, foot[1]), (foot[0] + half, foot[1]), (top[0] + half, top[1]), (top[0] - half, top[1])]


def _box(middle: Point, across: float, down: float) -> list[Point]:
    x, y = middle
    return [(x - across, y - down), (x + across, y - down), (x + across, y + down), (x - across, y + down)]


def _regular(middle: Point, radius: float, corners: int, turn: float) -> list[Point]:
    angles = [turn + k * math.tau / corners for k in range(corners)]
    return [(middle[0] + radius * math.cos(a), middle[1] + radius * math.sin(a)) for a in angles]
