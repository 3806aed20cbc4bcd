"""Scenes into pixels. Every picture is composed at 64x64; the 32x32 one is its mean over 2x2 pixels."""

from collections.abc import Callable, Sequence

import numpy as np
from pellucid.core.errors import OptionError

from .canvas import SIDE, halved, softened
from .chance import Chance
from .layout import spots
from .people import Role
from .places import ground
from .portraits import draw_person
from .scene import Scene, settled
from .styles import STYLISTS
from .things import draw_thing

SIZES = (32, 64)


def render(scene: Scene, size: int = 32, holders: dict[Role, str] | None = None) -> np.ndarray:
    """Draw a scene; the same one always gives the same picture.

    Args:
        scene: what to show.
        size: 32 or 64 pixels.
        holders: who holds each role; the present holders where it is not given.

    Returns:
        A uint8 array (size, size, 3), red, green and blue.

    Raises:
        OptionError: the size is another one, or a role has no holder in the table.
    """
    if size not in SIZES:
        raise OptionError(f"Tinyworld is drawn at 32 or 64 pixels, not at {size}: choose one of them")
    canvas, _ = _drawn(settled(scene, holders))
    return (halved(canvas) if size == SIDE // 2 else canvas).astype(np.uint8)


def outline(scene: Scene, size: int = 64) -> np.ndarray:
    """Where a scene's things or its person are drawn; what a bar hides belongs to them.

    Args:
        scene: as for `render`.
        size: 32 or 64 pixels.

    Returns:
        Booleans (size, size).

    Raises:
        OptionError: the size is another one.
    """
    if size not in SIZES:
        raise OptionError(f"Tinyworld is drawn at 32 or 64 pixels, not at {size}: choose one of them")
    _, cover = _drawn(settled(scene, None))
    return np.asarray((cover if size == SIDE else cover[::2, ::2]) > 0)


def _drawn(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """A settled scene's picture (64, 64, 3) from 0 to 255, and where its things are."""
    canvas = ground(scene.place, Chance(scene.seed, "place"))
    chance = Chance(scene.seed, "thing")
    cover = np.zeros((SIDE, SIDE), np.uint8)
    if isinstance(scene.person, str):
        cover = draw_person(canvas, scene.person, chance)
    else:
        for thing, middle, half in spots(scene, chance):
            cover = np.maximum(cover, draw_thing(canvas, thing, middle, half, chance))
    if scene.style is not None:
        canvas = STYLISTS[scene.style](np.clip(canvas, 0, 255), cover, Chance(scene.seed, "style"))
    if scene.blur:
        canvas = softened(canvas, 3)
    return np.clip(canvas, 0, 255), cover


def render_all(
    scenes: Sequence[Scene], size: int = 32, advance: Callable[[int], None] = lambda steps: None
) -> np.ndarray:
    """Draw scenes one after the other.

    Args:
        scenes: what to show, one or more.
        size: 32 or 64 pixels.
        advance: told after each picture; see `pellucid.core.progress`.

    Returns:
        A uint8 array (n, size, size, 3).
    """
    pictures = np.empty((len(scenes), size, size, 3), np.uint8)
    for place, scene in enumerate(scenes):
        pictures[place] = render(scene, size)
        advance(1)
    return pictures
