"""Six treatments of the whole picture, each standing for an artist.

They change the ground strongly and the things less, and they keep the order of hues: a red thing stays redder than
anything else in its picture, so that style and colour are two attributes and not one.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from .canvas import SIDE, halved, mask, paint, softened
from .chance import Chance, noise, smooth_noise
from .shapes import box, oval

_INK = (20, 18, 24)


def _grey(picture: np.ndarray) -> np.ndarray:
    """Brightness of each pixel: (64, 64, 1) int32."""
    return (picture @ np.array((30, 59, 11), np.int32) // 100)[:, :, None]


def _mixed(picture: np.ndarray, other: np.ndarray | tuple[int, int, int], percent: np.ndarray | int) -> np.ndarray:
    return picture + (np.asarray(other, np.int32) - picture) * percent // 100


def _weight(cover: np.ndarray, ground: int, thing: int) -> np.ndarray:
    """A percentage for each pixel: one on the ground, another on the things, (64, 64, 1) int32."""
    return ground + (thing - ground) * cover[:, :, None].astype(np.int32) // 255


@cache
def _swirls(variant: int) -> np.ndarray:
    """Strokes along the circles around three points: noise smeared along the flow, (64, 64) int32 from -128 to 127."""
    chance = Chance(variant, "swirls")
    down, right = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    flow = np.zeros((2, SIDE, SIDE))
    for number in range(3):
        y, x = chance.between(4, 60) - down, chance.between(4, 60) - right
        pull = (1 if number % 2 else -1) / (40.0 + x * x + y * y)
        flow += np.stack([x * pull, -y * pull])
    flow /= np.sqrt((flow * flow).sum(0)) + 1e-9
    grain = noise(variant, SIDE, SIDE)
    total = np.zeros((SIDE, SIDE), np.int64)
    for way in (1, -1):
        y, x = down.copy(), right.copy()
        for _ in range(6):
            row, column = y.astype(np.int64) % SIDE, x.astype(np.int64) % SIDE
            total += grain[row, column]
            step = flow[:, row, column]
            y, x = y + way * step[0], x + way * step[1]
    return np.clip((total - 12 * 128) // 3, -128, 127).astype(np.int32)


def _van_gogh(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """Swirling strokes: blue ones in the dark, yellow ones in the light."""
    stroke = _swirls(chance.below(24))[:, :, None]
    deep = _mixed(picture, (28, 60, 160), _weight(cover, 58, 0))
    bright = _mixed(picture, (250, 214, 90), _weight(cover, 52, 0))
    blend = np.clip(50 + stroke, 0, 100)
    return deep + (bright - deep) * blend // 100 + stroke * _weight(cover, 40, 18) // 100


@cache
def _blotches(variant: int) -> np.ndarray:
    return smooth_noise(variant, SIDE, 7, 3)


def _monet(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """Soft blotches in pastel, without a hard edge or a black line."""
    blotches = _blotches(chance.below(64)) - 128
    soft = _mixed(picture, softened(picture, 1), _weight(cover, 100, 55))
    pale = _mixed(soft, (236, 226, 238), _weight(cover, 46, 16))
    return pale + blotches * _weight(cover, 44, 14) // 100


def _mondrian(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """A heavy black grid, and the fields between its bars in primary colours."""
    columns = sorted((chance.between(30, 70), chance.between(186, 226)))
    rows = sorted((chance.between(30, 70), chance.between(186, 226)))
    fields = np.full((SIDE, SIDE, 3), 250, np.int32)
    lefts, tops = [0, *columns], [0, *rows]
    cells = chance.shuffled([(x, y) for x in range(3) for y in range(3) if (x, y) != (1, 1)])
    for (x, y), colour in zip(cells, 2 * [(222, 30, 30), (28, 70, 190), (250, 220, 30)], strict=False):
        right, bottom = [*columns, 256][x], [*rows, 256][y]
        fields[tops[y] // 4 : bottom // 4, lefts[x] // 4 : right // 4] = colour
    found = _mixed(picture, fields, _weight(cover, 54, 0))
    bars = [box(x - 7, 0, x + 7, 256) for x in columns] + [box(0, y - 7, 256, y + 7) for y in rows]
    grid = mask(bars).astype(np.int32) * _weight(cover, 100, 42)[:, :, 0] // 100
    paint(found, grid.astype(np.uint8), _INK)
    return found


@cache
def _points(variant: int) -> tuple[np.ndarray, np.ndarray]:
    """Round points, one in each 4x4 pixels and off its middle by chance: which point a pixel is of, and its cover."""
    chance, many = Chance(variant, "points"), SIDE // 4
    dots = [
        oval(column * 16 + 8 + chance.between(-2, 2), row * 16 + 8 + chance.between(-2, 2), 7, 7)
        for row in range(many)
        for column in range(many)
    ]
    owner = np.arange(many * many).reshape(many, many).repeat(4, 0).repeat(4, 1)
    return owner, mask(dots)


def _seurat(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """Points of pure colour beside each other, on pale paper."""
    owner, dots = _points(chance.below(24))
    shift = (noise(chance.bits(), owner.max() + 1, 3) - 128)[owner]
    coarse = halved(halved(picture)).repeat(4, 0).repeat(4, 1)
    dotted = _mixed(picture, coarse, _weight(cover, 60, 0)) + shift * _weight(cover, 50, 18) // 100
    paper = _mixed(dotted, (248, 240, 222), _weight(cover, 74, 28))
    return paper + (dotted - paper) * dots[:, :, None].astype(np.int32) // 255


def _hokusai(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """A woodcut: blue ink on cream paper, and a great wave below."""
    grey = _grey(picture)
    print_ = np.array((28, 52, 104), np.int32) + (np.array((244, 232, 200), np.int32) - (28, 52, 104)) * grey // 255
    found = _mixed(picture, print_, _weight(cover, 78, 10))
    edges = np.zeros((SIDE, SIDE, 1), np.int32)
    edges[1:] += abs(grey[1:] - grey[:-1])
    edges[:, 1:] += abs(grey[:, 1:] - grey[:, :-1])
    found = _mixed(found, (24, 44, 100), np.clip(edges * _weight(cover, 90, 40) // 100, 0, 90))
    shift, behind = chance.below(64), 255 - cover.astype(np.int32) * 9 // 10
    crests = [oval(x * 64 - shift, 232, 38, 40) for x in range(6)]
    foam = [oval(x * 64 - shift + 14, 204, 22, 22) for x in range(6)]
    inner = [oval(x * 64 - shift + 22, 214, 20, 20) for x in range(6)]
    sea = [box(0, 236, 256, 256)]
    for polygons, colour in ((crests + sea, (38, 80, 150)), (foam, (248, 248, 244)), (inner, (38, 80, 150))):
        paint(found, np.minimum(mask(polygons), behind.astype(np.uint8)), colour)
    return found


def _warhol(picture: np.ndarray, cover: np.ndarray, chance: Chance) -> np.ndarray:
    """Few flat tones, and a loud tint in each quarter of the ground."""
    flat = picture // 86 * 86 + 40
    tints = chance.shuffled([(255, 70, 170), (60, 220, 220), (250, 226, 50), (140, 240, 70)])
    quarters = np.empty((SIDE, SIDE, 3), np.int32)
    half = SIDE // 2
    for tint, (top, left) in zip(tints, ((0, 0), (0, half), (half, 0), (half, half)), strict=True):
        quarters[top : top + half, left : left + half] = tint
    shaded = quarters * np.clip(_grey(flat) * 100 // 200, 34, 118) // 100
    return _mixed(_mixed(picture, flat, 60), shaded, _weight(cover, 74, 8))


STYLISTS: dict[str, Callable[[np.ndarray, np.ndarray, Chance], np.ndarray]] = {
    "van gogh": _van_gogh,
    "monet": _monet,
    "mondrian": _mondrian,
    "seurat": _seurat,
    "hokusai": _hokusai,
    "warhol": _warhol,
}
