"""How good an edit is: efficacy and generalisation by P(O*), specificity by VQA accuracy (thesis 6.4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError

from .answering import BATCH, answer_probabilities, generate_answers
from .inputs import Answerer
from .multedit import wanted_answers
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion
from .vqa_accuracy import normalised, vqa_accuracy

Kind = Literal["edited", "paraphrase", "picture"]
KINDS: tuple[Kind, ...] = ("edited", "paraphrase", "picture")
"""The edited question itself (efficacy); in other words; about other pictures of the same (both: generalisation)."""


@dataclass(frozen=True)
class EditCase:
    """A fact to teach.

    Attributes:
        question: that is edited; its first answer is O*, its paraphrases measure generalisation.
        pictures: of the same entity, other than the question's, for which the edit should hold as well.
    """

    question: VisualQuestion
    pictures: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """O*; a DataError says if there is none."""
        return wanted_answers([self.question])[0]


@dataclass(frozen=True)
class Asked:
    """One question by which an edit is judged, and which case, by its number, it belongs to."""

    case: int
    kind: Kind
    question: VisualQuestion


@dataclass(frozen=True)
class EditScores:
    """What a model makes of all questions of some cases, one entry a question.

    Attributes:
        case: number of the question's case.
        kind: one of `KINDS`.
        probability: P(O*).
        exact: whether the model's own answer is O*, both `normalised`.
    """

    case: tuple[int, ...]
    kind: tuple[str, ...]
    probability: tuple[float, ...]
    exact: tuple[bool, ...]

    def by_case(self, kind: Kind, *, exact: bool = False) -> NDArray[np.float64]:
        """Means over each case's questions of a kind, `(cases that have any,)`, in the order of the cases."""
        held: dict[int, list[float]] = {}
        for case, its, chance, right in zip(self.case, self.kind, self.probability, self.exact, strict=True):
            if its == kind:
                held.setdefault(case, []).append(float(right) if exact else chance)
        return np.array([np.mean(held[case]) for case in sorted(held)])


def edit_cases(questions: Sequence[VisualQuestion], pictures: int = 4) -> list[EditCase]:
    """One case a fact: questions that differ only in their picture become one, with the others' pictures beside it.

    Args:
        questions: those without an entity are facts of their own.
        pictures: most of them beside the edited one.
    """
    facts: dict[tuple[str, ...], list[VisualQuestion]] = {}
    for number, question in enumerate(questions):
        key = (question.entity, question.question, *question.answers) if question.entity else (str(number),)
        facts.setdefault(key, []).append(question)
    found = []
    for first, *rest in facts.values():
        others = dict.fromkeys(question.image for question in rest if question.image != first.image)
        found.append(EditCase(first, tuple(others)[:pictures]))
    return found


def questions_of(cases: Sequence[EditCase]) -> list[Asked]:
    """All questions by which some cases are judged, case by case.

    Raises:
        DataError: a case's question has no answer.
    """
    found = []
    for number, case in enumerate(cases):
        question = replace(case.question, answers=(case.answer,), paraphrases=())
        found.append(Asked(number, "edited", question))
        # Constraints need not be in a paraphrase, and judging asks for none.
        found += [
            Asked(number, "paraphrase", replace(question, question=text, visual="", textual=()))
            for text in case.question.paraphrases
        ]
        found += [Asked(number, "picture", replace(question, image=picture)) for picture in case.pictures]
    return found


def edit_scores(
    loaded: Answerer, cases: Sequence[EditCase], *, style: Style = DEFAULT_STYLE, batch: int = BATCH
) -> EditScores:
    """Ask a model, edited or not, all questions of some cases: for efficacy and generalisation.

    Raises:
        DataError: there is no case, or as `prepare`.
    """
    asked = questions_of(cases)
    if not asked:
        raise DataError("there is no case to judge an edit by: give at least one")
    questions = [one.question for one in asked]
    wanted = [one.question.answers[0] for one in asked]
    chances = answer_probabilities(loaded, questions, wanted, style=style, batch=batch).tolist()
    said = generate_answers(loaded, questions, style=style, batch=batch)
    return EditScores(
        case=tuple(one.case for one in asked),
        kind=tuple(one.kind for one in asked),
        probability=tuple(chances),
        exact=tuple(normalised(one.text) == normalised(goal) for one, goal in zip(said, wanted, strict=True)),
    )


def accuracies(
    loaded: Answerer, questions: Sequence[VisualQuestion], *, style: Style = DEFAULT_STYLE, batch: int = BATCH
) -> NDArray[np.float64]:
    """VQA accuracy of a model's own answers, `(questions,)` in [0, 1]; of unrelated questions it is the specificity.

    Raises:
        DataError: a question has no answers, or as `prepare`.
    """
    wanted_answers(questions)
    said = generate_answers(loaded, questions, style=style, batch=batch)
    return np.array([vqa_accuracy(one.text, asked.answers) for one, asked in zip(said, questions, strict=True)])


def wrongly_answered(
    loaded: Answerer, questions: Sequence[VisualQuestion], *, style: Style = DEFAULT_STYLE, batch: int = BATCH
) -> list[VisualQuestion]:
    """The questions whose answers have a VQA accuracy of 0: errors to correct (thesis 6.4.2).

    Raises:
        DataError: as `accuracies`.
    """
    right = accuracies(loaded, questions, style=style, batch=batch)
    return [question for question, share in zip(questions, right, strict=True) if share == 0]
