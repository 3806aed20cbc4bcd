"""The objects as polygons on a square from -1000 to 1000, x to the right and y down."""

import math
from dataclasses import dataclass
from functools import cache

Polygon = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Shape:
    """One object's drawing.

    Attributes:
        solid: polygons whose union is the silhouette.
        hollow: polygons cut out of it.
        details: polygons on top, each with a tone: `dark`, `light` or `pale` (nearly white).
        face: the middle between the eyes.
    """

    solid: tuple[Polygon, ...]
    hollow: tuple[Polygon, ...] = ()
    details: tuple[tuple[str, Polygon], ...] = ()
    face: tuple[int, int] = (0, 0)


def oval(x: int, y: int, width: int, height: int, start: int = 0, stop: int = 360) -> Polygon:
    """A polygon of an ellipse, or of an arc of it closed by its chord.

    Args:
        x: of the middle.
        y: of the middle.
        width: half of it.
        height: half of it.
        start: where the arc starts, in degrees clockwise from the right.
        stop: where it ends.
    """
    return tuple([(x + width * along // 4096, y + height * down // 4096) for along, down in _arc(start, stop)])


@cache
def _arc(start: int, stop: int) -> Polygon:
    """Points of the unit circle, in 4096ths."""
    steps = max((stop - start) // 12, 2)
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + (stop - start < 360))]
    return tuple((round(4096 * math.cos(angle)), round(4096 * math.sin(angle))) for angle in angles)


def box(left: int, top: int, right: int, bottom: int) -> Polygon:
    """A rectangle."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _star() -> Polygon:
    points = []
    for step in range(10):
        angle, length = math.radians(36 * step - 90), 1050 if step % 2 == 0 else 500
        points.append((round(length * math.cos(angle)), 60 + round(length * math.sin(angle))))
    return tuple(points)


def _heart() -> Polygon:
    points = []
    for step in range(48):
        angle = math.radians(7.5 * step)
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        points.append((round(62 * x), round(-60 * y) - 60))
    return tuple(points)


def _moon() -> Polygon:
    """A disc less a disc: the outer arc, then back along the inner one."""
    outer = [math.radians(angle) for angle in range(55, 306, 10)]
    points = [(round(1000 * math.cos(angle)) + 150, round(1000 * math.sin(angle))) for angle in outer]
    reach = round(1000 * math.sin(math.radians(55)))
    middle = round(1000 * math.cos(math.radians(55))) + 150
    inner = [math.radians(angle) for angle in range(260, 99, -10)]
    return tuple(points + [(middle + round(760 * math.cos(a)), round(reach * math.sin(a))) for a in inner])


SHAPES = {
    "circle": Shape((oval(0, 0, 980, 980),), face=(0, -150)),
    "square": Shape((box(-900, -900, 900, 900),), face=(0, -150)),
    "triangle": Shape((((0, -980), (1020, 860), (-1020, 860)),), face=(0, 250)),
    "star": Shape((_star(),), face=(0, 0)),
    "heart": Shape((_heart(),), face=(0, -250)),
    "cross": Shape((box(-360, -1000, 360, 1000), box(-1000, -360, 1000, 360)), face=(0, -40)),
    "ring": Shape((oval(0, 0, 1000, 1000),), (oval(0, 0, 480, 480),), face=(0, -700)),
    "moon": Shape((_moon(),), face=(-440, -60)),
    "house": Shape(
        (((0, -1000), (1000, -150), (-1000, -150)), box(-780, -160, 780, 950)),
        details=(
            ("dark", ((0, -1000), (1000, -150), (-1000, -150))),
            ("dark", box(-220, 420, 220, 950)),
        ),
        face=(0, 120),
    ),
    "tree": Shape(
        (oval(0, -520, 480, 480), oval(-470, -20, 470, 440), oval(470, -20, 470, 440), oval(0, -40, 440, 440),
         box(-190, 150, 190, 1000)),
        details=(("dark", box(-190, 400, 190, 1000)),),
        face=(0, -200),
    ),
    "car": Shape(
        (box(-1000, -80, 1000, 520), ((-560, -620), (420, -620), (740, -60), (-760, -60)),
         oval(-520, 520, 280, 280), oval(520, 520, 280, 280)),
        details=(("dark", oval(-520, 520, 270, 270)), ("dark", oval(520, 520, 270, 270)),
                 ("pale", oval(-520, 520, 100, 100)), ("pale", oval(520, 520, 100, 100))),
        face=(0, -160),
    ),
    "boat": Shape(
        (((-1000, 280), (1000, 280), (640, 900), (-640, 900)), ((-80, -1000), (-80, 200), (880, 200)),
         ((-180, -700), (-180, 200), (-760, 200)), box(-180, -1000, -60, 400)),
        details=(("dark", ((-1000, 280), (1000, 280), (640, 900), (-640, 900))),),
        face=(180, 10),
    ),
    "fish": Shape(
        (oval(-180, 0, 800, 560), ((420, 0), (1000, -560), (860, 0), (1000, 560)),
         ((-300, -480), (300, -860), (240, -380))),
        details=(("dark", ((520, -100), (1000, -560), (860, 0), (1000, 560), (520, 100))),),
        face=(-340, -80),
    ),
    "mug": Shape(
        (box(-820, -820, 480, 860), oval(500, 20, 480, 520)),
        (oval(500, 20, 220, 260, -90, 90),),
        details=(("dark", box(-820, -820, 480, -560)),),
        face=(-170, 0),
    ),
    "chair": Shape(
        (box(-700, -1000, -380, 1000), box(-700, 60, 760, 400), box(440, 60, 760, 1000), box(-700, -1000, 120, -520)),
        details=(("dark", box(-700, 400, -380, 1000)), ("dark", box(440, 400, 760, 1000))),
        face=(-290, -740),
    ),
    "rocket": Shape(
        (((0, -1050), (300, -660), (380, -200), (380, 620), (-380, 620), (-380, -200), (-300, -660)),
         ((-380, 100), (-820, 760), (-380, 620)), ((380, 100), (820, 760), (380, 620)),
         ((-240, 600), (240, 600), (0, 1050))),
        details=(("dark", ((-380, 100), (-820, 760), (-380, 620))), ("dark", ((380, 100), (820, 760), (380, 620))),
                 ("light", ((-240, 620), (240, 620), (0, 1050))),
                 ("dark", ((0, -1050), (300, -660), (-300, -660)))),
        face=(0, -300),
    ),
}  # fmt: skip
