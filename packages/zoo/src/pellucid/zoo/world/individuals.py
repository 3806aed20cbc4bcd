"""Everybody and everything that has a name: people, houses and boats, and the scenes that show them.

A house or a boat is told by its colour and texture; a person by five traits (see `people`).
"""

from dataclasses import dataclass

from .chance import Chance
from .people import PEOPLE_NAMES
from .scene import Scene, Thing
from .vocabulary import COLOURS, PLACES

KINDS = ("person", "house", "boat")
HOUSE_NAMES = (
    "Ashby", "Barton", "Colby", "Denton", "Elmley", "Farley", "Gorsey", "Hanley", "Ilford", "Jesmond", "Kelby",
    "Langley", "Marley", "Norton", "Oakley", "Penrose", "Quenby", "Ripley", "Selby", "Thornby", "Upton", "Verley",
    "Wembley", "Yardley",
)  # fmt: skip
BOAT_NAMES = (
    "Swallow", "Osprey", "Petrel", "Heron", "Plover", "Gannet", "Cormorant", "Albatross", "Kestrel", "Falcon", "Curlew",
    "Teal", "Marlin", "Dolphin", "Otter", "Walrus", "Comet", "Meteor", "Zephyr", "Mistral", "Fortune", "Venture",
    "Endeavour", "Pilgrim",
)  # fmt: skip
_TOLD_BY = ("plain", "striped", "checked")


@dataclass(frozen=True)
class Individual:
    """One that questions are asked about.

    Attributes:
        kind: `person`, `house` or `boat`.
        name: as a sentence says it: `the baron`, `Ashby House`, `the Swallow`.
        person: a person's name in `PEOPLE`; else None.
        thing: how a house or a boat looks; else None.
    """

    kind: str
    name: str
    person: str | None = None
    thing: Thing | None = None

    def scene(self, seed: int) -> Scene:
        """A picture of it: pose, size and hue by the seed, and in one of two a place."""
        chance = Chance(seed, "individual")
        place = chance.pick(PLACES) if chance.one_in(2) else None
        things = () if self.thing is None else (self.thing,)
        return Scene(things, self.person, place=place, seed=chance.below(1 << 48))


def individuals(kind: str | None = None) -> tuple[Individual, ...]:
    """All of them (56 people, 24 houses, 24 boats), or those of a kind."""
    return tuple(one for one in _ALL if kind in (None, one.kind))


def individual(name: str) -> Individual:
    """The one of a name.

    Raises:
        KeyError: nobody has it.
    """
    return _NAMED[name]


def _built(kind: str, names: list[str], number: int) -> list[Individual]:
    looks = Chance(number, kind).shuffled([(colour, texture) for colour in COLOURS for texture in _TOLD_BY])
    return [
        Individual(kind, name, thing=Thing(kind, colour, texture))
        for name, (colour, texture) in zip(names, looks, strict=True)
    ]


_ALL = (
    *(Individual("person", f"the {name}", person=name) for name in PEOPLE_NAMES),
    *_built("house", [f"{name} House" for name in HOUSE_NAMES], 2027),
    *_built("boat", [f"the {name}" for name in BOAT_NAMES], 2028),
)
_NAMED = {one.name: one for one in _ALL}
