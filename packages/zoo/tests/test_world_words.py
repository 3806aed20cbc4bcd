"""Captions, splits, people and facts."""

from dataclasses import replace
from itertools import combinations as couples

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.zoo.world import (
    HOLDERS,
    PEOPLE,
    Role,
    Scene,
    Thing,
    caption,
    caption_words,
    captions,
    fact_words,
    parse,
    sample,
    split_of,
    world_facts,
)
from pellucid.zoo.world.chance import Chance
from pellucid.zoo.world.facts import ANSWERS, role_sentence
from pellucid.zoo.world.sampling import SPLITS, combinations, draw_role, held_out
from pellucid.zoo.world.vocabulary import COLOURS, OBJECTS, PLACES, STYLES, TEXTURES


def test_every_caption_reads_back_as_its_scene() -> None:
    scenes = list(sample(150, 11)) + [draw_role(Chance(seed, "roles")) for seed in range(20)]
    scenes += [replace(scene, blur=True) for scene in scenes[:20]]
    scenes += [
        replace(scene, things=tuple(replace(thing, occluded=True) for thing in scene.things))
        for scene in scenes[:60]
        if scene.things
    ]
    known = set(caption_words())
    for scene in scenes:
        said = captions(scene)
        assert len(said) == len(set(said)) >= 3
        assert set(" ".join(said).split()) <= known
        step = max(len(said) // 12, 1)
        for text in (said[0], *said[1::step], said[-1]):
            assert parse(text, scene.seed) == scene
            assert parse(f" {text.capitalize()}. ", scene.seed) == scene


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("a red circle and a blue star", Scene((Thing("circle", "red"), Thing("star", "blue")))),
        ("A mug in the style of van gogh", Scene((Thing("mug"),), style="van gogh")),
        ("A photo of a car in a city.", Scene((Thing("car"),), place="city")),
        ("three striped orange fishes", Scene((Thing("fish", "orange", "striped", count=3),))),
        ("an orange boat from the left", Scene((Thing("boat", "orange", view="left"),))),
        ("the ruler of the mill", Scene(person=Role("ruler", "mill"))),
        ("a drawing of the baron on the beach by monet", Scene(person="baron", place="beach", style="monet")),
        ("a star to the left of a ring", Scene((Thing("star"), Thing("ring")), relation="left of")),
        ("a blurred photo of a tree behind a bar", Scene((Thing("tree", occluded=True),), blur=True)),
    ],
)
def test_captions_of_the_thesis_and_others(text: str, scene: Scene) -> None:
    assert parse(text) == scene
    assert text.lower().rstrip(".") in captions(scene)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red zebra", "knows no 'zebra'"),
        ("a circle red", "is no caption of Tinyworld"),
        ("", "is no caption of Tinyworld"),
        ("two red circle", "do not agree"),
        ("a red circles", "do not agree"),
    ],
)
def test_other_words_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(text)


def test_a_caption_of_a_scene_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="leave count=1"):
        parse("three circles and a star")


def test_few_words_suffice() -> None:
    words = (*caption_words(), *fact_words())
    assert len(words) == len(set(words)) <= 250
    assert all(word == word.lower() and word.isalpha() for word in words)
    said = " ".join([fact.sentence() for fact in world_facts()] + [role_sentence(role) for role in HOLDERS])
    assert set(said.split()) <= set(words)


def test_splits_share_no_combination_and_every_attribute() -> None:
    train, test = list(sample(1500, 2, "train")), list(sample(600, 2, "test"))
    seen = frozenset().union(*map(combinations, train))
    assert not any(map(held_out, seen))
    assert all(combinations(scene) - seen and split_of(scene) == "test" for scene in test)
    for attribute, names in (("object", OBJECTS), ("colour", COLOURS), ("texture", TEXTURES)):
        for scenes in (train, test):
            assert {getattr(thing, attribute) for scene in scenes for thing in scene.things} - {None} == set(names)
    for attribute, names in (("place", PLACES), ("style", STYLES)):
        for scenes in (train, test):
            assert {getattr(scene, attribute) for scene in scenes} - {None} == set(names)
    for subject in (*OBJECTS, *PEOPLE):
        assert [held_out(("style", subject, style)) for style in STYLES].count(True) == 1


def test_one_in_eight_pairs_is_held_out() -> None:
    pairs = [("colour", name, colour) for name in OBJECTS for colour in COLOURS]
    assert 8 <= sum(map(held_out, pairs)) <= 24  # 16 expected of 128
    assert combinations(Scene((Thing("star", "red"), Thing("car", "blue")))) == {
        ("colour", "star", "red"),
        ("colour", "car", "blue"),
        ("couple", "blue car", "red star"),
    }


def test_samples_follow_their_seed() -> None:
    assert list(sample(20, 7)) == list(sample(30, 7))[:20] != list(sample(20, 8))
    with pytest.raises(OptionError, match="'dev': choose among train, test, all"):
        next(sample(1, 0, "dev"))
    assert SPLITS == ("train", "test", "all")


def test_people_differ_in_three_traits() -> None:
    assert len(PEOPLE) >= 50
    for one, other in couples(PEOPLE.values(), 2):
        assert sum(vars(one)[trait] != vars(other)[trait] for trait in vars(one)) >= 3


def test_facts_are_one_for_each_person_and_relation() -> None:
    facts = world_facts()
    assert len(facts) >= 200
    assert len({(fact.individual, fact.relation) for fact in facts}) == len(facts) == len(PEOPLE) * len(ANSWERS)
    assert len(ANSWERS) >= 4
    for relation, answers in ANSWERS.items():
        given = [fact.answer for fact in facts if fact.relation == relation]
        counts = [given.count(answer) for answer in answers]
        assert sum(counts) == len(given)
        assert max(counts) - min(counts) <= 1
    assert facts[0].sentence() == "the home of the baron is the mill"
    assert len(set(HOLDERS.values())) == len(HOLDERS)
    assert set(HOLDERS.values()) <= set(PEOPLE)
    assert caption(Scene(person="baron")) == "the baron"
