"""A picture being composed at 64x64: soft masks from polygons, and paint through a mask. Whole numbers only."""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from .shapes import Polygon

SIDE = 64
_FINE = 4  # masks are drawn four times finer and reduced
_SCALE = _FINE * SIDE


def mask(polygons: Iterable[Polygon], hollow: Iterable[Polygon] = ()) -> np.ndarray:
    """Fill polygons in sub-pixels and reduce them.

    Args:
        polygons: corners in 256ths of the picture's side.
        hollow: polygons that are cut out.

    Returns:
        A uint8 array (64, 64): how much of each pixel is covered, 0 to 255.
    """
    image = Image.new("L", (_SCALE, _SCALE))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon(polygon, fill=255)
    for polygon in hollow:
        draw.polygon(polygon, fill=0)
    return np.asarray(image.reduce(_FINE))


def paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> None:
    """Lay a colour over the canvas where a mask covers it.

    Args:
        canvas: (64, 64, 3) int32, changed in place.
        cover: (64, 64) uint8.
        colour: three numbers, or one colour for each pixel.
    """
    rows = np.flatnonzero(cover.any(1))
    if not rows.size:
        return
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    part, weight = canvas[top:bottom], cover[top:bottom].astype(np.int32)
    weight += weight >> 7  # 0 to 256, so that a shift can stand for the slow division
    over = np.asarray(colour, np.int32)
    over = (over[top:bottom] if over.ndim == 3 else over) - part
    over *= weight[:, :, None]
    over >>= 8
    part += over


def grown(cover: np.ndarray, steps: int = 1) -> np.ndarray:
    """A mask made wider by some pixels on all sides."""
    for _ in range(steps):
        wide = cover.copy()
        np.maximum(wide[1:], cover[:-1], out=wide[1:])
        np.maximum(wide[:-1], cover[1:], out=wide[:-1])
        tall = wide.copy()
        np.maximum(wide[:, 1:], tall[:, :-1], out=wide[:, 1:])
        np.maximum(wide[:, :-1], tall[:, 1:], out=wide[:, :-1])
        cover = wide
    return cover


def dragged(cover: np.ndarray, steps: int) -> np.ndarray:
    """A mask drawn out sideways by some pixels: to the right, or to the left where `steps` is negative."""
    found = cover.copy()
    for step in range(1, abs(steps) + 1):
        if steps > 0:
            np.maximum(found[:, step:], cover[:, :-step], out=found[:, step:])
        else:
            np.maximum(found[:, :-step], cover[:, step:], out=found[:, :-step])
    return found


def softened(picture: np.ndarray, times: int) -> np.ndarray:
    """Blur with the binomial kernel (1, 4, 6, 4, 1) / 16 along both sides, some times over.

    Args:
        picture: (h, w, c) int32.
        times: each adds a variance of one pixel.
    """
    for _ in range(times):
        for _axis in range(2):  # down, then across: the sides change places twice
            far = np.concatenate([picture[:1], picture[:1], picture, picture[-1:], picture[-1:]])
            mixed = far[:-4] + far[4:] + 4 * (far[1:-3] + far[3:-1]) + 6 * far[2:-2]
            picture = ((mixed + 8) >> 4).transpose(1, 0, 2)
    return picture


def halved(picture: np.ndarray) -> np.ndarray:
    """The mean of each 2x2 pixels, rounded: (n, n, 3) to (n / 2, n / 2, 3)."""
    return (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2] + 2) >> 2
