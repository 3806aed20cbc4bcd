import re

import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.t2i_edit.concepts import (
    SETTINGS,
    THINGS,
    ConceptPrompts,
    concept_prompts,
    read_concepts,
    write_concepts,
)


def test_a_style_as_in_the_thesis():
    found = concept_prompts("van gogh", "style")
    assert found.prompts[0] == "a house in the style of van gogh"
    assert found.targets[0] == "a house in the style of a painting"
    assert len(found) == len(THINGS) == len(set(found.prompts))
    assert set(found.replacements) == {"a painting"}


def test_a_style_of_tinyworld():
    found = concept_prompts("monet", "style", objects=["a red circle", "two stars"], target="")
    assert found.prompts == ("a red circle in the style of monet", "two stars in the style of monet")
    assert found.targets == ("a red circle", "two stars")
    assert found.replacements == ("circle", "stars")
    other = concept_prompts("monet", "style", objects=["a red circle"], target="seurat", paraphrased=True)
    assert other.prompts == ("a red circle painted by monet", "a red circle by monet")
    assert other.targets == ("a red circle painted by seurat", "a red circle by seurat")
    assert other.replacements == ("seurat", "seurat")


def test_an_object():
    found = concept_prompts("owl", "object", settings=["", "on the beach"], target="hot dog")
    assert found.prompts == ("a photo of an owl", "a photo of an owl on the beach")
    assert found.targets == ("a photo of a hot dog", "a photo of a hot dog on the beach")
    assert found.replacements == ("a hot dog", "a hot dog")
    left_out = concept_prompts("Snoopy", "object", settings=["on the beach"])
    assert left_out.prompts == ("a photo of Snoopy on the beach",)
    assert left_out.targets == ("a photo on the beach",)
    assert left_out.replacements == ("photo",)
    assert len(concept_prompts("the moon", "object", paraphrased=True)) == 2 * len(SETTINGS)
    assert concept_prompts("the moon", "object").prompts[0] == "a photo of the moon"


def test_a_fact():
    found = concept_prompts("the ruler of the mill", "fact", settings=["in the city"], target="the miller")
    assert found.prompts == ("a photo of the ruler of the mill in the city",)
    assert found.targets == ("a photo of the miller in the city",)
    assert found.replacements == ("the miller",)
    with pytest.raises(OptionError, match="has no new answer"):
        concept_prompts("the president of the united states", "fact")


@pytest.mark.parametrize(
    ("concept", "prompt", "target", "words"),
    [
        ("dog", "a dog in the park", "a hot dog in the park", "hot dog"),
        ("dog", "a dog in the park", "a dog in the park", "dog"),
        ("van gogh", "a house, van gogh, oil on canvas", "a house, monet, oil on canvas", "monet"),
        ("van gogh", "Van Gogh painted a tree", "painted a tree", "painted"),
        ("van gogh", "a house (van gogh)", "a house", "house"),
        ("red", "a red circle", "a circle", "a"),
        ("dog", "a dog and a dog here", "a dog and a cat here", "cat"),
        ("the king", "a photo of the king", "a portrait of a queen", "portrait of a queen"),
        ("dog", "a dog", "cat", "cat"),
        ("dog", "a dog a", "a", "a"),
    ],
)
def test_the_words_that_take_the_concept_s_place(concept, prompt, target, words):
    assert ConceptPrompts(concept, "object", (prompt,), (target,)).replacements == (words,)


def test_equal_pairs_are_made_once():
    assert len(concept_prompts("monet", "style", objects=["a dog", "a dog"])) == 1


def test_taking_some():
    found = concept_prompts("monet", "style").take(range(0, 10, 3))
    assert found.prompts[1] == "a boat in the style of monet"
    assert found.targets[1] == "a boat in the style of a painting"
    assert len(found) == 4
    with pytest.raises(DataError, match="no prompts"):
        found.take([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concept": "x", "kind": "smell"}, "kind 'smell' is not one of style, object, fact"),
        ({"concept": " ", "kind": "style"}, "the concept is empty"),
        ({"concept": "x", "kind": "style", "settings": ["y"]}, "settings are for objects and facts"),
        ({"concept": "x", "kind": "object", "objects": ["y"]}, "objects are for styles"),
        ({"concept": "x", "kind": "style", "objects": []}, "nothing to show 'x' with"),
    ],
)
def test_wrong_arguments(arguments, message):
    concept, kind = arguments.pop("concept"), arguments.pop("kind")
    with pytest.raises(OptionError, match=message):
        concept_prompts(concept, kind, **arguments)


@pytest.mark.parametrize(
    ("prompts", "targets", "message"),
    [
        (("a dog", "dog"), ("a cat",), "2 prompts and 1 targets"),
        (("two dogs",), ("a cat",), "'dog' does not stand in the prompt 'two dogs'"),
        (("a dog",), (" ",), "the target of 'a dog' is empty"),
    ],
)
def test_wrong_pairs(prompts, targets, message):
    with pytest.raises(DataError, match=message):
        ConceptPrompts("dog", "object", prompts, targets)


def test_files(tmp_path):
    path = tmp_path / "concepts.jsonl"
    both = (concept_prompts("monet", "style"), concept_prompts("the king", "fact", target="a queen"))
    write_concepts(path, both)
    assert read_concepts(path) == both
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], *lines[10:], *lines[5:10]]))
    assert read_concepts(path) == both


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"concept": "x", "kind": "smell", "prompt": "x", "target": "y"}', "kind 'smell' is not one of"),
        ('{"concept": "x", "kind": "style", "prompt": "z", "target": "y"}', "'x' does not stand in the prompt 'z'"),
        ('{"concept": "x", "kind": "style", "prompt": "x"}', "the field 'target' is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "concepts.jsonl"
    path.write_text('{"concept": "x", "kind": "fact", "prompt": "x", "target": "y"}\n' + line)
    with pytest.raises(DataError, match=re.escape(f"{path}, line 2: ") + ".*" + re.escape(message)):
        read_concepts(path)
