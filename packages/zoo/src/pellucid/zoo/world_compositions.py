"""Tinyworld for composition: captioned pictures to learn from, pairs to tell apart, classes, and held-out prompts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pellucid.core.outfolder import write_file

from .world.captioning import caption
from .world.chance import Chance
from .world.sampling import combinations, held_out, sample
from .world.scene import Scene, Thing
from .world.vocabulary import COLOURS, OBJECTS

Draw = Callable[[Path, Scene], None]
"""Writes a scene's picture to a path."""


def write_compositions(out: Path, sizes: dict[str, int], seed: int, draw: Draw) -> None:
    """Write the data set.

    `train/` has pictures of one and of two things with `captions.jsonl`, none of a held-out combination; `classes/` a
    folder an object with single things; `cases.jsonl` records of two pictures and two captions with the same words, as
    Winoground's (colours swapped, then sides, in turn; tags `attribute` or `relation`, and `seen` or `held out`);
    `prompts.txt` prompts of two coloured things of which some combination is held out.

    Args:
        out: a folder.
        sizes: of `train` its pictures, of `validation` those in `classes`, of `test` records and prompts.
        seed: of the scenes.
        draw: what writes a picture.
    """
    lines = []
    for number, scene in enumerate(_small(sizes.get("train", 0), seed)):
        draw(out / f"train/{number:05d}.png", scene)
        lines.append({"image": f"{number:05d}.png", "caption": caption(scene)})
    if lines:
        write_file(out / "train/captions.jsonl", _json_lines(lines))
    chance = Chance(seed, "composition classes")
    for number in range(sizes.get("validation", 0)):
        name = OBJECTS[number % len(OBJECTS)]
        scene = Scene((Thing(name, chance.pick(list(COLOURS))),), seed=chance.below(1 << 48))
        draw(out / f"classes/{name}/{number:05d}.png", scene)
    records = [_record(number, Chance(seed, f"case {number}"), out, draw) for number in range(sizes.get("test", 0))]
    if records:
        write_file(out / "cases.jsonl", _json_lines(records))
        write_file(out / "prompts.txt", ("\n".join(_prompts(len(records), seed)) + "\n").encode())


def _small(count: int, seed: int) -> Iterator[Scene]:
    """Training scenes of one thing or two."""
    found = 0
    for scene in sample(20 * count, 4 * seed + 1, "train"):
        if found == count:
            return
        if len(scene.things) == 2 or (len(scene.things) == 1 and scene.things[0].count == 1):
            found += 1
            yield scene


def _record(number: int, chance: Chance, out: Path, draw: Draw) -> dict[str, Any]:
    one, two = _couple(chance)
    kind = ("attribute", "relation")[number % 2]
    swapped = (Thing(one.object, two.colour), Thing(two.object, one.colour))
    other = swapped if kind == "attribute" else (two, one)
    scenes = [Scene(things, relation="left of", seed=chance.below(1 << 48)) for things in ((one, two), other)]
    said = [caption(scene) for scene in scenes]
    if kind == "attribute":  # where the things stand tells nothing, and goes unsaid
        said = [caption(Scene(scene.things, seed=scene.seed)) for scene in scenes]
    names = [f"cases/{number:05d}-{place}.png" for place in range(2)]
    for name, scene in zip(names, scenes, strict=True):
        draw(out / name, scene)
    new = any(held_out(found) for scene in scenes for found in combinations(scene))
    return {"id": str(number), "images": names, "captions": said, "tags": [kind, "held out" if new else "seen"]}


def _couple(chance: Chance) -> tuple[Thing, Thing]:
    one, two = (Thing(chance.pick(OBJECTS), chance.pick(list(COLOURS))) for _ in range(2))
    while one.object == two.object or one.colour == two.colour:
        two = Thing(chance.pick(OBJECTS), chance.pick(list(COLOURS)))
    return one, two


def _prompts(count: int, seed: int) -> list[str]:
    chance, found = Chance(seed, "composition prompts"), dict[str, None]()
    while len(found) < count:
        scene = Scene(_couple(chance), seed=0)
        if any(held_out(one) for one in combinations(scene)):
            found[caption(scene)] = None
    return list(found)


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
