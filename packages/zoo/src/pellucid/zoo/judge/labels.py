"""What the judge's heads tell, and a scene's true labels for each of them."""

import numpy as np

from ..world.people import PEOPLE_NAMES
from ..world.scene import Scene, settled
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES, VIEWS

NONE = "none"
UNASKED = -100  # a label that its picture does not have: a person's texture

# The first thing is the left or the upper one. The relation is the first thing's, seen from the second.
HEADS: dict[str, tuple[str, ...]] = {
    "object": (NONE, *OBJECTS),
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "view": VIEWS,
    "object2": (NONE, *OBJECTS),
    "colour2": tuple(COLOURS),
    "texture2": TEXTURES,
    "view2": VIEWS,
    "count": ("1", "2", "3"),
    "relation": (NONE, "left of", "above"),
    "style": (NONE, *STYLES),
    "place": (NONE, *PLACES),
    "person": (NONE, *PEOPLE_NAMES),
    "known": ("no", "yes"),
}
_INDEX = {head: {name: place for place, name in enumerate(names)} for head, names in HEADS.items()}


def truth(scene: Scene) -> dict[str, str]:
    """What is to be read in a scene's picture; heads that it has no answer to are left out."""
    scene = settled(scene)
    found = {
        "style": scene.style or NONE,
        "place": scene.place or NONE,
        "relation": scene.relation or NONE,
        "person": scene.person if isinstance(scene.person, str) else NONE,
        "object": NONE,
        "object2": NONE,
        "known": "yes",
    }
    for thing, number in zip(scene.things, ("", "2"), strict=False):
        assert thing.colour is not None
        found |= {f"object{number}": thing.object, f"colour{number}": thing.colour}
        found |= {f"texture{number}": thing.texture, f"view{number}": thing.view}
    if len(scene.things) == 1:
        found["count"] = str(scene.things[0].count)
    return found


def labels(scene: Scene | None) -> np.ndarray:
    """A scene's label for each head, in their order: (14,) int64, `UNASKED` where there is none.

    Args:
        scene: what the picture shows; None for a picture that is not of the world.
    """
    asked = {"known": "no"} if scene is None else truth(scene)
    return np.array([_INDEX[head][asked[head]] if head in asked else UNASKED for head in HEADS], np.int64)
