from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.statistics import bootstrap_difference, bootstrap_mean
from pellucid.t2i_edit.concepts import concept_prompts
from pellucid.t2i_edit.evaluation import Group, concept_groups, draw_both, evaluate, fid, score_change
from scipy.linalg import sqrtm
from torch import nn


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


class Colours(nn.Module):
    """Features: a fixed mix of the pictures' mean colours in quarters."""

    def __init__(self, width=5, offset=0.0):
        super().__init__()
        mix = torch.randn(12, width, generator=torch.Generator().manual_seed(1))
        self.mix, self.offset, self.seen = nn.Parameter(mix), offset, 0

    def forward(self, pictures):
        assert pictures.dtype == torch.uint8
        self.seen += len(pictures)
        quarters = nn.functional.adaptive_avg_pool2d(pictures.float() / 255, 2).flatten(1)
        return quarters @ self.mix + self.offset


def noise(count, low, high, seed):
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3), dtype=np.uint8)


def features_of(network, pictures):
    with torch.no_grad():
        return network(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())).double().numpy()


def closed_form(one, two):
    """FID by its formula, with scipy's matrix square root."""
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    gap = one.mean(0) - two.mean(0)
    return gap @ gap + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))


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


@pytest.mark.parametrize(("count", "other", "width"), [(150, 70, 5), (40, 90, 2), (6, 9, 12)])
def test_fid_is_the_closed_form(count, other, width):
    clean, edited, network = noise(count, 0, 200, 1), noise(other, 50, 255, 2), Colours(width)
    expected = closed_form(features_of(network, clean), features_of(network, edited))
    assert expected > 0.01
    assert fid(clean, edited, network) == pytest.approx(expected, rel=1e-3)


def test_fid_of_one_feature_by_hand():
    clean, edited, network = noise(40, 0, 200, 1), noise(90, 50, 255, 2), Colours(1)
    one, two = features_of(network, clean), features_of(network, edited)
    expected = (one.mean() - two.mean()) ** 2 + (one.std(ddof=1) - two.std(ddof=1)) ** 2
    assert fid(clean, edited, network) == pytest.approx(expected, rel=1e-3)


def test_fid_of_a_network_in_half_precision_keeps_its_digits():
    class Half(Colours):
        def forward(self, pictures):
            return super().forward(pictures).to(torch.bfloat16)

    clean, edited, network = noise(150, 0, 200, 1), noise(70, 50, 255, 2), Half()
    expected = closed_form(features_of(network, clean), features_of(network, edited))
    assert fid(clean, edited, network) == pytest.approx(expected, rel=1e-5)


def test_fid_with_itself_is_nothing_and_offsets_cancel():
    clean, edited = noise(100, 0, 200, 1), noise(100, 50, 255, 2)
    assert fid(clean, clean, Colours()) == pytest.approx(0, abs=1e-6)
    # Sums of large features would lose all digits in float32.
    assert fid(clean, edited, Colours(offset=1000.0)) == pytest.approx(fid(clean, edited, Colours()), rel=1e-3)


def test_fid_looks_at_each_picture_once_and_draws_no_random_numbers():
    network, before = Colours(), torch.get_rng_state()
    fid(noise(70, 0, 255, 1), noise(30, 0, 255, 2), network)
    assert network.seen == 101  # one more to learn the width
    assert torch.equal(before, torch.get_rng_state())


class Returning(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, pictures):
        return self.make(len(pictures))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda n: torch.zeros(n, 2, 2), OptionError, r"features of 1 pictures are \(1, 2, 2\)"),
        (lambda n: torch.zeros(2), OptionError, r"are \(2,\)"),
        (lambda n: "x", OptionError, "are str"),
        (lambda n: torch.full((n, 2), torch.nan), ModelError, "not finite"),
    ],
)
def test_networks_that_give_no_features(make, error, message):
    with pytest.raises(error, match=message):
        fid(noise(3, 0, 9, 0), noise(3, 0, 9, 0), Returning(make))


def test_wrong_input_of_fid():
    with pytest.raises(DataError, match="FID of 1 pictures"):
        fid(noise(3, 0, 9, 0), noise(1, 0, 9, 0), Colours())
    with pytest.raises(OptionError, match="features are 'inceptoin': give a network, or 'inception'"):
        fid(noise(3, 0, 9, 0), noise(3, 0, 9, 0), "inceptoin")


def test_the_inception_network_that_cannot_be_had(monkeypatch):
    import torchmetrics.image.fid as home

    def refused(*_, **__):
        raise OSError("<urlopen error no network>\nmore")

    monkeypatch.setattr(home, "FrechetInceptionDistance", refused)
    with pytest.raises(ModelError, match=r"cannot be had \(<urlopen error no network>\): pip install") as caught:
        fid(noise(3, 0, 9, 0), noise(3, 0, 9, 0), "inception")
    assert "\n" not in str(caught.value)
