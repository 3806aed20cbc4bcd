"""What the multimodal model is trained on: pictures with several questions each, and questions without a picture.

The questions of one picture share it: they stand one after the other behind it, each with the positions that it would
have alone, and a mask lets none see another. So a picture is read once for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from pellucid.core.progress import progress
from torch import Tensor

from ..world.chance import Chance
from ..world.individuals import Individual, individuals
from ..world.knowledge import Knowledge, knowledge
from ..world.questions import Question, fact_questions, naming_questions, seen_questions
from ..world.renderer import render_all
from ..world.scene import Scene, Thing
from ..world.vocabulary import COLOURS, OBJECTS, PLACES, TEXTURES, VIEWS
from .llava_words import END, IMAGE, build_llava_tokenizer

PICTURES = 120  # of each individual in the training; held-out ones have seeds from there on
PATCHES = 64
_QUESTIONS = 8  # of each picture


@dataclass(frozen=True)
class Album:
    """Training pictures, and whom they show.

    Attributes:
        pictures: (n, 32, 32, 3) uint8.
        scenes: what each shows.
        shown: the individual of each; None for a thing without a name.
        seed: of the scenes.
    """

    pictures: np.ndarray
    scenes: tuple[Scene, ...]
    shown: tuple[Individual | None, ...]
    seed: int


@dataclass(frozen=True)
class Packed:
    """Questions behind their prefixes, several a row.

    Attributes:
        tokens: (rows, length) int64; places of image tokens hold the image token.
        places: (rows, length) int64, each token's position as if its question stood alone.
        mask: (rows, 1, length, length) bool, whom each token sees.
        answers: (rows, length) bool, the tokens that the model has to say.
    """

    tokens: Tensor
    places: Tensor
    mask: Tensor
    answers: Tensor


def album(each: int = PICTURES, seed: int = 0, share: float = 0.2) -> Album:
    """Draw the training pictures: so many of each individual, and that share of them of things without a name."""
    named = [(one.scene(number), one) for one in individuals() for number in range(each)]
    chance = Chance(seed, "things")
    plain = [(thing_scene(chance), None) for _ in range(round(len(named) * share))]
    scenes, shown = zip(*named, *plain, strict=True)
    with progress("Rendering", len(scenes)) as advance:
        return Album(render_all(scenes, 32, advance), scenes, shown, seed)


def thing_scene(chance: Chance) -> Scene:
    """One coloured thing, mostly seen from the front, in one of two a place."""
    thing = Thing(
        chance.pick(OBJECTS),
        chance.pick(list(COLOURS)),
        chance.pick(TEXTURES),
        chance.pick(VIEWS) if chance.one_in(4) else "front",
    )
    return Scene((thing,), place=chance.pick(PLACES) if chance.one_in(2) else None, seed=chance.below(1 << 48))


def about_picture(scene: Scene, one: Individual | None, chance: Chance) -> list[Question]:
    """Questions for a training picture: facts and the name of whom it shows, what it shows, and a fact of another."""
    seen = seen_questions(scene)
    if one is None:
        return [*_picked(seen, 6, chance), *_picked(_by_name(), 2, chance)]
    facts = [question for fact in taught(one) for question in fact_questions(fact)]
    known = _picked(facts, 4, chance) if facts else []
    rest = _QUESTIONS - 3 - len(known)
    return [
        *known,
        *_picked(naming_questions(one), rest, chance),
        *_picked(seen, 2, chance),
        *_picked(_by_name(), 1, chance),
    ]


def without_picture(chance: Chance) -> list[Question]:
    """Questions by name."""
    return _picked(_by_name(), _QUESTIONS, chance)


def taught(one: Individual) -> tuple[Knowledge, ...]:
    """The facts of an individual that the training shows."""
    return _taught()[one.name]


def pack(rows: Sequence[Sequence[Question]], image: bool) -> Packed:
    """Lay questions out behind their prefix.

    Args:
        rows: the questions of each row.
        image: whether a row begins with a picture.
    """
    start = _ids("<s>USER: " + IMAGE * PATCHES + "\n" if image else "<s>USER:")
    laid: list[tuple[list[Any], ...]] = []
    for questions in rows:
        parts = [_segment(("" if image else " ") + question.text, question.answer) for question in questions]
        laid.append(
            (
                [*start, *(token for part, _ in parts for token in part)],
                [0] * len(start) + [number for number, (part, _) in enumerate(parts, 1) for _ in part],
                [*range(len(start)), *(len(start) + place for part, _ in parts for place in range(len(part)))],
                [False] * len(start) + [place >= asked for part, asked in parts for place in range(len(part))],
            )
        )
    length = max(len(row[0]) for row in laid)
    tokens, owners, places, said = (
        torch.tensor([[*row[column], *[fill] * (length - len(row[column]))] for row in laid])
        for column, fill in enumerate((0, -1, 0, False))
    )
    shared = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    return Packed(tokens, places, (shared & earlier)[:, None], said)


@cache
def _ids(text: str) -> tuple[int, ...]:
    return tuple(build_tokenizer_once()(text, add_special_tokens=False).input_ids)


@cache
def _segment(asked: str, answer: str) -> tuple[tuple[int, ...], int]:
    """A question with its answer as tokens, and where the answer begins."""
    question = _ids(f"{asked} ASSISTANT:")
    return (*question, *_ids(f" {answer}{END}")), len(question)


build_tokenizer_once = cache(build_llava_tokenizer)


@cache
def _taught() -> dict[str, tuple[Knowledge, ...]]:
    found: dict[str, tuple[Knowledge, ...]] = {one.name: () for one in individuals()}
    for fact in knowledge():
        if not fact.withheld:
            found[fact.individual.name] += (fact,)
    return found


@cache
def _by_name() -> tuple[Question, ...]:
    return tuple(q for fact in knowledge() if not fact.withheld for q in fact_questions(fact, name=True))


def _picked(questions: Sequence[Question], count: int, chance: Chance) -> list[Question]:
    return [chance.pick(questions) for _ in range(count)]
