"""Pictures whose object and place go together, as in Waterbirds (Sagawa et al. 2020): boats on the beach."""

from pellucid.core.errors import OptionError

from .chance import Chance
from .scene import Scene, Thing
from .vocabulary import COLOURS, TEXTURES, VIEWS

LABELS = ("boat", "car")
USUAL = {"boat": "beach", "car": "city"}


def group_scenes(count: int, seed: int, together: float = 0.95) -> tuple[Scene, ...]:
    """Boats and cars, as many of each, in two places.

    Things are seen from any side, in any colour and texture.

    Args:
        count: of pictures.
        seed: of the scenes.
        together: share of the pictures with the usual place; 0.5 makes all four groups as large.

    Raises:
        OptionError: the share is not from 0 to 1, or there is less than one picture.
    """
    if count < 1 or not 0 <= together <= 1:
        raise OptionError(f"count={count}, together={together}: give 1 or more, and a share from 0 to 1")
    chance, found = Chance(seed, "groups"), []
    for number in range(count):
        label = LABELS[number % 2]
        other = USUAL[LABELS[1 - number % 2]]
        thing = Thing(label, chance.pick(list(COLOURS)), chance.pick(TEXTURES), chance.pick(VIEWS))
        place = USUAL[label] if chance.below(10_000) < together * 10_000 else other
        found.append(Scene((thing,), place=place, seed=chance.below(1 << 48)))
    return tuple(found)


def group_of(scene: Scene) -> str:
    """Which of the four groups a picture belongs to: `boat on the beach` and so on."""
    return f"{scene.things[0].object} in {scene.place}"
