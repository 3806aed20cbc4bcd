"""VQA-Constraints (thesis 6.2.4, 11.5.1): the published tables of questions and constraints beside a user's pictures.

The tables hold a question, its visual constraint and where the picture is to lie; not the pictures, nor the answers
(see `published_answers`). Some rows cannot be used as they are, such as those with a constraint that does not stand in
its question: these are named, and left out.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.core.errors import DataError

from .published_answers import Answers, answers_to, plain
from .questions import VisualQuestion

PARTS = ("okvqa", "known", "movies")
"""OK-VQA, Multimodal Known and Multimodal Movies."""

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_ENTITIES = ("subject", "director")
_COLUMNS = ("question", "main_entity", "image_url")
# What a constraint cannot be made of alone: such a row points at nothing.
_NOTHING = {"a", "an", "the", "of", "in", "on", "is", "are", "be", "and", "or", "to", "for", "with"}


@dataclass(frozen=True)
class Fault:
    """Something that cannot be used: `where` it stands, and `what` is wrong with it and mends it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Constrained:
    """What a table gave: questions that can be asked, and the rows that cannot, in the order of the file."""

    questions: tuple[VisualQuestion, ...]
    faults: tuple[Fault, ...]


def read_constraints(path: str | Path, images: str | Path, answers: Answers | None = None) -> Constrained:
    """Read one of the published tables: `okvqa.csv`, `multimodal_known.csv`, `multimodal_movies.csv`, or one like it.

    Needed are the columns `question`, `main_entity` (the visual constraint) and `image_url`; `subject` or `director` is
    what the picture shows. A constraint is spelt as in the question, and loses punctuation at its ends: its last token
    is where a model is edited.

    Args:
        path: of the table, CSV in UTF-8.
        images: folder that `image_url` is relative to. A name there may lack its ending, or be that of a folder of
            pictures (as download tools leave them), of which the first is taken.
        answers: from `read_okvqa_answers` or `read_known_answers`; without them questions have none.

    Returns:
        The questions, whose `id` is the part and the number in the table, and `group` the part; and the faults.

    Raises:
        DataError: the table cannot be read, lacks a column, or not one of its rows can be used.
    """
    path, folder = Path(path), Path(images)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the one that the pictures of {path.name} lie in")
    part = next((part for part in PARTS if part in path.stem.lower()), path.stem)
    questions: list[VisualQuestion] = []
    faults: list[Fault] = []
    for line, row in read_table(path, _COLUMNS):
        try:
            questions.append(_question(row, part, folder, answers))
        except DataError as error:
            faults.append(Fault(f"{path}, line {line}", str(error)))
    if not questions:
        raise DataError(f"{path} has no row that can be used: {faults[0] if faults else 'it has no rows at all'}")
    return Constrained(tuple(questions), tuple(faults))


def find_faults(questions: Sequence[VisualQuestion], needs_answers: bool = True) -> list[Fault]:
    """Check questions, from anywhere, for what tracing and editing need: a picture, constraints, an answer.

    Args:
        questions: what to check.
        needs_answers: whether a question without an answer is at fault.

    Returns:
        The first fault of each question that has any; its `where` is the question's id, or its number.
    """
    faults = []
    seen: set[str] = set()
    for number, one in enumerate(questions, 1):
        what = _fault_of(one, needs_answers)
        if what is None and one.image and not Path(one.image).is_file():
            what = f"there is no picture {one.image}: put it there, or leave the question out"
        if what is None and one.id and one.id in seen:
            what = f"the id {one.id!r} is used twice: give each question its own"
        seen.add(one.id)
        if what is not None:
            faults.append(Fault(one.id or f"question {number}", what))
    return faults


def span_of(phrase: str, question: str) -> str | None:
    """The words of a question that a phrase means, as the question spells them; None where they do not stand in it.

    Capitals and punctuation at the ends do not count, and words are whole: "hat" does not stand in "that".
    """
    words = phrase.strip(" \t\n,.;:?!").split()
    if not words:
        return None
    pattern = r"\s+".join(re.escape(word) for word in words)
    found = re.search(rf"(?<!\w){pattern}(?!\w)", question, re.IGNORECASE)
    return None if found is None else found.group()


def find_picture(images: Path, name: str) -> Path:
    """The picture called `name` (an ending may lack) in a folder, or the first one in a folder of that name there.

    Raises:
        DataError: there is none, or the name leads out of the folder.
    """
    relative = Path(name)
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"the picture's name {name!r} is no path within {images}: give one relative to that folder")
    place = images / relative
    if place.is_file():
        return place
    # `with_suffix` would cut "Audible.com" at its dot.
    for ending in (*_PICTURES, *map(str.upper, _PICTURES)):
        if (whole := place.with_name(place.name + ending)).is_file():
            return whole
    if place.is_dir():
        inside = sorted(one for one in place.iterdir() if one.suffix.lower() in _PICTURES)
        if inside:
            return inside[0]
    raise DataError(f"there is no picture {name!r} in {images}: put it there, or leave the line out")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file as texts by column, each with the number of the line that it ends on.

    Raises:
        DataError: the file cannot be read, is no CSV in UTF-8, or lacks one of `columns`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in columns if name not in (table.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}: it needs {', '.join(columns)}")
            for row in table:
                yield table.line_num, {key: value or "" for key, value in row.items() if key is not None}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is no CSV ({error}): save it as comma-separated text") from error


def _question(row: dict[str, str], part: str, images: Path, answers: Answers | None) -> VisualQuestion:
    text = " ".join(row["question"].split())
    if not text:
        raise DataError("the question is empty: fill it in, or leave the line out")
    span = span_of(row["main_entity"], text)
    if span is None:
        raise DataError(_not_there(row["main_entity"], text))
    entity = next((row[name].strip() for name in _ENTITIES if row.get(name, "").strip()), "")
    picture = find_picture(images, row["image_url"].strip())
    found = VisualQuestion(
        image=str(picture),
        question=text,
        visual=span,
        answers=() if answers is None else answers_to(answers, text, entity or _coco_number(picture)),
        entity=entity,
        id=f"{part}-{row.get('', '').strip() or picture.stem}",
        group=part,
    )
    if (what := _fault_of(found, needs_answers=answers is not None)) is not None:
        raise DataError(what)
    return found


def _fault_of(one: VisualQuestion, needs_answers: bool) -> str | None:
    visual = set(plain(one.visual).split())
    for phrase in (one.visual, *one.textual):
        words = set(plain(phrase).split())
        if span_of(phrase, one.question) is None:
            return _not_there(phrase, one.question)
        if not words - _NOTHING:
            return f"the constraint {phrase!r} names nothing: it must hold a word for what is meant, such as 'this'"
        if phrase is not one.visual and words <= visual:
            return f"the text constraint {phrase!r} is part of the visual one, {one.visual!r}: give other words"
    if needs_answers and not any(answer.strip() for answer in one.answers):
        return f"the question {one.question!r} has no answer: give at least one"
    return None


def _not_there(phrase: str, question: str) -> str:
    return f"the constraint {phrase.strip()!r} does not stand in the question {question!r}: copy its words from there"


def _coco_number(picture: Path) -> str:
    """COCO_val2014_000000297147 -> 297147."""
    digits = re.search(r"(\d+)$", picture.stem)
    return str(int(digits.group())) if digits else picture.stem
