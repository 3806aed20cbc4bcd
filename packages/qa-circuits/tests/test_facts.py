import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.qa_circuits.facts import LONGEST, Fact, copy_probes, read_facts, stream_copy_probes
from pellucid.qa_circuits.probes import Probe, flaw, stands
from pellucid.qa_circuits.wording import WORDINGS, wording

# Names within names, answers with their own full stop, answers in lower case, several answers of one subject.
FACTS = [
    Fact(*line.split("|"))
    for line in """
Niger|capital|Niamey
Nigeria|capital|Abuja
Guinea|capital|Conakry
Papua New Guinea|capital|Port Moresby
Equatorial Guinea|capital|Malabo
Guinea-Bissau|capital|Bissau
Dominica|capital|Roseau
Dominican Republic|capital|Santo Domingo
United States|capital|Washington, D.C.
Mexico|capital|Mexico City
France|capital|Paris
Niger|continent|Africa
Nigeria|continent|Africa
Guinea|continent|Africa
Papua New Guinea|continent|Oceania
Dominica|continent|North America
France|continent|Europe
Niger|subregion|West Africa
Papua New Guinea|subregion|Melanesia
France|subregion|Western Europe
Dominica|subregion|Caribbean
Niger|currency|franc
France|currency|euro
Ireland|currency|Euro
Nigeria|currency|naira
United States|currency|dollar
Niger|language|French
France|language|French
Nigeria|language|English
Ireland|language|English
Ireland|language|Irish
Papua New Guinea|language|Tok Pisin
Niger|demonym|Nigerien
Nigeria|demonym|Nigerian
Guinea|demonym|Guinean
Dominica|demonym|Dominican
Dominican Republic|demonym|Dominican
France|demonym|French
Niger|calling code|227
Nigeria|calling code|234
France|calling code|33
United States|calling code|1
Niger|national {dish}|djerma stew
Nigeria|national {dish}|jollof rice
France|national {dish}|pot-au-feu
Mexico|national {dish}|mole poblano
""".strip().splitlines()
]
TRUE = {(fact.subject, fact.relation, fact.answer) for fact in FACTS}


def sentences_of(relation: str, subject: str, answer: str) -> set[str]:
    return {form.format(subject=subject, answer=answer) for form in wording(relation).sentences}


def check(probe: Probe) -> None:
    assert (probe.subject, probe.relation, probe.original_answer) in TRUE
    assert stands(probe.answer, probe.modified_context)
    assert stands(probe.original_answer, probe.context)
    assert not stands(probe.original_answer, probe.modified_context, any_case=True)
    for text in (probe.question, probe.context, probe.corrupted_question, probe.corrupted_context):
        assert not stands(probe.answer, text, any_case=True)
    for text in (probe.corrupted_question, probe.corrupted_context):
        assert not stands(probe.subject, text, any_case=True)
    assert probe.answer.casefold() not in {
        f.answer.casefold() for f in FACTS if (f.subject, f.relation) == (probe.subject, probe.relation)
    }
    assert probe.answer in {fact.answer for fact in FACTS if fact.relation == probe.relation}
    assert flaw(probe) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(min_value=0, max_value=10**9))
def test_invariants_hold_for_every_seed(seed: int) -> None:
    probes = list(stream_copy_probes(FACTS, seed))
    assert len(probes) >= 35
    for probe in probes:
        check(probe)
    keys = [(probe.subject, probe.relation, probe.original_answer) for probe in probes]
    assert len(set(keys)) == len(keys)


@settings(deadline=None, max_examples=30)
@given(st.integers(min_value=0, max_value=10**9))
def test_the_fact_is_stated_once_and_no_distractor_answers_the_question(seed: int) -> None:
    for probe in stream_copy_probes(FACTS, seed):
        stated = sentences_of(probe.relation, probe.subject, probe.original_answer)
        assert sum(sentence.rstrip(".") in probe.context for sentence in stated) == 1
        for fact in FACTS:
            if (fact.subject, fact.relation) == (
                probe.subject,
                probe.relation,
            ) and fact.answer != probe.original_answer:
                told = sentences_of(fact.relation, fact.subject, fact.answer)
                assert not any(sentence in probe.context for sentence in told)


def test_the_corrupted_pair_states_another_fact_of_the_relation() -> None:
    for probe in copy_probes(FACTS, 30, 3):
        others = [f for f in FACTS if f.relation == probe.relation and stands(f.subject, probe.corrupted_question)]
        assert any(
            sentence.rstrip(".") in probe.corrupted_context
            for fact in others
            for sentence in sentences_of(fact.relation, fact.subject, fact.answer)
        )


def test_same_seed_same_probes_and_a_larger_n_begins_alike() -> None:
    assert copy_probes(FACTS, 20, 7) == copy_probes(FACTS, 30, 7)[:20]
    assert copy_probes(FACTS, 20, 7) != copy_probes(FACTS, 20, 8)


def test_lengths_places_and_wordings_vary() -> None:
    many = [
        Fact(f"S{i}", relation, f"{relation[:2]}{i}") for relation in ("capital", "hue", "taste") for i in range(150)
    ]
    probes = copy_probes(many, 360, 0)
    lengths = Counter(probe.context.count(". ") + 1 for probe in probes)
    # 30 expected of each length, standard deviation 5.2.
    assert set(lengths) == set(range(1, LONGEST + 1))
    assert min(lengths.values()) >= 12
    places = Counter(p.context[: p.context.index(p.original_answer)].count(". ") for p in probes)
    assert set(places) == set(range(LONGEST))
    assert set(Counter(probe.relation for probe in probes).values()) == {120}
    forms = {probe.question.replace(probe.subject, "S") for probe in probes if probe.relation == "capital"}
    assert len(forms) == len(WORDINGS["capital"].questions)


def test_repeated_facts_count_once() -> None:
    assert list(stream_copy_probes(FACTS * 3, 0)) == list(stream_copy_probes(FACTS, 0))


def test_too_few_facts_tell_how_many_probes_can_be_made() -> None:
    count = len(list(stream_copy_probes(FACTS, 0)))
    with pytest.raises(DataError, match=rf"1000 probes asked for, but {count} can be made of these {len(FACTS)} facts"):
        copy_probes(FACTS, 1000, 0)
    with pytest.raises(DataError, match="0 can be made"):
        copy_probes([Fact("Rex", "owner", "Anna"), Fact("Tom", "owner", "Ben")], 1)
    assert (
        len(copy_probes([Fact("Rex", "owner", "Anna"), Fact("Tom", "owner", "Ben"), Fact("Kit", "owner", "Eve")], 3))
        == 3
    )
    with pytest.raises(OptionError):
        copy_probes(FACTS, 0)


def test_known_relations_are_found_by_any_spelling_and_others_get_generic_wordings() -> None:
    assert wording("Calling_Code") is WORDINGS["calling code"]
    assert "The owner of Rex is Anna." in sentences_of("owner", "Rex", "Anna")
    assert "The a{b} of Rex is Anna." in sentences_of("a{b}", "Rex", "Anna")


def test_every_wording_names_what_it_must() -> None:
    for forms in WORDINGS.values():
        assert len(forms.questions) >= 3
        assert len(forms.sentences) >= 3
        for question in forms.questions:
            assert question.format(subject="S").count("S ") + question.format(subject="S").count("S?") >= 1
        for sentence in forms.sentences:
            # Braces in a name are left as they are.
            text = sentence.format(subject="{Subject}", answer="{Answer}")
            assert text.count("{Subject}") == text.count("{Answer}") == 1


def test_read_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"subject": "Rex", "relation": "owner", "answer": "Anna", "source": 1}\n')
    assert read_facts(path) == [Fact("Rex", "owner", "Anna")]
    path.write_text(json.dumps({"subject": "Rex", "relation": "", "answer": "Anna"}))
    with pytest.raises(DataError, match=r"line 1: the field 'relation' is empty"):
        read_facts(path)
