"""Facts about countries from the package `countryinfo`: a subject, a relation, and the one right answer.

Left out is whatever has several right answers, is contested or out of date, or is given away by its
subject's name (the capital of Luxembourg). Provinces are left out as a whole: the records of several
countries hold those of another.
"""

import importlib.metadata
import importlib.resources
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError

from . import country_names as names
from .cache import built, cache_root, fault_of

DISTRIBUTION = "countryinfo"
RULES = 1  # raise it whenever the same records make other facts


@dataclass(frozen=True)
class Fact:
    """A fact with one right answer.

    Attributes:
        subject: a country's common English name, without an article.
        relation: `capital`, `continent`, `subregion`, `currency` (the unit: yen), `language`, `demonym` or
            `calling_code` (digits).
        answer: the answer, in English.
    """

    subject: str
    relation: str
    answer: str


def facts() -> list[Fact]:
    """All facts, country by country in alphabetical order.

    Raises:
        DataError: the records of `countryinfo` cannot be read.
    """
    return list(_facts())


def countries() -> Path:
    """A JSON Lines file of all facts, one `{"subject", "relation", "answer"}` a line."""

    def write(folder: Path) -> None:
        lines = (json.dumps(asdict(fact), ensure_ascii=False) + "\n" for fact in facts())
        (folder / _target().name).write_text("".join(lines), encoding="utf-8")

    built(_target().parent, write, {"of": DISTRIBUTION, "version": _version()})
    return _target()


def cached() -> Path | None:
    """The file, where it is already written and whole."""
    return None if fault_of(_target().parent) else _target()


def _version() -> str:
    return importlib.metadata.version(DISTRIBUTION)


def _target() -> Path:
    return cache_root() / f"countries-{_version()}-{RULES}" / f"countries-{_version()}.jsonl"


@cache
def _facts() -> tuple[Fact, ...]:
    found: dict[str, list[Fact]] = {}
    for record in _records():
        code = record["ISO"]["alpha3"]
        subject = names.SUBJECTS.get(code, record["name"])
        if code in names.NOT_COUNTRIES or subject in found or not _clean(subject):
            continue
        found[subject] = [
            Fact(subject, relation, answer)
            for relation, raw in _answers(record)
            if code not in names.LEFT_OUT.get(relation, ())
            and (answer := names.ANSWERS.get(raw, raw))
            and _clean(answer)
            and not gives_away(subject, answer)
        ]
    return tuple(fact for subject in sorted(found, key=_folded) for fact in found[subject])


def _records() -> Iterator[dict[str, Any]]:
    folder = importlib.resources.files("countryinfo") / "data"
    try:
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".json"):
                yield json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"countryinfo's records cannot be read ({error}): pip install --force-reinstall countryinfo"
        ) from error


def _answers(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each relation with its only answer; relations with none or several are passed over."""
    capital = record.get("capital")
    if isinstance(capital, str):  # once it is a list
        yield "capital", capital
    region, subregion, part = (record.get(key) or "" for key in ("region", "subregion", "intermediateregion"))
    yield "continent", names.AMERICAS.get(part, "North America") if region == "Americas" else region
    fine = subregion if part in ("", "Channel Islands") else part
    yield "subregion", names.SUBREGIONS.get(fine, fine)
    currencies = set(record.get("currencies") or []) - names.FUNDS
    if len(currencies) == 1:
        yield "currency", names.CURRENCIES.get(currencies.pop(), "")
    languages = record.get("languages") or []
    if len(languages) == 1:
        yield "language", names.LANGUAGES.get(languages[0], "")
    yield "demonym", record.get("demonym") or ""
    codes = record.get("callingCodes") or []
    if len(codes) == 1 and len(codes[0]) <= 3:  # longer ones are a shared code with an area's digits
        yield "calling_code", codes[0]


def _clean(text: str) -> bool:
    """Whether a name is one name: Latin letters, no brackets, lists or alternatives."""
    if not text or text != text.strip() or set(text) & set("()[]/;"):
        return False
    if "," in text and text != "Washington, D.C.":
        return False
    return all("LATIN" in unicodedata.name(letter, "") for letter in text if letter.isalpha() and letter != "ʻ")


def _folded(text: str) -> str:
    """Lower case, without accents."""
    return "".join(
        letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)
    ).lower()


def gives_away(subject: str, answer: str) -> bool:
    """Whether one stands within the other, or a word of four letters or more of one within the other.

    So with Laos and Lao, Tunisia and Tunis, or South Sudan and Sudanese.
    """

    def parts(text: str) -> list[str]:
        return [text, *(word for word in text.replace("-", " ").split() if len(word) >= 4)]

    one, other = _folded(subject), _folded(answer)
    return any(part in other for part in parts(one)) or any(part in one for part in parts(other))
