"""Prompts to measure on: each asks for a combination that the training split never shows."""

from collections.abc import Callable

from ..world.chance import Chance
from ..world.people import HOLDERS, PEOPLE_NAMES
from ..world.sampling import split_of
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, RELATIONS, STYLES

KINDS = ("several attributes", "one attribute", "two objects", "person", "role")


def held_out_scenes(kind: str, count: int, seed: int) -> list[Scene]:
    """Scenes of the test split.

    Args:
        kind: one of `KINDS`. `several attributes`: one thing with a colour, in a place, in a style; `one attribute`:
            one thing with one of the three; `two objects`: both with a colour, every other pair with a relation;
            `person` and `role`: in a place where the person is never seen in training.
        count: how many.
        seed: fixes them.
    """
    chance = Chance(seed, f"prompts {kind}")
    found: list[Scene] = []
    while len(found) < count:
        scene = _DRAWN[kind](chance)
        if split_of(scene) == "test":
            found.append(scene)
    return found


def _several(chance: Chance) -> Scene:
    thing = Thing(chance.pick(OBJECTS), chance.pick(list(COLOURS)))
    return Scene((thing,), place=chance.pick(PLACES), style=chance.pick(STYLES), seed=chance.below(1 << 48))


def _one(chance: Chance) -> Scene:
    which, name, seed = chance.below(3), chance.pick(OBJECTS), chance.below(1 << 48)
    if which == 0:
        return Scene((Thing(name, chance.pick(list(COLOURS))),), seed=seed)
    if which == 1:
        return Scene((Thing(name),), place=chance.pick(PLACES), seed=seed)
    return Scene((Thing(name),), style=chance.pick(STYLES), seed=seed)


def _two(chance: Chance) -> Scene:
    one, two = (Thing(chance.pick(OBJECTS), chance.pick(list(COLOURS))) for _ in range(2))
    while one.object == two.object or one.colour == two.colour:
        two = Thing(chance.pick(OBJECTS), chance.pick(list(COLOURS)))
    return Scene((one, two), None, chance.pick(RELATIONS) if chance.one_in(2) else None, seed=chance.below(1 << 48))


def _person(chance: Chance) -> Scene:
    return Scene(person=chance.pick(PEOPLE_NAMES), place=chance.pick(PLACES), seed=chance.below(1 << 48))


def _role(chance: Chance) -> Scene:
    return Scene(person=chance.pick(list(HOLDERS)), place=chance.pick(PLACES), seed=chance.below(1 << 48))


_DRAWN: dict[str, Callable[[Chance], Scene]] = dict(zip(KINDS, (_several, _one, _two, _person, _role), strict=True))
