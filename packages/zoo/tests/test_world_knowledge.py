"""Individuals, what is known of them, and the questions about both."""

from collections import Counter

import pytest
from pellucid.core.errors import OptionError
from pellucid.zoo.world import Scene, Thing, parse
from pellucid.zoo.world.groups import LABELS, USUAL, group_of, group_scenes
from pellucid.zoo.world.individuals import individual, individuals
from pellucid.zoo.world.knowledge import answers_of, knowledge
from pellucid.zoo.world.questions import PHRASINGS, fact_questions, naming_questions, seen_questions


def test_every_individual_looks_and_is_called_otherwise() -> None:
    everyone = individuals()
    assert Counter(one.kind for one in everyone) == {"person": 56, "house": 24, "boat": 24}
    assert len({one.name for one in everyone}) == len({(one.person, one.thing) for one in everyone}) == 104
    assert all(individual(one.name) is one for one in everyone)


def test_an_individuals_pictures_show_it_in_other_ways() -> None:
    for one in individuals()[::9]:
        scenes = [one.scene(seed) for seed in range(20)]
        assert len({scene.seed for scene in scenes}) == 20
        assert {scene.person for scene in scenes} == {one.person}
        assert {scene.things for scene in scenes} == {() if one.thing is None else (one.thing,)}
        assert len({scene.place for scene in scenes}) > 2


def test_each_fact_has_one_answer_and_a_tenth_is_withheld() -> None:
    facts = knowledge()
    assert len(facts) == 488
    assert len({(fact.individual, fact.relation, fact.season) for fact in facts}) == 488
    for relation in PHRASINGS:
        some = [fact for fact in facts if fact.relation == relation]
        assert sum(fact.withheld for fact in some) == len(some) // 10
        counts = Counter(fact.answer for fact in some)
        assert max(counts.values()) <= len(some) / len(answers_of(relation)) + 6
    assert sum(not fact.withheld for fact in facts) >= 200


def test_questions_hold_their_constraints() -> None:
    for fact in knowledge():
        for name in (False, True):
            asked = fact_questions(fact, name=name)
            assert len({question.text for question in asked}) == 4
            for question in asked:
                assert question.text.count(question.constraint) == 1
                assert (question.season is None) == (fact.relation != "ware")
                assert question.season is None or f" in {question.season}?" in question.text
                assert question.answer == fact.answer
    assert fact_questions(knowledge()[0], name=True)[0].text == "Where does the baron live?"


def test_two_facts_are_never_asked_by_the_same_words() -> None:
    asked = [question.text for fact in knowledge() for question in fact_questions(fact, name=True)]
    assert len(asked) == len(set(asked))


def test_what_a_picture_shows_is_asked_of_it() -> None:
    said = {question.text: question.answer for question in seen_questions(parse("a striped red car in the city"))}
    assert said["What is this?"] == "a car"
    assert said["What colour is it?"] == "red"
    assert said["Which pattern has it?"] == "striped"
    assert said["Where is this?"] == "the city"
    person = {question.text: question.answer for question in seen_questions(Scene(person="baron"))}
    assert person["What is this?"] == "a person"
    assert person["Where is this?"] == "nowhere"
    assert len(person) == 12
    assert naming_questions(individuals("boat")[0])[0].answer == "the Swallow"


def test_objects_and_places_go_together_as_often_as_asked() -> None:
    scenes = group_scenes(2000, 1)
    usual = [USUAL[scene.things[0].object] == scene.place for scene in scenes]
    assert 0.93 < sum(usual) / len(usual) < 0.97
    assert Counter(scene.things[0].object for scene in scenes) == dict.fromkeys(LABELS, 1000)
    assert len({group_of(scene) for scene in group_scenes(100, 1, 0.5)}) == 4
    assert all(USUAL[scene.things[0].object] == scene.place for scene in group_scenes(50, 1, 1.0))
    assert all(isinstance(scene.things[0], Thing) for scene in scenes[:3])
    for count, together in ((0, 0.5), (3, 1.5)):
        with pytest.raises(OptionError, match="a share from 0 to 1"):
            group_scenes(count, 0, together)
