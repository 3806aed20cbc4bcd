"""Scenes by chance, and a split by combination: what the test split combines, the training split never shows together.

Each single attribute is in both splits. Held out are one style of each object and person, one in eight of the other
pairs (an object and its colour, texture, view, count or place; a person and a place), and one in eight of the couples
of two coloured objects.
"""

from collections.abc import Iterator

from pellucid.core.errors import OptionError

from .chance import Chance
from .people import HOLDERS, PEOPLE_NAMES, Role
from .scene import Scene, Thing, settled
from .vocabulary import COLOURS, OBJECTS, PLACES, RELATIONS, STYLES, TEXTURES, VIEWS

SPLITS = ("train", "test", "all")
Combination = tuple[str, ...]
_ONE_IN = 8


def combinations(scene: Scene) -> frozenset[Combination]:
    """All the combinations of attributes that a scene shows, held out or not.

    Returns:
        Tuples whose first word is the kind, such as `("colour", "circle", "red")`. Defaults make no combination.
    """
    scene = settled(scene)
    found: set[Combination] = set()
    subjects = [scene.person] if isinstance(scene.person, str) else [thing.object for thing in scene.things]
    for subject in subjects:
        found |= {("style", subject, scene.style)} if scene.style else set()
        found |= {("place", subject, scene.place)} if scene.place else set()
    named = []
    for thing in scene.things:
        assert thing.colour is not None
        found.add(("colour", thing.object, thing.colour))
        found |= {("texture", thing.object, thing.texture)} if thing.texture != "plain" else set()
        found |= {("view", thing.object, thing.view)} if thing.view != "front" else set()
        found |= {("count", thing.object, str(thing.count))} if thing.count > 1 else set()
        named.append(f"{thing.colour} {thing.object}")
    if len(named) == 2:
        found.add(("couple", *sorted(named)))
    return frozenset(found)


def held_out(combination: Combination) -> bool:
    """Whether only the test split shows a combination."""
    if combination[0] == "style":
        return bool(combination[2] == Chance(0, combination[1]).pick(STYLES))
    return Chance(0, " ".join(combination)).one_in(_ONE_IN)


def split_of(scene: Scene) -> str:
    """`test` where a scene shows a combination that is held out, else `train`."""
    return "test" if any(held_out(combination) for combination in combinations(scene)) else "train"


def sample(count: int, seed: int, split: str = "all") -> Iterator[Scene]:
    """Draw scenes: single things, several alike, two things, persons; in any place and style.

    Args:
        count: how many.
        seed: fixes them all; scenes of another seed are others.
        split: `train`, `test`, or `all` for both.

    Yields:
        Scenes; a colour or a relation is left open now and then, as captions leave it unsaid.

    Raises:
        OptionError: there is no such split.
    """
    if split not in SPLITS:
        raise OptionError(f"there is no split {split!r}: choose among {', '.join(SPLITS)}")
    chance = Chance(seed, f"sample {split}")
    done = 0
    while done < count:
        scene = draw(chance)
        if split in ("all", split_of(scene)):
            done += 1
            yield scene


def draw(chance: Chance) -> Scene:
    """Draw one scene."""
    kind = chance.below(20)
    place = chance.pick(PLACES) if chance.below(5) < 2 else None
    style = chance.pick(STYLES) if chance.below(5) < 2 else None
    seed = chance.below(1 << 48)
    if kind < 4:
        return Scene(person=chance.pick(PEOPLE_NAMES), place=place, style=style, seed=seed)
    if kind < 10:
        things = (_thing(chance, 1), _thing(chance, 1))
        while (things[0].object, things[0].colour) == (things[1].object, things[1].colour):
            things = (things[0], _thing(chance, 1))
        relation = chance.pick(RELATIONS) if chance.below(3) else None
        return Scene(things, None, relation, place, style, seed=seed)
    return Scene((_thing(chance, 1 if kind < 16 else chance.between(2, 3)),), place=place, style=style, seed=seed)


def draw_role(chance: Chance) -> Scene:
    """Draw a scene that names a person by a role."""
    role: Role = chance.pick(list(HOLDERS))
    return Scene(person=role, place=chance.pick((None, *PLACES)), seed=chance.below(1 << 48))


def _thing(chance: Chance, count: int) -> Thing:
    return Thing(
        chance.pick(OBJECTS),
        None if chance.one_in(8) else chance.pick(list(COLOURS)),
        chance.pick(TEXTURES) if chance.one_in(2) else "plain",
        chance.pick(VIEWS) if chance.one_in(2) else "front",
        count,
    )
