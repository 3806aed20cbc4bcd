import subprocess
import sys

import numpy as np
import pellucid.compose.blip_vqa as module
import pytest
from pellucid.compose.blip_vqa import FORMULAS, BlipVqaScores, blip_vqa, load_judge, vqa_questions
from pellucid.compose.noun_chunks import noun_chunks, spacy_chunks
from pellucid.core.errors import DataError, ModelError, OptionError

HAND_MADE = {
    "a red book and a yellow vase": ["a red book", "a yellow vase"],
    "a green bench and a blue bowl": ["a green bench", "a blue bowl"],
    "a brown orange and a red sheep": ["a brown orange", "a red sheep"],
    "a red orange and brown sheep": ["a red orange", "brown sheep"],
    "rubber sole shoes and fluffy clouds": ["rubber sole shoes", "fluffy clouds"],
    "a metallic desk lamp and a fluffy teddy bear": ["a metallic desk lamp", "a fluffy teddy bear"],
    "an oval sink and a rectangular mirror.": ["an oval sink", "a rectangular mirror"],
    "a triangular slice of pizza and a pentagonal pizza box": ["a triangular slice", "pizza", "a pentagonal pizza box"],
    "A black and white cat sits in a white sink.": ["A black and white cat", "a white sink"],
    "A bathroom with white tile and a beige toilet.": ["A bathroom", "white tile", "a beige toilet"],
    "two white sheep, a black goat and a white goat in a field": [
        "two white sheep",
        "a black goat",
        "a white goat",
        "a field",
    ],
    "The pyramidal shape and the triangular lines were the inspiration for the art project.": [
        "The pyramidal shape",
        "the triangular lines",
        "the inspiration",
        "the art project",
    ],
    "The leather wallet and fluffy keychain hang on the metallic hook by the wooden door.": [
        "The leather wallet",
        "fluffy keychain",
        "the metallic hook",
        "the wooden door",
    ],
    "The glass vase and metallic stand display the wooden flowers on the fabric dresser.": [
        "The glass vase",
        "metallic stand",
        "the wooden flowers",
        "the fabric dresser",
    ],
    "A man in a gray jacket standing in a kitchen next to a black dog.": [
        "A man",
        "a gray jacket",
        "a kitchen",
        "a black dog",
    ],
    "a long, narrow yellow kitchen": ["a long, narrow yellow kitchen"],
    "a cup on the left of the table": ["a cup", "the left", "the table"],
    "Many stoplights flash yellow.": ["Many stoplights"],
    "The triangular roof and the windows were the defining features of the house.": [
        "The triangular roof",
        "the windows",
        "the defining features",
        "the house",
    ],
    "A restroom features black and white checkered flooring.": ["A restroom", "black and white checkered flooring"],
    "an orange": ["an orange"],
    "red": [],
    "and the": [],
}


@pytest.mark.parametrize("prompt", HAND_MADE)
def test_noun_chunks_of_hand_made_cases(prompt):
    assert noun_chunks(prompt) == HAND_MADE[prompt]


class Told:
    """Answers each question by a table."""

    def __init__(self, chances):
        self.chances, self.asked = chances, []

    def yes_probabilities(self, pictures, questions):
        self.asked += questions
        return [np.array([self.chances[question] for question in one]) for one in questions]

    def choice_scores(self, pictures, questions, choices):
        raise NotImplementedError


def blank(count):
    return np.zeros((count, 4, 4, 3), np.uint8)


def test_the_score_is_the_product():
    model = Told({"a red book?": 0.5, "a yellow vase?": 0.25, "a cat?": 0.123456})
    prompts = ["a red book and a yellow vase", "a cat", "a cat"]
    found = blip_vqa(blank(3), prompts, model)
    assert found.scores.tolist() == [0.125, 0.1235, 0.1235]
    assert found.questions[0] == ("a red book?", "a yellow vase?")
    assert found.probabilities[1][0] == 0.123456
    assert found.version == "t2i-compbench-2"
    assert found.mean().value == pytest.approx((0.125 + 2 * 0.1235) / 3)


def test_versions_differ_in_words_of_place():
    prompt = "a cup on the left of the table"
    assert vqa_questions(prompt, "t2i-compbench-1") == ["a cup?", "the left?", "the table?"]
    assert vqa_questions(prompt, "t2i-compbench-2") == ["a cup?", "the table?"]
    with pytest.raises(OptionError, match="t2i-compbench-3"):
        vqa_questions(prompt, "t2i-compbench-3")


def test_the_score_as_a_scorer(monkeypatch):
    monkeypatch.setattr(module, "load_vqa", lambda name, device: Told({"a cat?": 0.5, name: 1.0}))
    assert load_judge("vqa:folder")(blank(2), ["a cat", "a cat"]).tolist() == [0.5, 0.5]
    with pytest.raises(OptionError, match="'nothing'"):
        load_judge("nothing")


def test_at_most_eight_questions():
    prompt = ", ".join(f"a dog{number}" for number in range(11))
    assert len(vqa_questions(prompt)) == FORMULAS["t2i-compbench-1"].most == 8


def test_seeds_are_averaged_before_resampling():
    scores = BlipVqaScores("v", np.array([0.0, 1.0, 0.5, 0.5]), ((),) * 4, (np.ones(1),) * 4)
    mean = scores.mean(seeds=2)
    assert (mean.value, mean.low, mean.high) == (0.5, 0.5, 0.5)
    with pytest.raises(OptionError, match="groups of 3"):
        scores.mean(seeds=3)


def test_what_cannot_be_scored_is_named():
    with pytest.raises(DataError, match="and the"):
        vqa_questions("and the")
    with pytest.raises(DataError, match="2 pictures and 1"):
        blip_vqa(blank(2), ["a cat"], Told({}))
    with pytest.raises(DataError, match="float64"):
        blip_vqa(np.zeros((1, 4, 4, 3)), ["a cat"], Told({}))


def test_spacy_pipelines_that_are_not_installed_are_named():
    with pytest.raises(ModelError, match="no_such_pipeline"):
        spacy_chunks("no_such_pipeline")


def test_importing_loads_no_model_library():
    """Nothing can be fetched at import: what could fetch it is not even there yet."""
    code = "import sys, pellucid.compose.blip_vqa as b; assert not {'transformers', 'spacy'} & set(sys.modules), b"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
