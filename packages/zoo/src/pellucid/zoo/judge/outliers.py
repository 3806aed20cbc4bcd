"""Pictures that are not of the world, so that the judge learns to say so.

The kinds of `HELD_OUT` are never trained on: on them is measured what the judge makes of the unknown.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from ..world.canvas import halved
from ..world.chance import Chance, noise, smooth_noise
from ..world.places import ground
from ..world.renderer import render
from ..world.sampling import draw
from ..world.styles import STYLISTS
from ..world.vocabulary import PLACES

SIDE = 32


def _shade(chance: Chance) -> tuple[int, int, int]:
    return chance.below(256), chance.below(256), chance.below(256)


def _ramp(chance: Chance) -> np.ndarray:
    """A line's position across the picture in a direction of chance: (32, 32, 1) int32 from 0 to 255."""
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    slope = down * chance.between(-8, 8) + right * chance.between(-8, 8)
    slope = slope - slope.min()
    return (slope * 255 // max(int(slope.max()), 1))[:, :, None]


def _noise(chance: Chance) -> np.ndarray:
    strength = chance.between(20, 100)
    return np.array(_shade(chance)) + (noise(chance.bits(), SIDE, SIDE, chance.pick((1, 3))) - 128) * strength // 60


def _scrambled(chance: Chance) -> np.ndarray:
    cell = chance.pick((4, 8))
    picture, many = render(draw(chance)), SIDE // cell
    tiles = picture.reshape(many, cell, many, cell, 3).swapaxes(1, 2).reshape(-1, cell, cell, 3)
    tiles = tiles[chance.shuffled(range(len(tiles)))]
    return tiles.reshape(many, many, cell, cell, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)


def _gradient(chance: Chance) -> np.ndarray:
    one, two = np.array(_shade(chance)), np.array(_shade(chance))
    return one + (two - one) * _ramp(chance) // 255


def _blend(chance: Chance) -> np.ndarray:
    one, two = (render(draw(chance)).astype(np.int32) for _ in range(2))
    return one + (two - one) * chance.between(40, 60) // 100


def _clouds(chance: Chance) -> np.ndarray:
    found = smooth_noise(chance.bits(), SIDE, chance.pick((3, 5, 8, 12)), chance.pick((1, 3)))
    return np.array(_shade(chance)) + (found - 128) * chance.between(60, 200) // 100


def _polygons(chance: Chance) -> np.ndarray:
    image = Image.new("RGB", (128, 128), _shade(chance))
    pen = ImageDraw.Draw(image)
    for _ in range(chance.between(1, 6)):
        points = [(chance.below(128), chance.below(128)) for _ in range(chance.between(3, 6))]
        pen.polygon(points, _shade(chance), _shade(chance) if chance.one_in(2) else None)
    return np.asarray(image.reduce(4))


def _empty(chance: Chance) -> np.ndarray:
    """A place without a thing."""
    canvas = np.clip(ground(chance.pick((None, *PLACES)), chance), 0, 255)
    if chance.one_in(2):
        canvas = STYLISTS[chance.pick(list(STYLISTS))](canvas, np.zeros((64, 64), np.uint8), chance)
    return halved(np.clip(canvas, 0, 255))


def _tiles(chance: Chance) -> np.ndarray:
    cell = chance.between(2, 10)
    down, right = np.mgrid[0:SIDE, 0:SIDE] // cell
    shades = np.array([_shade(chance) for _ in range(4)])
    return shades[(down * chance.between(1, 3) + right) % chance.between(2, 4)]


def _plaid(chance: Chance) -> np.ndarray:
    one, two = noise(chance.bits(), SIDE, 1, 3), noise(chance.bits(), 1, SIDE, 3)
    cell = chance.pick((2, 4))
    return (one.repeat(cell, 0)[:SIDE] + two.repeat(cell, 1)[:, :SIDE]) // 2


def _scribble(chance: Chance) -> np.ndarray:
    image = Image.new("RGB", (128, 128), _shade(chance))
    pen, points = ImageDraw.Draw(image), [(64, 64)]
    for _ in range(30):
        points.append((points[-1][0] + chance.between(-30, 30), points[-1][1] + chance.between(-30, 30)))
    pen.line(points, _shade(chance), chance.between(3, 9))
    return np.asarray(image.reduce(4))


def _rings(chance: Chance) -> np.ndarray:
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    far = (down - chance.below(SIDE)) ** 2 + (right - chance.below(SIDE)) ** 2
    shades = np.array([_shade(chance) for _ in range(3)])
    return shades[far // chance.between(20, 160) % 3]


def _negative(chance: Chance) -> np.ndarray:
    return 255 - render(draw(chance))


TRAINED: dict[str, Callable[[Chance], np.ndarray]] = {
    "noise": _noise,
    "scrambled": _scrambled,
    "gradient": _gradient,
    "blend": _blend,
    "clouds": _clouds,
    "polygons": _polygons,
    "empty": _empty,
    "tiles": _tiles,
}
HELD_OUT: dict[str, Callable[[Chance], np.ndarray]] = {
    "plaid": _plaid,
    "scribble": _scribble,
    "rings": _rings,
    "negative": _negative,
}


def outlier(kind: str, chance: Chance) -> np.ndarray:
    """Draw one picture of a kind: (32, 32, 3) uint8."""
    picture = (TRAINED | HELD_OUT)[kind](chance)
    return np.broadcast_to(np.clip(picture, 0, 255), (SIDE, SIDE, 3)).astype(np.uint8)
