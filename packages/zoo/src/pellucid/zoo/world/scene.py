"""What a picture shows, in words: frozen, checked, and complete once `settled`."""

from dataclasses import dataclass, replace

from pellucid.core.errors import OptionError

from .chance import Chance
from .people import PEOPLE, Role, holder_of
from .vocabulary import COLOURS, CONVERSE, COUNTS, OBJECTS, PLACES, RELATIONS, STYLES, TEXTURES, VIEWS


@dataclass(frozen=True)
class Thing:
    """One object, or two or three alike.

    Attributes:
        object: one of `OBJECTS`.
        colour: one of `COLOURS`; None leaves it to the scene's seed.
        texture: one of `TEXTURES`.
        view: the side that it shows, one of `VIEWS`.
        count: 1, 2 or 3 of it.
        occluded: whether a grey bar hides a part of it.

    Raises:
        OptionError: a name or a number is not of the world.
    """

    object: str
    colour: str | None = None
    texture: str = "plain"
    view: str = "front"
    count: int = 1
    occluded: bool = False

    def __post_init__(self) -> None:
        _check("object", self.object, OBJECTS)
        if self.colour is not None:
            _check("colour", self.colour, COLOURS)
        _check("texture", self.texture, TEXTURES)
        _check("view", self.view, VIEWS)
        _check("count", self.count, COUNTS)


@dataclass(frozen=True)
class Scene:
    """One picture: a thing, two things, or a person.

    Attributes:
        things: one or two things; none where there is a person.
        person: an individual's name, or a role that the holders' table turns into one.
        relation: where the first thing stands seen from the second, one of `RELATIONS`; None leaves it to the seed.
        place: one of `PLACES`; None is a plain ground.
        style: one of `STYLES`; None is the plain drawing.
        blur: whether the whole picture is blurred.
        seed: position, size, pose, hue and brush; two pictures of one scene differ by it alone.

    Raises:
        OptionError: a name is not of the world, or the parts do not go together.
    """

    things: tuple[Thing, ...] = ()
    person: str | Role | None = None
    relation: str | None = None
    place: str | None = None
    style: str | None = None
    blur: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.person is None) == (not self.things) or len(self.things) > 2:
            raise OptionError(f"a scene of {len(self.things)} things and person={self.person!r}: give 1, 2 or a person")
        if isinstance(self.person, str):
            _check("person", self.person, PEOPLE)
        if len(self.things) == 2 and any(thing.count > 1 for thing in self.things):
            raise OptionError("two things with a count of 2 or 3 do not fit: leave count=1")
        alike = len({(thing.object, thing.colour) for thing in self.things}) < len(self.things)
        if alike and self.things[0].colour is not None:
            name = f"{self.things[0].colour} {self.things[0].object}"
            raise OptionError(f"both things are a {name}: give another colour, or one thing with count=2")
        if self.relation is not None:
            _check("relation", self.relation, RELATIONS)
            if len(self.things) != 2:
                raise OptionError(f"relation={self.relation!r} needs two things, this scene has {len(self.things)}")
        if self.place is not None:
            _check("place", self.place, PLACES)
        if self.style is not None:
            _check("style", self.style, STYLES)


def settled(scene: Scene, holders: dict[Role, str] | None = None) -> Scene:
    """What the picture really shows: nothing left open, read from the left or from the top.

    Args:
        scene: colours and the relation may be None.
        holders: who holds each role; the present holders where it is not given.

    Returns:
        The scene with every colour named, a role's holder in its place, and two things in such an order that the
        relation is `left of` or `above`. It is drawn alike.

    Raises:
        OptionError: the table of holders lacks the role or names nobody of the world.
    """
    person = scene.person
    if isinstance(person, Role):
        return replace(scene, person=holder_of(person, holders))
    chance = Chance(scene.seed, "open")
    colours = [chance.pick(list(COLOURS)) for _ in range(2)]
    drawn = chance.pick(RELATIONS)
    things = tuple(
        thing if thing.colour else replace(thing, colour=colour)
        for thing, colour in zip(scene.things, colours, strict=False)
    )
    relation = None
    if len(things) == 2:
        if (things[0].object, things[0].colour) == (things[1].object, things[1].colour):
            things = (things[0], replace(things[1], colour=chance.pick([c for c in COLOURS if c != things[0].colour])))
        relation = scene.relation or drawn
        if relation in ("right of", "below"):
            things, relation = things[::-1], CONVERSE[relation]
    return replace(scene, things=things, relation=relation)


def _check(what: str, found: object, known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    if found not in names:
        raise OptionError(f"Tinyworld has no {what} {found!r}: it has {', '.join(map(str, names))}")
