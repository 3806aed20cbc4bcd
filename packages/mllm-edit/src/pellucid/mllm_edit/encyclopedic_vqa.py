"""Encyclopedic-VQA (Mensink et al. 2023), where the thesis takes long-tailed facts to insert from (6.4.2).

The published tables name pictures of two data sets, Google Landmarks v2 and iNaturalist 2021, by their ids. They mark
no constraints; but nearly all questions point at the picture with "this ..." or "these ...", which is taken.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pellucid.core.errors import DataError, OptionError

from .constraints_data import Constrained, Fault, read_table
from .questions import VisualQuestion

KINDS = ("templated", "automatic", "multi_answer", "2_hop")
LANDMARKS, NATURE = "landmarks", "inaturalist"

_COLUMNS = ("question", "answer", "dataset_image_ids", "dataset_name", "question_type", "wikipedia_title")
_SPLITS = ("", "train", "index", "test")
# Words after "this" that do not belong to what it points at: "Who made this in 1900?"
_AFTER = (
    "is|are|was|were|be|been|has|have|had|do|does|did|can|could|will|would|in|on|at|of|to|for|from|by|with|as|and|or|"
    "like|called|made|used|located|found|known|born"
)
_POINTING = re.compile(rf"\b(?:this|these)\b(?:\s+(?!(?:{_AFTER})\b)[\w'-]+)?", re.IGNORECASE)


def pointing_phrase(question: str) -> str | None:
    """The first "this ..." or "these ..." of a question, with the word after it where that names something."""
    found = _POINTING.search(question)
    return None if found is None else found.group().removesuffix("'s")


def read_encyclopedic_vqa(
    path: str | Path,
    images: Mapping[str, str | Path],
    *,
    kinds: Sequence[str] = ("templated", "automatic"),
    pictures: int = 1,
    limit: int | None = None,
) -> Constrained:
    """Read one of the published tables (`train.csv`, `val.csv`, `test.csv`) beside a user's pictures.

    Args:
        path: of the table.
        images: where pictures lie: "landmarks" to the folder of Google Landmarks (with its folders of the ids' first
            three characters, in `train`, `index`, `test` or directly), "inaturalist" to that of iNaturalist 2021,
            which holds `train.json` or `val.json` with the files' names. Rows of a data set that is not given are left
            out silently.
        kinds: which of `KINDS` to take. Of the last two one answer is several things or needs two steps.
        pictures: how many of a question's pictures (up to five) become a question each, all with the same `entity`:
            the second and later ones show whether an edit holds for other pictures.
        limit: stop after so many rows that can be used.

    Returns:
        The questions, whose `id` is `evqa-LINE-PICTURE`, `group` the data set of the picture and `entity` the title of
        the Wikipedia article; and the rows that cannot be used.

    Raises:
        DataError: the table or names of pictures cannot be read, or not one of its rows can be used.
        OptionError: `kinds` or `images` names something unknown, or a number is below 1.
    """
    path = Path(path)
    for what, given, known in (("kind", kinds, KINDS), ("data set", images, (LANDMARKS, NATURE))):
        if strange := [one for one in given if one not in known]:
            raise OptionError(f"there is no {what} {strange[0]!r} in Encyclopedic-VQA: choose among {', '.join(known)}")
    if pictures < 1 or (limit is not None and limit < 1):
        raise OptionError(f"pictures={pictures}, limit={limit}: give numbers of at least 1")
    folders = {name: Path(folder) for name, folder in images.items()}
    names = _nature_names(folders[NATURE]) if NATURE in folders else {}
    questions: list[VisualQuestion] = []
    faults: list[Fault] = []
    used = 0
    for line, row in read_table(path, _COLUMNS):
        if row["question_type"] not in kinds or row["dataset_name"] not in folders:
            continue
        try:
            questions += _questions(row, line, folders[row["dataset_name"]], names, pictures)
            used += 1
        except DataError as error:
            faults.append(Fault(f"{path}, line {line}", str(error)))
        if used == limit:
            break
    if not questions:
        none = f"none is of {', '.join(kinds)} with pictures of {', '.join(folders) or 'any data set'}"
        why = str(faults[0]) if faults else none
        raise DataError(f"{path} has no row that can be used: {why}")
    return Constrained(tuple(questions), tuple(faults))


def _questions(
    row: dict[str, str], line: int, folder: Path, names: Mapping[str, str], pictures: int
) -> list[VisualQuestion]:
    text = " ".join(row["question"].split())
    visual = pointing_phrase(text)
    if visual is None:
        raise DataError(f"the question {text!r} has no 'this' or 'these': have its constraint annotated")
    # "a|b": annotators' alternatives; "a&&b": the parts of a list, which are said one after the other.
    answers = tuple(part.replace("&&", ", ").strip() for part in row["answer"].split("|") if part.strip())
    if not answers:
        raise DataError(f"the question {text!r} has no answer: leave the line out")
    ids = [one.strip() for one in row["dataset_image_ids"].split("|") if one.strip()]
    found = [place for one in ids if (place := _place_of(one, row["dataset_name"], folder, names)) is not None]
    if not found:
        raise DataError(f"none of its pictures ({', '.join(ids) or 'it names none'}) lies in {folder}")
    return [
        VisualQuestion(
            image=str(place),
            question=text,
            visual=visual,
            answers=answers,
            entity=row["wikipedia_title"].strip(),
            id=f"evqa-{line}-{number}",
            group=row["dataset_name"],
        )
        for number, place in enumerate(found[:pictures], 1)
    ]


def _place_of(identity: str, dataset: str, folder: Path, names: Mapping[str, str]) -> Path | None:
    if dataset == NATURE:
        places = [folder / names[identity]] if identity in names else []
    else:
        deep = Path(*identity[:3]) / f"{identity}.jpg"
        places = [folder / split / deep for split in _SPLITS] + [folder / f"{identity}.jpg"]
    return next((place for place in places if place.is_file()), None)


def _nature_names(folder: Path) -> dict[str, str]:
    """Names of iNaturalist's files by their ids, from the annotations in its folder."""
    names: dict[str, str] = {}
    for file in (folder / "train.json", folder / "val.json"):
        if not file.is_file():
            continue
        try:
            listed = json.loads(file.read_text(encoding="utf-8"))["images"]
            names |= {str(image["id"]): str(image["file_name"]) for image in listed}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is not iNaturalist's list of images ({error!r}): get it again") from error
    if not names:
        raise DataError(
            f"{folder} holds neither train.json nor val.json, which name iNaturalist's files: put one there"
        )
    return names
