"""A thing on the canvas: its silhouette, depth, texture, details, and the face or the label that tells its side."""

import numpy as np

from .canvas import dragged, grown, mask, paint
from .chance import Chance
from .scene import Thing
from .shapes import SHAPES, Polygon, box, oval
from .textures import marks
from .vocabulary import COLOURS

INK = (24, 22, 30)
_WHITE = (250, 250, 246)
_TURN = {"left": -1, "right": 1}


def colour_near(name: str, chance: Chance) -> np.ndarray:
    """A colour of the world, a little off by chance: (3,) int32."""
    return np.clip([value + chance.between(-12, 12) for value in COLOURS[name]], 0, 255).astype(np.int32)


def lighter(colour: np.ndarray, percent: int) -> np.ndarray:
    """Mix a colour with white."""
    return colour + (255 - colour) * percent // 100


def darker(colour: np.ndarray, percent: int) -> np.ndarray:
    """Mix a colour with black; a colour that is black already gets lighter instead, so that it still shows."""
    return colour * (100 - percent) // 100 if int(colour.max()) > 90 else lighter(colour, 24)


def draw_thing(canvas: np.ndarray, thing: Thing, middle: tuple[int, int], half: int, chance: Chance) -> np.ndarray:
    """Draw one item of a settled thing.

    Args:
        canvas: (64, 64, 3) int32, changed in place.
        thing: its colour is given.
        middle: across and down, in 256ths of the picture's side.
        half: of its height, in the same unit.
        chance: shifts hue, texture and tilt.

    Returns:
        What it covers: (64, 64) uint8.
    """
    assert thing.colour is not None
    shape, turn = SHAPES[thing.object], _TURN.get(thing.view, 0)
    colour, tilt = colour_near(thing.colour, chance), chance.between(-70, 70)
    width = half * 84 // 100 if turn else half

    def placed(polygon: Polygon) -> Polygon:
        return tuple(
            (middle[0] + (x * width + y * tilt * half // 1000) // 1000, middle[1] + y * half // 1000)
            for x, y in polygon
        )

    silhouette = mask(map(placed, shape.solid), map(placed, shape.hollow))
    cover = silhouette
    if turn:  # a turned thing shows its thickness behind it
        cover = dragged(silhouette, -turn * (half // 13))
        paint(canvas, grown(cover), INK)
        paint(canvas, cover, darker(colour, 50))
    else:
        paint(canvas, grown(cover), INK)
    paint(canvas, silhouette, colour)
    bright = int(colour @ np.array((30, 59, 11))) > 19000
    tones = {
        "dark": darker(colour, 45),
        "marks": darker(colour, 62) if bright else lighter(colour, 72),
        "light": lighter(colour, 60),
        "pale": np.array(_WHITE, np.int32),
    }
    for tone in tones:  # dark parts lie under the texture, bright ones over it
        parts = [placed(polygon) for name, polygon in shape.details if name == tone]
        part = marks(thing.texture, chance) if tone == "marks" else mask(parts) if parts else None
        if part is not None:
            paint(canvas, np.minimum(part, silhouette), tones[tone])
    [face] = placed((shape.face,))
    if thing.view == "back":
        _draw_label(canvas, face, half)
    else:
        _draw_eyes(canvas, (face[0] + turn * half * 26 // 100, face[1]), half, turn)
    if thing.occluded:
        cover = np.maximum(cover, _draw_bar(canvas, middle, half, chance))
    return grown(cover)


def _draw_eyes(canvas: np.ndarray, face: tuple[int, int], half: int, turn: int) -> None:
    """Two eyes that look ahead, or the one that a turned thing shows."""
    size = max(half * (24 if turn else 21) // 100, 11)
    gap = 0 if turn else size * 6 // 5
    places = [(face[0] - gap, face[1]), (face[0] + gap, face[1])][: 1 if turn else 2]
    paint(canvas, mask(oval(x, y, size + 4, size + 4) for x, y in places), INK)
    paint(canvas, mask(oval(x, y, size, size) for x, y in places), _WHITE)
    pupil = size * 55 // 100
    paint(canvas, mask(oval(x + turn * size * 45 // 100, y, pupil, pupil) for x, y in places), INK)


def _draw_label(canvas: np.ndarray, face: tuple[int, int], half: int) -> None:
    """The white label on a thing's back: a sheet with two lines of writing."""
    (x, y), wide, tall = face, half * 36 // 100, half * 28 // 100
    paint(canvas, mask([box(x - wide - 4, y - tall - 4, x + wide + 4, y + tall + 4)]), INK)
    paint(canvas, mask([box(x - wide, y - tall, x + wide, y + tall)]), _WHITE)
    lines = [box(x - wide + 4, y + place, x + wide - 4, y + place + 3) for place in (-tall // 2, tall // 3)]
    paint(canvas, mask(lines), INK)


def _draw_bar(canvas: np.ndarray, middle: tuple[int, int], half: int, chance: Chance) -> np.ndarray:
    """A grey bar over about a third of the thing; returns what it covers."""
    across, offset, thick = chance.one_in(2), chance.between(-half // 2, half // 2), half * 30 // 100
    x, y = middle
    if across:
        bar = box(x - half - 12, y + offset - thick, x + half + 12, y + offset + thick)
    else:
        bar = box(x + offset - thick, y - half - 12, x + offset + thick, y + half + 12)
    cover = mask([bar])
    paint(canvas, grown(cover), INK)
    paint(canvas, cover, (146, 146, 150))
    return cover
