"""Where the things of a scene stand."""

from .chance import Chance
from .scene import Scene, Thing


def spots(scene: Scene, chance: Chance) -> list[tuple[Thing, tuple[int, int], int]]:
    """Place every item of a settled scene without a person.

    Args:
        scene: settled, so that the relation is `left of` or `above`.
        chance: shifts places and sizes.

    Returns:
        For each item its thing, its middle (across, down) and half its height, in 256ths of the picture's side.
    """
    if len(scene.things) == 2:
        found = []
        for thing, along in zip(scene.things, (66, 190), strict=True):
            along, aside = along + chance.between(-6, 6), 128 + chance.between(-22, 22)
            middle = (along, aside) if scene.relation == "left of" else (aside, along)
            found.append((thing, middle, chance.between(52, 58)))
        return found
    [thing] = scene.things
    if thing.count == 1:
        half = chance.between(76, 94)
        room = min(118 - half, 24)
        return [(thing, (128 + chance.between(-room, room), 128 + chance.between(-room, room)), half)]
    half = chance.between(48, 56)
    if thing.count == 2:
        slant = chance.between(-46, 46)
        places = [(67, 128 - slant), (189, 128 + slant)]
    else:
        flip = chance.pick((-1, 1))
        places = [(67, 128 + flip * 58), (189, 128 + flip * 58), (128, 128 - flip * 60)]
    return [(thing, (x + chance.between(-5, 5), y + chance.between(-5, 5)), half) for x, y in places]
