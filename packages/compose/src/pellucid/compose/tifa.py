"""TIFA: how many of the questions about a prompt's content a VQA model answers rightly from the picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError
from pellucid.core.scorers import Pictures, check_pictures
from pellucid.core.statistics import Estimate, bootstrap_mean

from .captioned import read_json, read_table
from .vqa_models import VqaModel


@dataclass(frozen=True)
class TifaQuestion:
    """A question about what a prompt says.

    Attributes:
        prompt: the text that the picture is made from.
        question: such as "what colour is the book?".
        choices: answers to choose from.
        answer: the right one of them.
        kind: the element's type, such as "color" or "object".
    """

    prompt: str
    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class TifaScores:
    """Scores of pictures.

    Attributes:
        scores: (n,) each picture's share of questions answered rightly.
        answers: for each picture the choice made for each question.
        kinds: type of element -> (answers,) 1 for a right one, over all pictures.
    """

    scores: NDArray[np.float64]
    answers: tuple[tuple[str, ...], ...]
    kinds: Mapping[str, NDArray[np.float64]]

    def mean(self, seed: int = 0, draws: int = 2000) -> Estimate:
        """The mean score with its bootstrap interval over pictures."""
        return bootstrap_mean(self.scores, seed, draws)


def read_tifa(path: str | Path) -> list[TifaQuestion]:
    """Read a question list: TIFA's `..._question_answers.json`, or a table with the same fields.

    Each record has `caption` (or `prompt`), `question`, `choices` (a list, or in a `.csv` a text with " | " between
    them), `answer` and perhaps `element_type`.

    Raises:
        DataError: there is no such file, a field is missing, or an answer is not among its choices.
    """
    place = Path(path)
    if place.suffix == ".json":
        content = read_json(place)
        if not isinstance(content, list):
            raise DataError(f"{path} is no list of questions: get the file again")
        rows: list[tuple[str, Mapping[str, Any]]] = [
            (f"{path}, record {number}", row) for number, row in enumerate(content, 1)
        ]
    else:
        rows = read_table(place)
    found = [_question(row, where) for where, row in rows]
    if not found:
        raise DataError(f"{path} holds no questions: give one a record")
    return found


def tifa_scores(
    pictures: Pictures, prompts: Sequence[str], questions: Sequence[TifaQuestion], model: VqaModel
) -> TifaScores:
    """Score pictures by the questions about their prompts.

    The model answers with the likeliest of the choices. (TIFA's authors let it answer freely and take the choice that
    is nearest in the embedding of a third model, where the answer is none of them.)

    Args:
        pictures: (n, h, w, 3) uint8.
        prompts: one a picture.
        questions: from `read_tifa`; those about other prompts are not asked.
        model: from `load_vqa`.

    Raises:
        DataError: pictures and prompts do not pair up, or a prompt has no question.
        ModelError: the model's probabilities are not finite.
    """
    check_pictures(pictures, prompts)
    about: dict[str, list[TifaQuestion]] = defaultdict(list)
    for question in questions:
        about[question.prompt].append(question)
    missing = next((prompt for prompt in prompts if prompt not in about), None)
    if missing is not None:
        raise DataError(f"there is no question about {missing!r}: give some, or leave the prompt out")
    asked = [about[prompt] for prompt in prompts]
    texts = [[question.question for question in one] for one in asked]
    offered = [[question.choices for question in one] for one in asked]
    likely = model.choice_scores(pictures, texts, offered)
    answers = [
        tuple(question.choices[int(scores.argmax())] for question, scores in zip(one, rows, strict=True))
        for one, rows in zip(asked, likely, strict=True)
    ]
    kinds: dict[str, list[float]] = defaultdict(list)
    right = []
    for one, said in zip(asked, answers, strict=True):
        marks = [float(question.answer == answer) for question, answer in zip(one, said, strict=True)]
        right.append(float(np.mean(marks)))
        for question, mark in zip(one, marks, strict=True):
            kinds[question.kind].append(mark)
    return TifaScores(np.array(right), tuple(answers), {kind: np.array(marks) for kind, marks in kinds.items()})


def _question(row: Any, where: str) -> TifaQuestion:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__} where an object is wanted: give one a question")
    prompt = row.get("caption", row.get("prompt"))
    choices = row.get("choices")
    if isinstance(choices, str):
        choices = [choice.strip() for choice in choices.split("|")]
    texts = {"caption": prompt, "question": row.get("question"), "answer": row.get("answer")}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: the field {name!r} is {text!r}: a text is wanted")
    if not isinstance(choices, list) or len(set(choices)) < 2 or texts["answer"] not in choices:
        raise DataError(
            f"{where}: choices are {choices!r}: give two or more, the answer {texts['answer']!r} among them"
        )
    return TifaQuestion(
        str(prompt),
        str(texts["question"]),
        tuple(map(str, dict.fromkeys(choices))),
        str(texts["answer"]),
        str(row.get("element_type", "")),
    )
