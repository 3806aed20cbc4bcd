from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing_multimodal import tiny_multimodal
from pellucid.mllm_edit.answering import (
    answer_log_probability,
    answer_probabilities,
    answer_probability,
    generate_answers,
)
from pellucid.mllm_edit.inputs import prepare
from pellucid.mllm_edit.questions import VisualQuestion
from PIL import Image

ONE = VisualQuestion("a.png", "Which mill belongs to this person?", "this person", answers=("the red mill",))
TWO = replace(ONE, question="Which dish does this person cook in winter, then?")
SHOWN = [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40), (16, 16))]
QUESTIONS, ANSWERS = [ONE, TWO, ONE], ["the red mill", "soup", "a dog"]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "idefics3"])
def test_the_probability_is_the_product_over_the_answers_tokens(family: str) -> None:
    """The slow twin: one pass a token, each ending before it."""
    model = loaded(family)
    together = answer_log_probability(model, prepare(model, QUESTIONS, answers=ANSWERS, images=SHOWN))
    for number, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        inputs = prepare(model, [question], answers=[answer], images=[SHOWN[number]])
        [row] = inputs.rows
        total = 0.0
        for place, token in zip(row.answer, row.answer_ids, strict=True):
            length = inputs.model_inputs["input_ids"].shape[1]
            cut = {
                name: value[:, :place] if value.shape[:2] == (1, length) else value
                for name, value in inputs.model_inputs.items()
            }
            total += float(model.model(**cut, use_cache=False).logits[0, -1].log_softmax(-1)[token])
        assert len(row.answer) > 1
        assert float(together[number]) == pytest.approx(total, abs=1e-4)


def test_any_number_of_answers_some_at_a_time() -> None:
    model = loaded()
    whole = answer_probability(model, prepare(model, QUESTIONS, answers=ANSWERS, images=SHOWN))
    parts = answer_probabilities(model, QUESTIONS, ANSWERS, images=SHOWN, batch=2)
    torch.testing.assert_close(parts, whole, atol=1e-9, rtol=1e-4)
    assert whole.dtype == torch.float32


def test_a_gradient_reaches_what_asks_for_one() -> None:
    model = loaded()
    weight: Any = model.model.get_submodule("model.language_model.layers.1.mlp.down_proj").weight
    weight.requires_grad_(True)
    answer_log_probability(model, prepare(model, [ONE], answers=["soup"], images=SHOWN[:1])).sum().backward()
    assert weight.grad.abs().max() > 0


def test_answers_are_the_likeliest_tokens_one_by_one() -> None:
    model = loaded()
    tokenizer: Any = model.processor.tokenizer  # type: ignore[attr-defined]
    found = generate_answers(model, QUESTIONS, images=SHOWN, max_new_tokens=3, batch=2)
    for number, question in enumerate(QUESTIONS):
        given = dict(prepare(model, [question], images=[SHOWN[number]]).model_inputs)
        new: list[int] = []
        for step in range(3):
            chances = model.model(**given, use_cache=False).logits[0, -1].softmax(-1)
            if step == 0:
                assert found[number].confidence == pytest.approx(float(chances.max()), abs=1e-5)
            new.append(int(chances.argmax()))
            given["input_ids"] = torch.cat([given["input_ids"], torch.tensor([[new[-1]]])], 1)
            given["attention_mask"] = torch.ones_like(given["input_ids"])
        assert found[number].text == tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip()


def test_a_prompt_without_an_answer_has_no_probability() -> None:
    model = loaded()
    with pytest.raises(DataError, match="was prepared without an answer"):
        answer_probability(model, prepare(model, [ONE], images=SHOWN[:1]))
