"""A person on the canvas: the five traits that make an individual out, in a pose that chance chooses."""

from collections.abc import Callable

import numpy as np

from .canvas import grown, mask, paint
from .chance import Chance
from .people import HAIR, PEOPLE
from .shapes import Polygon, box, oval
from .things import INK, colour_near, darker, lighter

_WHITE = (250, 248, 240)
_RAISED = ((), (-1,), (1,), (-1, 1))  # which arms are up

# Each hat: its polygons, then the parts of it in a second tone. The head's middle is at (0, 0), its top at -46.
_HATS: dict[str, tuple[tuple[Polygon, ...], tuple[Polygon, ...]]] = {
    "crown": (
        (((-46, -34), (-54, -96), (-26, -66), (0, -104), (26, -66), (54, -96), (46, -34)),),
        (box(-46, -48, 46, -34), oval(0, -96, 8, 8), oval(-50, -90, 8, 8), oval(50, -90, 8, 8)),
    ),
    "top hat": ((box(-34, -112, 34, -36), box(-62, -44, 62, -28)), (box(-34, -60, 34, -46),)),
    "cap": ((oval(0, -32, 48, 36, 180, 360), box(0, -44, 84, -28)), (box(0, -40, 84, -28),)),
    "cone": ((((0, -124), (48, -30), (-48, -30)),), (oval(0, -112, 14, 14),)),
    "bowler": ((oval(0, -38, 42, 44, 180, 360), oval(0, -36, 64, 10)), (box(-42, -50, 42, -40),)),
    "bonnet": (
        (oval(0, -26, 60, 64, 180, 360), oval(-54, -6, 15, 42), oval(54, -6, 15, 42)),
        (box(-58, -40, 58, -28),),
    ),
    "turban": ((oval(0, -54, 60, 34), oval(0, -78, 34, 22)), (oval(0, -52, 13, 15),)),
    "feather": (
        (box(-46, -50, 46, -30), ((24, -40), (40, -118), (62, -122), (60, -84), (42, -40))),
        (((32, -40), (50, -116), (42, -40)),),
    ),
}


def draw_person(canvas: np.ndarray, name: str, chance: Chance) -> np.ndarray:
    """Draw an individual's bust.

    Args:
        canvas: (64, 64, 3) int32, changed in place.
        name: one of `PEOPLE`.
        chance: shifts place, size, hue and pose.

    Returns:
        What the person covers: (64, 64) uint8.
    """
    looks = PEOPLE[name]
    size, x, y = chance.between(92, 104), 128 + chance.between(-14, 14), 132 + chance.between(-4, 8)
    raised, lean = chance.pick(_RAISED), chance.between(-8, 8)
    hair, skin = (np.array(colour, np.int32) for colour in HAIR[looks.hair])
    coat, hat = colour_near(looks.coat, chance), colour_near(looks.hat_colour, chance)
    covered = np.zeros(canvas.shape[:2], np.uint8)

    def placed(polygon: Polygon) -> Polygon:
        return tuple((x + (px * size - py * lean) // 100, y + py * size // 100) for px, py in polygon)

    def lay(polygons: list[Polygon], colour: np.ndarray | tuple[int, int, int], inked: bool = True) -> None:
        nonlocal covered
        cover = mask(map(placed, polygons))
        if inked:
            wide = grown(cover)
            covered = np.maximum(covered, wide)
            paint(canvas, wide, INK)
        paint(canvas, cover, colour)

    if looks.hair in ("fair", "brown"):
        lay([oval(0, 10, 52, 62)], hair)
    for side in raised:
        lay([((side * 66, 96), (side * 96, 20), (side * 74, 12), (side * 40, 80))], coat)
        lay([oval(side * 88, 8, 15, 15)], skin)
    lay([((-46, 58), (46, 58), (86, 84), (98, 150), (-98, 150), (-86, 84))], coat)
    _BADGES[looks.badge](lay, coat)
    lay([oval(0, 0, 42, 50)], skin)
    lay([oval(0, -12, 44, 44, 180, 360), box(-46, -14, -34, 18), box(34, -14, 46, 18)], hair, inked=False)
    lay([oval(0, -4, 34, 26)], skin, inked=False)
    lay([oval(-15, 0, 6, 8), oval(15, 0, 6, 8)], INK, inked=False)
    lay([oval(0, 24, 14, 9, 0, 180)], (176, 52, 52), inked=False)
    body, second = _HATS[looks.hat]
    lay(list(body), hat)
    lay(list(second), darker(hat, 45), inked=False)
    return covered


Lay = Callable[..., None]


def _no_badge(lay: Lay, coat: np.ndarray) -> None:
    lay([((-16, 58), (16, 58), (0, 92))], lighter(coat, 40), inked=False)


def _sash(lay: Lay, coat: np.ndarray) -> None:
    lay([((-74, 74), (-42, 62), (92, 132), (92, 160), (60, 160))], _WHITE, inked=False)


def _buttons(lay: Lay, coat: np.ndarray) -> None:
    lay([oval(place, 92, 11, 11) for place in (-58, 0, 58)], _WHITE)


def _disc(lay: Lay, coat: np.ndarray) -> None:
    lay([oval(0, 98, 30, 27)], _WHITE)
    lay([oval(0, 98, 12, 11)], INK, inked=False)


_BADGES = {"none": _no_badge, "sash": _sash, "buttons": _buttons, "disc": _disc}
