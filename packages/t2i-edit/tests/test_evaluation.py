from contextlib import contextmanager

import numpy as np
import pytest
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import bootstrap_difference, bootstrap_mean
from pellucid.t2i_edit.concepts import concept_prompts
from pellucid.t2i_edit.evaluation import Group, concept_groups, draw_both, evaluate, score_change


class Model:
    """Draws a square whose brightness tells prompt, seed and whether the model is edited."""

    def __init__(self):
        self.edited, self.calls = False, 0

    def draw(self, prompts, seeds):
        self.calls += 1
        values = [
            len(prompt) + seed - (20 if self.edited and "gogh" in prompt else 0)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 4, 4, 3)).copy()

    @contextmanager
    def editing(self):
        self.edited = True
        yield
        self.edited = False


def brightness(pictures, captions):
    return pictures[:, 0, 0, 0].astype(np.float64)


def noise(count, low, high, seed):
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3), dtype=np.uint8)


def test_groups_of_a_style():
    gogh = concept_prompts("van gogh", "style", objects=["a house", "a tree"])
    other_words = concept_prompts("van gogh", "style", objects=["a house"], paraphrased=True)
    monet = concept_prompts("monet", "style", objects=["a house"])
    groups = concept_groups(gogh, paraphrased=other_words, surrounding=[monet])
    assert groups == (
        Group("edited", gogh.prompts, ("van gogh", "van gogh"), "down"),
        Group("paraphrased", ("a house painted by van gogh", "a house by van gogh"), ("van gogh",) * 2, "down"),
        Group("surrounding: monet", ("a house in the style of monet",), ("monet",), "same"),
    )
    whole = concept_groups(gogh, surrounding=[monet], against="prompt")
    assert [group.captions for group in whole] == [gogh.prompts, monet.prompts]
    with pytest.raises(OptionError, match="'Van Gogh' is the concept that is edited"):
        concept_groups(gogh, surrounding=[concept_prompts("Van Gogh", "style")])


def test_groups_of_a_fact_are_scored_against_the_new_answer():
    fact = concept_prompts("the king", "fact", target="the queen", settings=["in the city"])
    assert concept_groups(fact) == (Group("edited", ("a photo of the king in the city",), ("the queen",), "up"),)
    new, old = concept_groups(fact, against="prompt")
    assert (new.captions, new.wanted) == (("a photo of the queen in the city",), "up")
    assert (old.captions, old.wanted) == (("a photo of the king in the city",), "down")


def test_both_models_draw_the_same_noise():
    model = Model()
    clean, edited = draw_both(model.draw, model.editing, ["gogh and more, more", "monet"], [40, 50])
    assert clean[:, 0, 0, 0].tolist() == [59, 69, 45, 55]
    assert edited[:, 0, 0, 0].tolist() == [39, 49, 45, 55]
    assert not model.edited
    with pytest.raises(OptionError, match="2 prompts and 0 seeds"):
        draw_both(model.draw, model.editing, ["a", "b"], [])


def test_changes_by_hand():
    group = Group("edited", ("a", "b"), ("x", "y"), "down")
    clean, edited = (
        np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
        for values in ([10, 20, 30, 50], [5, 5, 20, 40])
    )
    asked = []

    def scorer(pictures, captions):
        asked.append(list(captions))
        return brightness(pictures, captions)

    found = score_change(group, clean, edited, scorer, seed=3)
    assert asked == [["x", "x", "y", "y"]] * 2
    # Averages over the two seeds of each prompt: 15 and 40 before, 5 and 30 after.
    assert found.before == bootstrap_mean([15, 40], 3)
    assert found.after == bootstrap_mean([5, 30], 3)
    assert found.difference == bootstrap_difference([5, 30], [15, 40], 3, paired=True)
    assert found.difference.value == found.difference.low == found.difference.high == -10
    assert (found.group, found.wanted, found.count) == ("edited", "down", 4)


def test_evaluating_all_groups_with_several_scorers():
    model = Model()
    gogh, monet = (concept_prompts(name, "style", objects=["a house", "a tree"]) for name in ("van gogh", "monet"))
    found = evaluate(
        concept_groups(gogh, surrounding=[monet]),
        model.draw,
        model.editing,
        {"bright": brightness, "dark": lambda pictures, captions: -brightness(pictures, captions)},
        seeds=[0, 1, 2],
    )
    assert model.calls == 4
    assert [change.group for change in found["bright"]] == ["edited", "surrounding: monet"]
    assert [change.difference.value for change in found["bright"]] == [-20, 0]
    assert [change.difference.value for change in found["dark"]] == [20, 0]
    assert found["bright"][0].count == 6


def test_wrong_groups_and_pictures():
    with pytest.raises(DataError, match="2 prompts and 1 captions"):
        Group("edited", ("a", "b"), ("x",), "down")
    group = Group("edited", ("a", "b"), ("x", "y"), "down")
    for clean, edited in ((3, 3), (2, 4), (0, 0)):
        with pytest.raises(DataError, match=f"2 prompts, {clean} clean and {edited} edited pictures"):
            score_change(group, noise(clean, 0, 9, 0), noise(edited, 0, 9, 0), brightness, seed=0)
    with pytest.raises(DataError, match="give uint8"):
        score_change(group, np.zeros((2, 2, 2, 3)), noise(2, 0, 9, 0), brightness, seed=0)
    with pytest.raises(DataError, match="finite"):
        score_change(group, noise(2, 0, 9, 0), noise(2, 0, 9, 0), lambda *_: np.full(2, np.nan), seed=0)
