"""The same facts asked of the language model alone, the entity in words: where are they retrieved then (6.3.1)?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean

from .questions import VisualQuestion

WINDOW = 5
"""Layers restored together: the thesis finds no causal layers in the language model with less."""


def in_words(question: VisualQuestion) -> VisualQuestion:
    """The question with what its picture shows in words, and no picture: "Which pet does the baron keep?".

    It can be asked of the whole model, whose language model then answers alone, and of a language model by itself.

    Raises:
        DataError: the question does not say what its picture shows, or has no visual constraint.
    """
    if not question.entity or not question.visual or question.visual not in question.question:
        lack = "entity" if question.visual else "visual constraint"
        raise DataError(f"the question {question.question!r} names no {lack}, so it cannot be asked in words: give one")
    text = question.question.replace(question.visual, question.entity, 1)
    if question.question.startswith(question.visual):
        text = text[0].upper() + text[1:]
        return replace(question, image="", question=text, visual=text[: len(question.entity)], paraphrases=())
    return replace(question, image="", question=text, visual=question.entity, paraphrases=())


@dataclass(frozen=True)
class Depths:
    """At which layer both ways of asking retrieve a fact, counted from 0, as means over questions.

    Attributes:
        pictures: asked with the picture.
        words: asked with the entity in words.
        later: words minus pictures, over the questions asked both ways.
    """

    pictures: Estimate
    words: Estimate
    later: Estimate


def depths(pictures: ArrayLike, words: ArrayLike, seed: int = 0) -> Depths:
    """Compare where the constraint's effects are largest.

    Args:
        pictures: indirect estimation effects of restoring the constraint's tokens, `(questions, layers)`.
        words: the same of the same questions in words.
        seed: of the intervals.

    Raises:
        DataError: the tables do not pair up.
    """
    first, second = np.asarray(pictures, dtype=np.float64), np.asarray(words, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or not first.size:
        raise DataError(
            f"effects have shapes {first.shape} with pictures and {second.shape} in words: give (questions, layers)"
        )
    one, other = first.argmax(1), second.argmax(1)
    return Depths(
        pictures=bootstrap_mean(one, seed),
        words=bootstrap_mean(other, seed),
        later=bootstrap_difference(other, one, seed, paired=True),
    )


def asked_both_ways(questions: Sequence[VisualQuestion]) -> list[tuple[VisualQuestion, VisualQuestion]]:
    """Those questions that can be asked in words, each with itself in words."""
    return [(question, in_words(question)) for question in questions if question.entity and question.visual]
