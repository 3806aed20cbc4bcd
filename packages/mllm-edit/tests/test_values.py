import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, OptionError, SiteError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.multimodal_anatomy import language_anatomy
from pellucid.core.testing_multimodal import tiny_multimodal
from pellucid.core.tracing import capture, patch
from pellucid.mllm_edit.answering import answer_log_probability
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.questions import VisualQuestion
from pellucid.mllm_edit.values import Search, Token, optimise_values
from PIL import Image
from torch import Tensor

ONE = VisualQuestion("a.png", "Which mill belongs to this person?", "this person")
QUESTIONS = [ONE, replace(ONE, question="Which dish does this person cook in winter, then?"), ONE]
ANSWERS = ["the red mill", "soup", "a dog"]
SHOWN = [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40), (16, 16))]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def one_by_one(model: LoadedMultimodal, number: int, layer: int, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """The slow twin: the whole model, picture and all, at every step, one question alone."""
    inputs = prepare(model, [QUESTIONS[number]], answers=[ANSWERS[number]], images=[SHOWN[number]])
    anatomy, [row] = language_anatomy(model.model), inputs.rows
    places = [row.visual[-1]] if search.token == "constraint" else [place - 1 for place in row.answer]
    with torch.no_grad(), capture(model.model, [anatomy.keys(layer), anatomy.values(layer)]) as seen:
        model.model(**inputs.model_inputs)
    keys, before = (seen[site][0][0, places] for site in (anatomy.keys(layer), anatomy.values(layer)))
    moved = torch.zeros_like(before, requires_grad=True)
    optimiser = torch.optim.Adam([moved], search.rate, weight_decay=search.decay)

    def written(output: Tensor, _: int) -> Tensor:
        changed = output.clone()
        changed[0, places] = before + moved
        return changed

    for _ in range(search.steps):
        optimiser.zero_grad()
        with patch(model.model, {anatomy.values(layer): written}):
            (-answer_log_probability(model, inputs).sum()).backward()
        optimiser.step()
    return keys, before, (before + moved).detach()


CASES: list[tuple[str, Token]] = [
    *((family, "constraint") for family in ("llava", "llava_phi", "llava_next", "llava_onevision", "idefics3")),
    ("llava", "answer"),
    ("qwen2_vl", "answer"),
]


@pytest.mark.parametrize(("family", "token"), CASES)
def test_values_are_those_of_the_whole_model_one_question_at_a_time(family: str, token: Token) -> None:
    model, search = loaded(family), Search(token, steps=4, rate=0.05, decay=0.1, batch=2)
    found = optimise_values(model, QUESTIONS, ANSWERS, 1, search=search, images=SHOWN)
    for number in range(3):
        keys, before, values = one_by_one(model, number, 1, search)
        its = found.question == number
        assert (len(keys) == 1) == (token == "constraint")
        torch.testing.assert_close(found.keys[its], keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.before[its], before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.values[its], values, atol=1e-3, rtol=1e-3)


def test_the_tokens_of_an_answer_need_no_constraint() -> None:
    model, bare = loaded(), replace(ONE, visual="")
    found = optimise_values(model, [bare], ["soup"], 1, search=Search("answer", steps=2), images=SHOWN[:1])
    same = optimise_values(model, [ONE], ["soup"], 1, search=Search("answer", steps=2), images=SHOWN[:1])
    assert torch.equal(found.values, same.values)


def test_losses_are_those_of_whole_answers_and_fall() -> None:
    model = loaded()
    found = optimise_values(model, QUESTIONS, ANSWERS, 0, search=Search(steps=10), images=SHOWN)
    inputs = prepare(model, QUESTIONS, answers=ANSWERS, images=SHOWN)
    assert found.losses.shape == (11, 3)
    torch.testing.assert_close(found.losses[0], -answer_log_probability(model, inputs), atol=1e-4, rtol=1e-4)
    assert (found.losses[-1] < found.losses[0]).all()


def test_nothing_of_the_model_is_changed() -> None:
    model = loaded()
    before = {name: part.clone() for name, part in model.model.named_parameters()}
    optimise_values(model, [ONE], ["soup"], 1, search=Search(steps=2), images=SHOWN[:1])
    for name, part in model.model.named_parameters():
        assert torch.equal(part, before[name])
        assert part.grad is None
        assert not part.requires_grad


def test_a_clamp_bounds_how_far_a_value_moves() -> None:
    model = loaded()
    free, clamped = (
        optimise_values(model, QUESTIONS, ANSWERS, 1, search=Search(steps=5, clamp=clamp), images=SHOWN)
        for clamp in (None, 1e-4)
    )
    lengths = clamped.before.norm(dim=1)
    assert ((clamped.values - clamped.before).norm(dim=1) <= 1.01e-4 * lengths).all()
    assert ((free.values - free.before).norm(dim=1) > 1e-2 * lengths).all()


def test_what_cannot_be_searched_says_so() -> None:
    model = loaded()
    with pytest.raises(DataError, match="names no visual constraint"):
        optimise_values(model, [replace(ONE, visual="")], ["soup"], 1, images=SHOWN[:1])
    with pytest.raises(DataError, match="there are 1 answers for 3 questions"):
        optimise_values(model, QUESTIONS, ["soup"], 1, images=SHOWN)
    with pytest.raises(SiteError, match="has no layer 9"):
        optimise_values(model, [ONE], ["soup"], 9, images=SHOWN[:1])
    model.model.get_output_embeddings().weight[5] = math.nan
    with pytest.raises(DataError, match=r"is no number at step 0: give a lower rate than 0\.1"):
        optimise_values(model, [ONE], ["soup"], 1, images=SHOWN[:1])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"token": "subject"}, "token='subject'"),
        ({"steps": 0}, "steps=0"),
        ({"batch": 0}, "batch=0"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": math.nan}, "rate=nan"),
        ({"decay": -1.0}, "decay=-1.0"),
        ({"clamp": 0.0}, "clamp=0.0"),
    ],
)
def test_options_that_cannot_work(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Search(**fields)
