"""Answers to the questions of VQA-Constraints, read from the data sets that these questions were made from.

The published tables of constraints hold none: OK-VQA's ten answers a question lie in its own files, and those of
Multimodal Known in the list of facts that its questions rephrase.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError

Answers = Mapping[str, Sequence[tuple[str, tuple[str, ...]]]]
"""Of each picture (the number of a COCO file) or subject: its questions, or their ends, with their answers."""


def read_okvqa_answers(annotations: str | Path, questions: str | Path) -> Answers:
    """Read OK-VQA's answers, ten a question, from its two published files (VQA's format).

    Args:
        annotations: such as `mscoco_val2014_annotations.json`.
        questions: such as `OpenEnded_mscoco_val2014_questions.json`, which say what was asked.

    Raises:
        DataError: a file cannot be read or is not of that format, or an annotation belongs to no question.
    """
    asked: dict[Any, str] = {}
    for place, entry in enumerate(_list(questions, "questions")):
        asked[_field(entry, "question_id", questions, place)] = str(_field(entry, "question", questions, place))
    answers: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for place, entry in enumerate(_list(annotations, "annotations")):
        number = _field(entry, "question_id", annotations, place)
        if number not in asked:
            raise DataError(f"{annotations}: entry {place} is of question {number}, which {questions} does not hold")
        image = str(_field(entry, "image_id", annotations, place))
        given = [_field(one, "answer", annotations, place) for one in _field(entry, "answers", annotations, place)]
        answers.setdefault(image, []).append((asked[number], tuple(map(str, given))))
    return answers


def read_known_answers(path: str | Path) -> Answers:
    """Read the answers of Multimodal Known from the file of facts that it was made from (`known_1000.json`).

    Args:
        path: a JSON list of objects with `subject`, `attribute` (the answer) and `template` (a text with `{}`).

    Raises:
        DataError: the file cannot be read or is not of that format.
    """
    answers: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for place, entry in enumerate(_list(path, None)):
        tail = str(_field(entry, "template", path, place)).rpartition("{}")[2].strip()
        answer = str(_field(entry, "attribute", path, place)).strip()
        answers.setdefault(str(_field(entry, "subject", path, place)), []).append((tail, (answer,)))
    return answers


def answers_to(answers: Answers, question: str, about: str) -> tuple[str, ...]:
    """The answers to a question about a picture or subject.

    Of several entries that which asks the same counts, then those whose words the question ends with, then all.

    Raises:
        DataError: there is none, or those that count differ.
    """
    offered = answers.get(about, ())
    words = plain(question)
    exact = [given for asked, given in offered if plain(asked) == words]
    ending = [given for asked, given in offered if plain(asked) and words.endswith(plain(asked))]
    different = sorted(set(exact or ending or [given for _, given in offered]))
    if not different:
        raise DataError(f"no answer is given for {about!r}: add it to the answers, or leave the line out")
    if len(different) > 1:
        raise DataError(f"{len(different)} answers are given for {about!r} and none for {question!r}: leave one")
    return different[0]


def plain(text: str) -> str:
    """Lower case, single spaces, no punctuation."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def _list(path: str | Path, key: str | None) -> list[Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON in UTF-8 ({error}): give the file as it was published") from error
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list):
        raise DataError(f"{path} holds no list{f' called {key!r}' if key else ''}: give the file as it was published")
    return content


def _field(entry: Any, name: str, path: str | Path, place: int) -> Any:
    if not isinstance(entry, dict) or name not in entry:
        raise DataError(f"{path}: entry {place} has no {name!r}: give the file as it was published")
    return entry[name]
