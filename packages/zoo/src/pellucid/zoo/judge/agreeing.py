"""How far a picture, as the judge reads it, keeps to what a caption asks for."""

from ..world.people import Role, holder_of
from ..world.scene import Scene, Thing
from ..world.vocabulary import CONVERSE
from .reading import Reading, ThingReading


def agreement(reading: Reading, scene: Scene, holders: dict[Role, str] | None = None) -> dict[str, bool]:
    """Which of the attributes that a scene asks for are in the picture.

    Args:
        reading: of the picture.
        scene: what was asked for; what it leaves open (a colour, a relation) is not judged.
        holders: who holds each role; the present holders where it is not given.

    Returns:
        For each attribute asked whether it is there: `person`, or `object`, `colour`, `texture`, `view` and `count`
        (those of a second thing end in 2, without a count), `relation`, `place` and `style` (a plain ground and a
        plain drawing are asked for too). Two things may stand either way round where no relation is asked. A
        picture that is none of the world agrees in nothing.
    """
    found = {"place": reading.place == scene.place, "style": reading.style == scene.style}
    person = scene.person
    if isinstance(person, Role):
        person = holder_of(person, holders)
    if person is not None:
        found["person"] = reading.person == person
    elif len(scene.things) == 1:
        found |= _one(reading.things[0] if reading.things else None, scene.things[0], "")
        found["count"] = reading.count == scene.things[0].count
    else:
        seen = (*reading.things, None, None)[:2]
        ways = [(seen, reading.relation), (seen[::-1], CONVERSE.get(reading.relation or ""))]
        judged: list[dict[str, bool]] = []
        for (one, two), relation in ways:
            way: dict[str, bool] = _one(one, scene.things[0], "") | _one(two, scene.things[1], "2")
            if scene.relation is not None:
                way["relation"] = relation == scene.relation
            judged.append(way)
        best = max(sum(way.values()) for way in judged)
        found |= next(way for way in judged if sum(way.values()) == best)
    return {name: held and reading.known for name, held in found.items()}


def _one(seen: ThingReading | None, asked: Thing, number: str) -> dict[str, bool]:
    parts = ("object", "texture", "view") if asked.colour is None else ("object", "colour", "texture", "view")
    return {f"{part}{number}": seen is not None and getattr(seen, part) == getattr(asked, part) for part in parts}
