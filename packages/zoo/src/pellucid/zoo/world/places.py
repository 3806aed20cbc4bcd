"""The grounds that a picture can have: a plain one, or one of four places."""

from functools import cache

import numpy as np

from .canvas import SIDE, mask, paint
from .chance import Chance, smooth_noise
from .shapes import Polygon, box, oval

_VARIANTS = 96
_PLAIN = ((240, 234, 220), (226, 232, 240), (236, 228, 236), (228, 238, 226), (238, 238, 238))


def ground(place: str | None, chance: Chance) -> np.ndarray:
    """Draw a background.

    Args:
        place: one of the world's places, or None for a plain ground.
        chance: shifts its parts.

    Returns:
        An int32 array (64, 64, 3) from 0 to 255.
    """
    if place is None:
        tone = np.array(chance.pick(_PLAIN), np.int32) - chance.below(14)
        slope = (np.arange(SIDE, dtype=np.int32)[:, None, None] * chance.between(-10, 10)) // SIDE
        return np.broadcast_to(tone + slope, (SIDE, SIDE, 3)).copy()
    canvas = _painted(place, chance.below(_VARIANTS)).astype(np.int32)
    return canvas + (chance.between(-6, 6) + (_haze(chance.below(_VARIANTS)) >> 4) - 8)


@cache
def _painted(place: str, variant: int) -> np.ndarray:
    """One of a place's views, kept because it takes longer to draw than all else in a picture: (64, 64, 3) uint8."""
    return np.clip(_PAINTERS[place](Chance(variant, place)), 0, 255).astype(np.uint8)


@cache
def _haze(variant: int) -> np.ndarray:
    return smooth_noise(variant, SIDE, 16)


def _bands(*bands: tuple[int, tuple[int, int, int]]) -> np.ndarray:
    """Horizontal bands, each from its row down."""
    canvas = np.empty((SIDE, SIDE, 3), np.int32)
    for row, colour in bands:
        canvas[row:] = colour
    return canvas


def _beach(chance: Chance) -> np.ndarray:
    sea, sand = chance.between(14, 20), chance.between(34, 42)
    canvas = _bands((0, (164, 220, 246)), (sea, (40, 150, 200)), (sand, (236, 212, 154)))
    foam = [oval(x * 22 + chance.below(12), sand * 4, 16, 7) for x in range(12)]
    paint(canvas, mask(foam), (244, 250, 252))
    sun = chance.pick((34, 222))
    paint(canvas, mask([oval(sun, 30, 20, 20)]), (255, 240, 150))
    return canvas


def _forest(chance: Chance) -> np.ndarray:
    canvas = _bands((0, (152, 190, 140)), (40, (92, 120, 66)))
    crowns: list[Polygon] = []
    trunks: list[Polygon] = []
    for tree in range(6):
        x, top = tree * 48 + chance.between(-8, 16), chance.between(6, 40)
        trunks.append(box(x - 6, top + 90, x + 6, 190))
        crowns.append(((x, top), (x + 36, top + 120), (x - 36, top + 120)))
    paint(canvas, mask(trunks), (86, 62, 44))
    paint(canvas, mask(crowns), (28, 84, 48))
    return canvas


def _snow(chance: Chance) -> np.ndarray:
    canvas = _bands((0, (128, 158, 208)), (34, (246, 248, 252)))
    peak = chance.between(60, 196)
    paint(canvas, mask([((peak, 34), (peak + 110, 144), (peak - 110, 144))]), (78, 98, 146))
    paint(canvas, mask([((peak, 34), (peak + 36, 70), (peak, 84), (peak - 36, 70))]), (250, 252, 255))
    flakes = [oval(chance.below(256), chance.below(256), 6, 6) for _ in range(26)]
    paint(canvas, mask(flakes), (255, 255, 255))
    return canvas


def _city(chance: Chance) -> np.ndarray:
    canvas = _bands((0, (206, 198, 204)), (48, (112, 112, 118)))
    houses: list[Polygon] = []
    windows: list[Polygon] = []
    for house in range(5):
        left, top = house * 54 + chance.between(-10, 4), chance.between(10, 80)
        houses.append(box(left, top, left + 42, 200))
        windows += [box(left + x, y, left + x + 8, y + 12) for x in (8, 26) for y in range(top + 12, 180, 26)]
    paint(canvas, mask(houses), (120, 104, 112))
    paint(canvas, mask(windows), (255, 226, 140))
    paint(canvas, mask([box(x, 222, x + 28, 230) for x in range(-10 + chance.below(20), 256, 56)]), (238, 238, 232))
    return canvas


_PAINTERS = {"beach": _beach, "forest": _forest, "snow": _snow, "city": _city}
