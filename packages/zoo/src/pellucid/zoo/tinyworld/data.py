"""What the models are trained on: renders of training scenes, with several captions each."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.progress import progress

from ..world.captioning import captions
from ..world.chance import Chance
from ..world.people import HOLDERS, PEOPLE_NAMES
from ..world.renderer import render
from ..world.sampling import split_of
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, RELATIONS, STYLES, TEXTURES, VIEWS
from .tokenizer import LENGTH, build_tokenizer

COUNT = 60_000
PARAPHRASES = 4
SIDE = 32
_LOOKED_AT = 16


@dataclass(frozen=True)
class Pool:
    """Pictures with captions.

    Attributes:
        scenes: what the pictures show.
        pictures: (n, 32, 32, 3) uint8, mapped from a file.
        tokens: (n, 4, 44) int16: four captions a picture, padded; the first is the plainest.
        seed: of the scenes.
    """

    scenes: tuple[Scene, ...]
    pictures: np.ndarray
    tokens: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.scenes)


def pool(folder: Path, count: int = COUNT, seed: int = 0) -> Pool:
    """Draw the training scenes, and render them where the folder does not hold them already.

    Rendering takes about two minutes for 60,000 pictures.

    Args:
        folder: for one file, `renders-….npy`, named after the scenes in it.
        count: of pictures.
        seed: fixes scenes and captions; a smaller pool is the beginning of a larger one.

    Raises:
        OptionError: fewer than one picture.
        DataError: the file is there, but does not hold these pictures.
    """
    if count < 1:
        raise OptionError(f"count={count}: give 1 or more")
    scenes = training_scenes(count, seed)
    return Pool(scenes, _rendered(folder, scenes), _tokens(scenes, seed), seed)


def training_scenes(count: int, seed: int) -> tuple[Scene, ...]:
    """Scenes of the split `train`, weighted towards what text-to-image has to learn.

    Of 20 scenes about 10 show one thing, 2 several alike, 4 two things, 2 a person and 2 a role's holder. Half have a
    place, half a style; a texture or a side is asked for now and then.
    """
    chance = Chance(seed, "tinyworld")
    found: list[Scene] = []
    while len(found) < count:
        scene = _drawn(chance)
        if split_of(scene) == "train":
            found.append(scene)
    return tuple(found)


def _drawn(chance: Chance) -> Scene:
    kind, seed = chance.below(20), chance.below(1 << 48)
    place = chance.pick(PLACES) if chance.one_in(2) else None
    style = chance.pick(STYLES) if chance.one_in(2) else None
    if kind < 2:
        return Scene(person=chance.pick(PEOPLE_NAMES), place=place, style=style, seed=seed)
    if kind < 4:
        return Scene(person=chance.pick(list(HOLDERS)), place=place, style=style, seed=seed)
    if kind < 8:
        one, two = _thing(chance), _thing(chance)
        while (one.object, one.colour) == (two.object, two.colour):
            two = _thing(chance)
        relation = chance.pick(RELATIONS) if chance.one_in(2) else None
        return Scene((one, two), None, relation, place, style, seed=seed)
    return Scene((_thing(chance, chance.between(2, 3) if kind < 10 else 1),), place=place, style=style, seed=seed)


def _thing(chance: Chance, count: int = 1) -> Thing:
    return Thing(
        chance.pick(OBJECTS),
        None if chance.below(6) == 0 else chance.pick(list(COLOURS)),
        chance.pick(TEXTURES) if chance.one_in(5) else "plain",
        chance.pick(VIEWS) if chance.one_in(8) else "front",
        count,
    )


def _rendered(folder: Path, scenes: tuple[Scene, ...]) -> np.ndarray:
    """The pictures' file, mapped; made where it is not there, and compared in a few places where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr(scenes).encode()).hexdigest()[:16]
    path, shape = folder / f"renders-{len(scenes)}-{digest}.npy", (len(scenes), SIDE, SIDE, 3)
    if not path.exists():
        scratch = path.with_suffix(".new")
        fresh = np.lib.format.open_memmap(scratch, "w+", np.uint8, shape)
        with progress("Rendering", len(scenes)) as advance:
            for place, scene in enumerate(scenes):
                fresh[place] = render(scene, SIDE)
                advance(1)
        fresh.flush()
        del fresh
        os.replace(scratch, path)
    try:
        pictures = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it, it is rendered again") from error
    steps = max(len(scenes) // _LOOKED_AT, 1)
    if (pictures.shape, pictures.dtype) != (shape, np.uint8) or any(
        (pictures[place] != render(scenes[place], SIDE)).any() for place in range(0, len(scenes), steps)
    ):
        raise DataError(f"{path} holds other pictures than today's renderer draws: remove it, it is rendered again")
    return pictures


def _tokens(scenes: tuple[Scene, ...], seed: int) -> np.ndarray:
    """The plainest caption of each scene, and paraphrases drawn by chance: (n, 4, 44) int16."""
    chance, texts = Chance(seed, "paraphrases"), []
    for scene in scenes:
        said = captions(scene)
        texts += [said[0], *(chance.pick(said) for _ in range(PARAPHRASES - 1))]
    return tokenised(texts).reshape(len(scenes), PARAPHRASES, LENGTH)


def tokenised(texts: list[str]) -> np.ndarray:
    """Texts as token ids, padded to the full length and cut there: (n, 44) int16."""
    found = build_tokenizer()(texts, padding="max_length", truncation=True, return_attention_mask=False)
    return np.array(found.input_ids, np.int16)
