"""How often the judge is right, on pictures that it was not trained on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pellucid.core.progress import progress

from ..world.chance import Chance
from ..world.renderer import render_all
from ..world.sampling import sample
from ..world.scene import Scene
from .labels import HEADS, UNASKED, labels
from .outliers import HELD_OUT, TRAINED, outlier
from .reading import Judge


def accuracies(judge: Judge, scenes: Sequence[Scene], pictures: np.ndarray) -> dict[str, dict[str, float]]:
    """Each head's share of right answers among the pictures that have one.

    Args:
        judge: to be measured.
        scenes: what the pictures show.
        pictures: (n, h, w, 3) uint8.

    Returns:
        For each head `accuracy` (0 to 1) and `n`. A `known` of 0.998 means that 2 of 1000 pictures of the world are
        taken for something else.
    """
    truth, (answers, _) = np.stack([labels(scene) for scene in scenes]), judge.answers(pictures)
    found = {}
    for place, head in enumerate(HEADS):
        asked = truth[:, place] != UNASKED
        right = answers[asked, place] == truth[asked, place]
        if asked.any():
            found[head] = {"accuracy": float(right.mean()), "n": int(asked.sum())}
    return found


def measure(judge: Judge, count: int = 4000, seed: int = 3_000_017) -> dict[str, Any]:
    """Measure the judge on fresh renders and on pictures of other worlds.

    Args:
        judge: to be measured.
        count: of renders of each sort; for each kind of outlier a tenth.
        seed: of the scenes; training seeds lie elsewhere.

    Returns:
        `clean`, `occluded` (things only) and `blurred`, each as `accuracies` gives it, and `two_things`: the clean ones
        with two things alone, for elsewhere `none` is most often the answer of `object2` and `relation`; `rejected`:
        for each kind of outlier the share read as none of the world; `rejected_trained` and `rejected_held_out`: their
        means.
    """
    scenes = list(sample(count, seed))
    things = [scene for scene in scenes if scene.things]
    sorts = {
        "clean": scenes,
        "occluded": [
            replace(scene, things=tuple(replace(thing, occluded=True) for thing in scene.things)) for scene in things
        ],
        "blurred": [replace(scene, blur=True) for scene in scenes],
    }
    found: dict[str, Any] = {"count": count, "seed": seed}
    with progress("Measuring the judge", sum(map(len, sorts.values()))) as advance:
        for sort, shown in sorts.items():
            pictures = render_all(shown, 32, advance)
            found[sort] = accuracies(judge, shown, pictures)
            if sort == "clean":
                pairs = [place for place, scene in enumerate(shown) if len(scene.things) == 2]
                found["two_things"] = accuracies(judge, [shown[place] for place in pairs], pictures[pairs])
    known = list(HEADS).index("known")
    rejected = {}
    for kind in (*TRAINED, *HELD_OUT):
        chance = Chance(seed, f"outlier {kind}")
        pictures = np.stack([outlier(kind, chance) for _ in range(max(count // 10, 1))])
        rejected[kind] = float((judge.answers(pictures)[0][:, known] == 0).mean())
    found["rejected"] = rejected
    found["rejected_trained"] = float(np.mean([rejected[kind] for kind in TRAINED]))
    found["rejected_held_out"] = float(np.mean([rejected[kind] for kind in HELD_OUT]))
    return found
