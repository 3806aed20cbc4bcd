"""Questions about pictures, with the words in them that an answer has to satisfy: visual and textual constraints."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.outfolder import write_file

_LISTED = ("textual", "answers", "paraphrases")
_NEEDED = ("image", "question", "visual", "answers")


@dataclass(frozen=True)
class VisualQuestion:
    """A question about a picture (thesis 6.2.1).

    Attributes:
        image: path of the picture.
        question: in words.
        visual: its visual constraint: the span of the question that stands for what the picture shows.
        textual: its textual constraints, spans of the question, too.
        answers: right ones; the first is the one that is traced and edited.
        paraphrases: the same question in other words.
        entity: what the picture shows, in words; empty where that is not known.
        id: a name for it.
        group: any label, such as `withheld`.
    """

    image: str
    question: str
    visual: str
    textual: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    entity: str = ""
    id: str = ""
    group: str = ""


def read_questions(path: Path) -> list[VisualQuestion]:
    """Read questions from JSON Lines, one object a line with the fields of `VisualQuestion`.

    Other fields are left alone, such as those of `pellucid zoo dataset facts`. Pictures are told relative to the file.

    Raises:
        DataError: the file cannot be read, or a line is not such an object; the message names it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}): give a JSON Lines file") from error
    found = [_read(line, f"{path}, line {number}", path.parent) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{path} has no question: it needs one object a line with {', '.join(_NEEDED)}")
    return found


def write_questions(questions: Iterable[VisualQuestion], path: Path) -> None:
    """Write questions as `read_questions` reads them.

    Raises:
        DataError: the file cannot be written.
    """
    write_file(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in questions).encode())


def _read(line: str, where: str, folder: Path) -> VisualQuestion:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is a {type(row).__name__}: write an object with {', '.join(_NEEDED)}")
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        raise DataError(f"{where} lacks {missing[0]!r}: it needs {', '.join(_NEEDED)}")
    given: dict[str, Any] = {}
    for name in (field.name for field in fields(VisualQuestion)):
        value = row.get(name, [] if name in _LISTED else "")
        listed = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not (listed if name in _LISTED else isinstance(value, str)):
            raise DataError(f"{where}: {name} is {value!r}: write {'a list of texts' if name in _LISTED else 'a text'}")
        given[name] = tuple(value) if name in _LISTED else value
    if not given["answers"]:
        raise DataError(f"{where} has no answer: give one or more in 'answers'")
    if given["visual"] and given["visual"] not in given["question"]:
        raise DataError(f"{where}: the visual constraint {given['visual']!r} is not in the question: write it as there")
    image = Path(given["image"])
    given["image"] = str(image if image.is_absolute() or not given["image"] else folder / image)
    return VisualQuestion(**given)
