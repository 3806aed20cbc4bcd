"""What Tinyworld's annotations mean in words, for models that read texts: captions of every value."""

from .world.captioning import caption
from .world.groups import LABELS, USUAL
from .world.scene import Scene, Thing
from .world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES

FEATURES = ("groups", "views")


def features(dataset: str) -> dict[str, dict[str, list[str]]]:
    """For each annotation of a data set its values, and for each value captions of things that have it.

    What a caption leaves unsaid (a plain texture, no place) is not among the values.

    Args:
        dataset: `views` or `groups`.
    """
    if dataset == "groups":
        return {
            "object": {name: _said(Thing(name)) for name in LABELS},
            "place": {place: _said(*map(Thing, LABELS), place=place) for place in USUAL.values()},
        }
    things = [Thing(name) for name in OBJECTS]
    return {
        "object": {name: _said(Thing(name), *(Thing(name, colour) for colour in COLOURS)) for name in OBJECTS},
        "colour": {colour: _said(*(Thing(name, colour) for name in OBJECTS)) for colour in COLOURS},
        "texture": {texture: _said(*(Thing(name, texture=texture) for name in OBJECTS)) for texture in TEXTURES[1:]},
        "place": {place: _said(*things, place=place) for place in PLACES},
        "style": {style: _said(*things, style=style) for style in STYLES},
    }


def _said(*things: Thing, place: str | None = None, style: str | None = None) -> list[str]:
    return [caption(Scene((thing,), place=place, style=style)) for thing in things]
