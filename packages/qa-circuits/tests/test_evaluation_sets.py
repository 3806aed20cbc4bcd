"""Evaluation sets: which sentence answers, in probes and in examples of published sets."""

from pathlib import Path

import pytest
from pellucid.core.errors import DataError
from pellucid.qa_circuits.evaluation_sets import evaluation_set, locate, synthetic
from pellucid.qa_circuits.facts import copy_probes, read_facts
from pellucid.qa_circuits.probes import Probe, stands
from pellucid.qa_circuits.qa_data import QAExample

PROBE = Probe(
    subject="Rex",
    question="Who owns Rex?",
    original_answer="Anna",
    answer="Ben",
    context="Rex barks. Anna owns Rex. Eve sings.",
    modified_context="Rex barks. Ben owns Rex. Eve sings.",
    corrupted_context="Tom barks. Ian owns Tom.",
    corrupted_question="Who owns Tom?",
)


def test_synthetic_one_and_two() -> None:
    for which, answer, sentence in [(1, "Anna", "Anna owns Rex."), (2, "Ben", "Ben owns Rex.")]:
        found = synthetic([PROBE, PROBE], which)  # type: ignore[arg-type]
        assert found.name == f"synthetic-{which}"
        assert found.left_out == 0
        (item,) = found.items
        assert (item.answer, item.question) == (answer, "Who owns Rex?")
        assert [place.of(item.context) for place in item.places] == [sentence]


def test_our_own_probes_answer_in_one_sentence(tmp_path: Path) -> None:
    facts = read_facts(_facts_file(tmp_path))
    probes = copy_probes(facts, 5, seed=0)
    for which in (1, 2):
        found = synthetic(probes, which)  # type: ignore[arg-type]
        assert len(found.items) == len(probes)
        for item in found.items:
            assert len(item.places) == 1
            assert stands(item.answer, item.places[0].of(item.context))


def _facts_file(folder: Path) -> Path:
    path = folder / "facts.jsonl"
    pairs = [("Peru", "Lima"), ("Norway", "Oslo"), ("Kenya", "Nairobi"), ("Chile", "Santiago"), ("Italy", "Rome")]
    with path.open("w") as file:
        file.writelines(
            f'{{"subject": "{country}", "relation": "capital", "answer": "{city}"}}\n' for country, city in pairs
        )
    return path


def test_all_sentences_with_the_answer_count_unless_evidence_is_given() -> None:
    context = "Lima is large. It rains in Oslo. He left Lima in 1990. Limae is no word."
    found = locate(context, "Where?", ["Paris", "Lima"])
    assert found is not None
    assert found.answer == "Lima"
    assert [place.of(context) for place in found.places] == ["Lima is large.", "He left Lima in 1990."]
    start = context.index("He left")
    found = locate(context, "Where?", ["Lima"], [(start, start + 7)])
    assert found is not None
    assert [place.of(context) for place in found.places] == ["He left Lima in 1990."]
    assert locate(context, "Where?", ["Rome"]) is None


def test_examples_without_an_answer_in_their_context_are_counted() -> None:
    examples = [
        QAExample("Where?", "He lives in Rome.", ("Rome",), "nq"),
        QAExample("Where?", "He lives in Oslo.", ("Rome",), "nq"),
    ]
    found = evaluation_set(examples)
    assert (found.name, len(found.items), found.left_out) == ("nq", 1, 1)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(DataError, match="synthetic-1: of 0 questions none"):
        synthetic([], 1)
    with pytest.raises(DataError, match="nq: of 1 questions none"):
        evaluation_set([QAExample("Where?", "He lives in Oslo.", ("Rome",), "nq")])
    with pytest.raises(DataError, match=r"several sets \(a, b\)"):
        evaluation_set([QAExample("W?", "Oslo.", ("Oslo",), name) for name in "ab"])
