"""The patterns that a thing can wear: how much of the mark's colour each pixel takes."""

from functools import cache

import numpy as np

from .chance import Chance

SIDE = 64  # all pictures are composed at 64x64 pixels


@cache
def _pattern(texture: str) -> np.ndarray:
    """A pattern over more than the picture, so that it can be shifted: (96, 96) uint8."""
    fine = np.arange(96 * 4)
    down, right = fine[:, None], fine[None, :]
    if texture == "striped":
        marks = np.broadcast_to(down % 32 < 15, (384, 384))
    elif texture == "checked":
        marks = (down // 24 + right // 24) % 2 == 0
    else:
        shifted = right + 16 * (down // 32 % 2)
        marks = (down % 32 - 16) ** 2 + (shifted % 32 - 16) ** 2 < 105
    return (marks.reshape(96, 4, 96, 4).sum((1, 3)) * 255 // 16).astype(np.uint8)


def marks(texture: str, chance: Chance) -> np.ndarray | None:
    """Where a texture's marks lie, shifted by chance.

    Returns:
        A uint8 array (64, 64), 255 where the mark covers a pixel; None for `plain`.
    """
    if texture == "plain":
        return None
    top, left = chance.below(24), chance.below(24)
    return _pattern(texture)[top : top + SIDE, left : left + SIDE]
