"""The sides of a street: houses with windows, shops and roofs, and gardens between them, painted far to near."""

from dataclasses import dataclass

from pipeline.scene_canvas import Colour, strip
from pipeline.scene_things import BUILDING, FOLIAGE, VEGETATION, Painter, paint_foliage

FACADES: tuple[Colour, ...] = (
    (164, 108, 84), (192, 172, 140), (150, 150, 152), (206, 198, 184), (120, 92, 82), (160, 172, 180), (196, 156, 112),
    (138, 128, 120), (176, 130, 120), (112, 116, 122), (160, 170, 142),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((132, 72, 58), (88, 84, 88), (110, 92, 82), (66, 70, 78))
SHOP_FRONTS: tuple[Colour, ...] = (
    (170, 40, 44), (40, 80, 150), (50, 110, 80), (214, 180, 60), (220, 216, 206), (60, 58, 62),
)  # fmt: skip
GLASS: tuple[Colour, ...] = ((58, 68, 80), (78, 90, 104), (44, 46, 52), (104, 116, 124))


def paint_row_of_houses(painter: Painter, side: int, wall: float, far: float) -> None:
    """Paint one side of a street from its far end to the camera.

    Args:
        painter: what to paint with.
        side: -1 for the left, 1 for the right.
        wall: right of the camera, where the nearest house fronts may stand, metres.
        far: distance of the far end, metres.
    """
    between = painter.between
    base, leafy = between(4.0, 10.0), between(0.1, 0.45)
    while far > 2.5:
        setback = between(0.0, 1.5) if painter.rng.random() < 0.7 else between(2.0, 4.0)
        front = wall + side * setback
        length = between(7.0, 16.0)
        if painter.rng.random() < leafy:
            _garden(painter, front, side, far - 0.6 * length, far)
            far -= 0.6 * length
            continue
        _house(painter, front, side, max(1.0, far - length), far, base * between(0.7, 1.35))
        far -= length + (between(0.5, 3.0) if painter.rng.random() < 0.4 else 0.0)


def _garden(painter: Painter, front: float, side: int, near: float, far: float) -> None:
    camera, between = painter.camera, painter.between
    leaves = painter.one_of(FOLIAGE)
    lawn = camera.project(strip(front - side * 0.3, front + side * 40.0, max(1.0, near), far))
    painter.annotator.outline(VEGETATION, lawn)
    painter.canvas.polygon(lawn, painter.light.on((94, 122, 60), far, between(0.8, 1.1)), VEGETATION)
    tall = between(1.2, 4.5)
    z = far
    while z > max(3.0, near):
        for deep in (6.0, 2.5, 0.3):
            radius = between(0.8, 1.5) + 0.2 * deep
            up = between(0.6, 1.0) * (tall + 0.4 * deep)
            paint_foliage(painter, (front + side * (deep + radius), 0.45 * up, z), (radius, 0.62 * up), leaves)
        z -= between(1.2, 2.4)


def _house(painter: Painter, front: float, side: int, near: float, far: float, tall: float) -> None:
    camera, canvas, light, between = painter.camera, painter.canvas, painter.light, painter.between
    colour = painter.one_of(FACADES)
    middle = near + 0.3 * (far - near)
    sunlit = light.sunny_side == -side
    gain, gable = (1.06, 0.84) if sunlit else (0.78, 0.7)
    deep = front + side * 9.0
    face = [(front, 0.0, near), (front, tall, near), (front, tall, far), (front, 0.0, far)]
    end = [(front, 0.0, near), (front, tall, near), (deep, tall, near), (deep, 0.0, near)]
    if painter.rng.random() < 0.6:
        ridge, peak = front + side * 4.5, tall + between(1.2, 2.8)
        roof = light.on(painter.one_of(ROOFS), middle, gain)
        triangle = [(front, tall, near), (ridge, peak, near), (deep, tall, near)]
        slope = [
            (front - side * 0.3, tall, near),
            (ridge, peak, near),
            (ridge, peak, far),
            (front - side * 0.3, tall, far),
        ]
        for plane in (triangle, slope):
            painter.annotator.outline(BUILDING, camera.project(plane))
        canvas.polygon(camera.project(triangle), light.on(colour, near, gable), BUILDING)
        canvas.polygon(camera.project(slope), roof, BUILDING)
    for plane in (end, face):
        painter.annotator.outline(BUILDING, camera.project(plane))
    canvas.polygon(camera.project(end), light.on(colour, near, gable), BUILDING)
    canvas.polygon(camera.project(face), light.on(colour, middle, gain), BUILDING)
    floors, columns = max(1, int(tall / between(2.7, 3.2))), max(1, int((far - near) / between(1.9, 3.0)))
    facade = _Facade(front, near, far, columns, floors, tall / floors, colour, gain)
    glass = painter.one_of(GLASS)
    shop = painter.rng.random() < 0.45
    _upper_floors(painter, facade, int(shop), glass)
    if shop:
        _shop(painter, facade, glass)
    else:
        _door(painter, facade)


@dataclass(frozen=True, slots=True)
class _Facade:
    """A house front in the plane that faces the street, in metres."""

    right: float
    near: float
    far: float
    columns: int
    floors: int
    storey: float
    wall: Colour
    gain: float

    @property
    def step(self) -> float:
        """Metres from one column of windows to the next."""
        return (self.far - self.near) / self.columns

    @property
    def middle(self) -> float:
        """Distance at which the whole front is lit."""
        return (self.near + self.far) / 2

    def fill(self, painter: Painter, span: tuple[float, float], heights: tuple[float, float], colour: Colour) -> None:
        """Fill a rectangle of the front, given from near to far and from low to high."""
        (near, far), (low, high) = span, heights
        corners = [(self.right, low, near), (self.right, high, near), (self.right, high, far), (self.right, low, far)]
        painter.canvas.polygon(painter.camera.project(corners), colour)


def _upper_floors(painter: Painter, facade: _Facade, lowest: int, glass: Colour) -> None:
    """Rows of windows from the floor `lowest` on, and a ledge under each but the ground floor."""
    light, between = painter.light, painter.between
    broad, high = between(0.35, 0.65) * facade.step, between(0.45, 0.65) * facade.storey
    frame = light.on(painter.one_of(((214, 210, 202), (92, 74, 62), facade.wall)), facade.near, facade.gain)
    ledge = light.on(facade.wall, facade.middle, 0.86 * facade.gain)
    for floor in range(1, facade.floors):
        base = floor * facade.storey
        facade.fill(painter, (facade.near, facade.far), (base - 0.1, base + 0.06), ledge)
    shades = painter.rng.uniform(0.7, 1.4, (facade.columns, facade.floors)).tolist()
    spread = painter.camera.focal * abs(facade.right)
    for column, tones in enumerate(shades):
        start = facade.near + (column + 0.5) * facade.step - 0.5 * broad
        # Beyond the edge of the image, or less than a pixel wide.
        if spread / (start + broad) > painter.canvas.width or spread * facade.step < 0.8 * start**2:
            continue
        for floor in range(lowest, facade.floors):
            low = (floor + 0.28) * facade.storey
            if start < 28:
                around = (start - 0.12, start + broad + 0.12), (low - 0.12, low + high + 0.12)
                facade.fill(painter, *around, frame)
            facade.fill(painter, (start, start + broad), (low, low + high), light.on(glass, start, tones[floor]))
            if start < 16:
                bar = start + 0.5 * broad
                facade.fill(painter, (bar - 0.04, bar + 0.04), (low, low + high), frame)


def _shop(painter: Painter, facade: _Facade, glass: Colour) -> None:
    """A shop window the length of the ground floor, its displays, and the board above it."""
    light, storey = painter.light, facade.storey
    span = facade.near + 0.3, facade.far - 0.3
    facade.fill(painter, span, (0.3, 0.74 * storey), light.on(glass, facade.middle, 0.9))
    for column in range(facade.columns):
        start = facade.near + 0.4 + column * facade.step
        if start < 28:
            display = light.on(painter.one_of((*SHOP_FRONTS, glass)), facade.middle, 0.55)
            facade.fill(painter, (start, start + 0.8 * facade.step), (0.45, 0.7 * storey), display)
    board = light.on(painter.one_of(SHOP_FRONTS), facade.middle, facade.gain)
    facade.fill(painter, span, (0.74 * storey, 0.95 * storey), board)


def _door(painter: Painter, facade: _Facade) -> None:
    start = painter.between(facade.near + 0.5, max(facade.near + 0.6, facade.far - 1.6))
    colour = painter.light.on(painter.one_of(SHOP_FRONTS), start, 0.7 * facade.gain)
    facade.fill(painter, (start, start + 1.1), (0.0, 2.1), colour)
