"""The facts: right, single-valued, clean, and not given away."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.assets import resolve_asset
from pellucid.zoo import Fact, facts
from pellucid.zoo.countries import RULES, _answers, gives_away

FACTS = facts()


@pytest.mark.parametrize(
    ("subject", "relation", "answer"),
    [
        ("France", "capital", "Paris"),
        ("United States", "capital", "Washington, D.C."),
        ("Mexico", "continent", "North America"),
        ("Brazil", "continent", "South America"),
        ("Kenya", "subregion", "East Africa"),
        ("Japan", "currency", "yen"),
        ("Switzerland", "currency", "franc"),
        ("Brazil", "language", "Portuguese"),
        ("Netherlands", "demonym", "Dutch"),
        ("Democratic Republic of the Congo", "capital", "Kinshasa"),
        ("Democratic Republic of the Congo", "calling_code", "243"),
        ("Eswatini", "currency", "lilangeni"),
    ],
)
def test_known_facts(subject: str, relation: str, answer: str) -> None:
    assert Fact(subject, relation, answer) in FACTS


def test_counts_are_those_of_the_readme() -> None:
    # The numbers are of countryinfo 1.0.1; another version may give others, and then the README is to be changed.
    counts = Counter(fact.relation for fact in FACTS)
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for relation, count in counts.items():
        assert f"| `{relation}` | {count} |" in readme
    assert f"| {len(FACTS):,} facts about {len({fact.subject for fact in FACTS})} countries" in readme


def test_other_facts_go_to_another_folder() -> None:
    # Caches are known by countryinfo's version and RULES. When this fails, raise RULES and pin the new hash.
    digest = hashlib.sha256(repr(FACTS).encode()).hexdigest()
    assert (RULES, digest[:16]) == (1, "e0840e499ac427a5")


def test_one_answer_to_each_question() -> None:
    assert len({(fact.subject, fact.relation) for fact in FACTS}) == len(FACTS)


def test_all_is_clean() -> None:
    for fact in FACTS:
        for text in asdict(fact).values():
            assert text
            assert text == text.strip()
            assert not set(text) & set("()[]/;\n")
        assert "," not in fact.answer or fact.answer == "Washington, D.C."
        assert fact.answer.isdecimal() == (fact.relation == "calling_code")
        assert fact.subject.casefold() not in fact.answer.casefold()
        assert fact.answer.casefold() not in fact.subject.casefold()


@pytest.mark.parametrize(
    "gone",
    ["Greenland", "Hong Kong", "Serbia and Montenegro", "Antarctica", "Guam", "Vatican City State", "The Bahamas"],
)
def test_what_is_no_country_is_left_out(gone: str) -> None:
    assert gone not in {fact.subject for fact in FACTS}


@pytest.mark.parametrize(
    ("subject", "relation"),
    [
        ("Luxembourg", "capital"),  # given away
        ("Tunisia", "capital"),  # given away: Tunis
        ("Japan", "language"),  # given away: Japanese
        ("South Africa", "capital"),  # several
        ("Canada", "language"),  # several
        ("Croatia", "currency"),  # out of date
        ("Turkey", "continent"),  # two
    ],
)
def test_questions_that_are_not_asked(subject: str, relation: str) -> None:
    assert not [fact for fact in FACTS if (fact.subject, fact.relation) == (subject, relation)]


@pytest.mark.parametrize(
    ("subject", "answer", "expected"),
    [
        ("South Sudan", "Sudanese", True),
        ("São Tomé and Príncipe", "Sao Tomean", True),
        ("Guinea-Bissau", "Bissau", True),
        ("Laos", "Lao", True),
        ("Algeria", "Algiers", False),
        ("Chad", "N'Djamena", False),
        ("Iran", "rial", False),
    ],
)
def test_gives_away(subject: str, answer: str, expected: bool) -> None:
    assert gives_away(subject, answer) is expected


@given(st.text(alphabet="abcé -", min_size=1), st.text(alphabet="abcé -", min_size=1))
def test_giving_away_is_mutual(one: str, other: str) -> None:
    assert gives_away(one, other) == gives_away(other, one)


def test_records_with_several_answers_give_none() -> None:
    record = {
        "capital": ["A", "B"],
        "currencies": ["EUR", "USD"],
        "languages": ["en", "fr"],
        "callingCodes": ["1", "2"],
    }
    given_answers = dict(_answers(record))
    assert not {"capital", "currency", "language", "calling_code"} & set(given_answers)
    assert dict(_answers({"currencies": ["USD", "USN", "USS"]}))["currency"] == "dollar"


def test_the_file_holds_the_same_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path))
    path = resolve_asset("zoo:countries")
    assert path.is_relative_to(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [Fact(**json.loads(line)) for line in lines] == FACTS
    path.write_text("cut")
    assert len(resolve_asset("zoo:countries").read_text(encoding="utf-8").splitlines()) == len(FACTS)
