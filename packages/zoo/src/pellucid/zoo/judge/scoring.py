"""The judge as a scorer: `--scorer tinyworld` or `tinyworld:style` wherever Pellucid scores pictures by captions."""

from collections.abc import Callable, Sequence

import numpy as np
from pellucid.core.errors import OptionError

from ..world.captioning import parse
from .agreeing import agreement
from .reading import load_judge

ATTRIBUTES = ("object", "colour", "texture", "view", "count", "relation", "place", "style", "person")
Scorer = Callable[[np.ndarray, Sequence[str]], np.ndarray]


def tinyworld_scorer(attribute: str = "") -> Scorer:
    """A scorer for `pellucid.scorers`.

    Args:
        attribute: one of `ATTRIBUTES`, or nothing for all that a caption asks for.

    Returns:
        From pictures (n, h, w, 3) uint8 and n captions of Tinyworld to the share, from 0 to 1, of what each caption
        asks for that is in its picture; with an attribute, 1 where that is there and 0 where it is not. A caption
        of two things counts an attribute as there if both have it. A plain ground and a plain drawing are no wish.

    Raises:
        OptionError: there is no such attribute, or a caption does not ask for it.
        DataError: a caption is not Tinyworld's.
    """
    if attribute and attribute not in ATTRIBUTES:
        raise OptionError(f"the judge scores no {attribute!r}: choose among {', '.join(ATTRIBUTES)}, or leave it out")
    judge = load_judge()

    def score(pictures: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        scenes = {text: parse(text) for text in dict.fromkeys(captions)}
        found = []
        for reading, text in zip(judge.read(pictures), captions, strict=True):
            scene = scenes[text]
            held = agreement(reading, scene)
            unsaid = {name for name, said in (("place", scene.place), ("style", scene.style)) if said is None}
            asked = [yes for name, yes in held.items() if name not in unsaid and attribute in ("", name.rstrip("2"))]
            if not asked:
                raise OptionError(f"{text!r} asks for no {attribute}: score it by something that it asks for")
            found.append(float(all(asked)) if attribute else float(np.mean(asked)))
        return np.array(found, float)

    return score
