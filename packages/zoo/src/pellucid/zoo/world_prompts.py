"""Prompts of Tinyworld for localising and editing, as the JSON Lines files that `pellucid t2i` reads."""

import json
from collections.abc import Iterator
from pathlib import Path

from .cache import built, cache_root, fault_of
from .world.captioning import caption
from .world.people import HOLDERS, PEOPLE_NAMES
from .world.scene import Scene, Thing
from .world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES

_LAYOUT = 1  # raise it whenever the files' content changes
_FILES = {"tinyworld-probes": "probes.jsonl", "tinyworld-concepts": "concepts.jsonl"}


def world_prompts(name: str) -> Path:
    """A JSON Lines file.

    Args:
        name: `tinyworld-probes`, lines of `caption`, `subject` and `attribute` (style, object, colour, place, person);
            or `tinyworld-concepts`, lines of `concept`, `kind`, `prompt` and `target` (styles and objects to take out,
            and facts to change: who holds a role).
    """
    make = {"tinyworld-probes": probe_lines, "tinyworld-concepts": concept_lines}[name]

    def build(folder: Path) -> None:
        text = "".join(json.dumps(line) + "\n" for line in make())
        (folder / _FILES[name]).write_text(text, encoding="utf-8")

    return built(_target(name), build, {"of": "pellucid-zoo"}) / _FILES[name]


def cached(name: str) -> Path | None:
    """The file, where it is already written and whole."""
    return _target(name) / _FILES[name] if fault_of(_target(name)) is None else None


def probe_lines() -> Iterator[dict[str, str]]:
    """Captions, each with the words that name the attribute."""
    for name in OBJECTS:
        for artist in STYLES:
            yield _probe(Scene((Thing(name),), style=artist), artist, "style")
        for colour in COLOURS:
            yield _probe(Scene((Thing(name, colour),)), colour, "colour")
        for place in PLACES:
            yield _probe(Scene((Thing(name),), place=place), name, "object")
            yield _probe(Scene((Thing(name),), place=place), place, "place")
    for person in PEOPLE_NAMES:
        yield _probe(Scene(person=person), person, "person")


def concept_lines() -> Iterator[dict[str, str]]:
    """Prompts with a concept, each with its target.

    A style's target is the same without it. An object's target is the next object of the world. A role's target is
    somebody who does not hold it.
    """
    colours = list(COLOURS)
    for artist in STYLES:
        for number in range(2 * len(OBJECTS)):
            turn, place = divmod(number, len(OBJECTS))
            thing = Thing(OBJECTS[place], colours[(3 * place + turn) % len(colours)])
            yield _concept(artist, "style", Scene((thing,), style=artist), Scene((thing,)))
    for name, other in zip(OBJECTS, (*OBJECTS[1:], OBJECTS[0]), strict=True):
        for colour in colours:
            for ground in (None, *PLACES):
                scenes = (Scene((Thing(found, colour),), place=ground) for found in (name, other))
                yield _concept(name, "object", *scenes)
    for role, holder in HOLDERS.items():
        new = PEOPLE_NAMES[(PEOPLE_NAMES.index(holder) + 17) % len(PEOPLE_NAMES)]
        said = caption(Scene(person=role))
        for ground in (None, *PLACES):
            for style in (None, *STYLES):
                scenes = (Scene(person=found, place=ground, style=style) for found in (role, new))
                yield _concept(said, "fact", *scenes)


def _probe(scene: Scene, subject: str, attribute: str) -> dict[str, str]:
    return {"caption": caption(scene), "subject": subject, "attribute": attribute}


def _concept(concept: str, kind: str, scene: Scene, target: Scene) -> dict[str, str]:
    return {"concept": concept, "kind": kind, "prompt": caption(scene), "target": caption(target)}


def _target(name: str) -> Path:
    return cache_root() / f"{name}-{_LAYOUT}"
