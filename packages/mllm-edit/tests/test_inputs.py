from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.loading import Loaded, ModelSpec
from pellucid.core.multimodal import LoadedMultimodal
from pellucid.core.testing import tiny_decoder
from pellucid.core.testing_multimodal import FAMILIES, tiny_multimodal
from pellucid.mllm_edit.inputs import aligned, prepare
from pellucid.mllm_edit.prompts import Style
from pellucid.mllm_edit.questions import VisualQuestion
from PIL import Image

ONE = VisualQuestion("a.png", "Which mill belongs to this person?", "this person", answers=("the red mill",))
TWO = VisualQuestion(
    "b.png", "Which dish does this person cook in winter, then?", "this person", ("winter",), ("soup",)
)
ANSWERS = ["the red mill", "soup"]


def loaded(family: str = "llava") -> LoadedMultimodal:
    return LoadedMultimodal(*tiny_multimodal(family), ModelSpec("tiny"))


def pictures() -> list[Image.Image]:
    """Wide and high, so that models that cut pictures up make different numbers of tokens of them."""
    return [Image.effect_noise(size, 80).convert("RGB") for size in ((31, 20), (18, 40))]


def said(model: LoadedMultimodal, ids: torch.Tensor, places: tuple[int, ...]) -> str:
    tokenizer: Any = model.processor.tokenizer  # type: ignore[attr-defined]
    return str(tokenizer.decode(ids[list(places)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_place_holds_what_it_should(family: str) -> None:
    model = loaded(family)
    inputs = prepare(model, [ONE, TWO], answers=ANSWERS, images=pictures())
    config: Any = model.model.config
    ids = inputs.model_inputs["input_ids"]
    for row, line, mask, answer in zip(inputs.rows, ids, inputs.model_inputs["attention_mask"], ANSWERS, strict=True):
        assert row.image == tuple((line == config.image_token_id).nonzero().flatten().tolist())
        assert row.start == len(line) - int(mask.sum())
        assert said(model, line, row.visual) == " this person"
        assert [said(model, line, span) for span in row.textual] == [f" {one}" for one in row.question.textual]
        assert said(model, line, (row.last,)) == ":"
        assert said(model, line, row.answer) == f" {answer}"
        assert row.answer == tuple(range(row.last + 1, len(line)))
        assert row.answer_ids == tuple(line[list(row.answer)].tolist())
        assert row.places.constraint == row.visual
    # The model takes them as they are: as many image tokens as it makes features.
    assert model.model(**inputs.model_inputs, use_cache=False).logits.shape[:2] == ids.shape


def test_the_number_of_image_tokens_is_read() -> None:
    counts = {
        family: [len(row.image) for row in prepare(loaded(family), [ONE, TWO], images=pictures()).rows]
        for family in FAMILIES
    }
    assert counts["llava"] == [9, 9]
    assert counts["llava_phi"] == [16, 16]
    for family in ("llava_next", "llava_onevision", "qwen2_vl", "idefics3"):
        assert counts[family][0] != counts[family][1]


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "idefics3"])
def test_places_alone_are_those_of_the_batch_without_its_padding(family: str) -> None:
    model, shown = loaded(family), pictures()
    together = prepare(model, [ONE, TWO], answers=ANSWERS, images=shown)
    for number, row in enumerate(together.rows):
        alone = prepare(model, [row.question], answers=[ANSWERS[number]], images=[shown[number]]).rows[0]
        for part in ("image", "visual", "answer"):
            assert getattr(alone, part) == tuple(place - row.start for place in getattr(row, part))
        assert alone.last == row.last - row.start


def test_a_prompt_is_the_beginning_of_the_prompt_with_its_answer() -> None:
    model = loaded()
    [ask], [full] = (
        prepare(model, [ONE], answers=answers, images=pictures()[:1]).rows for answers in (None, ["the red mill"])
    )
    assert full.text == f"{ask.text} the red mill"
    assert ask.answer == ()
    assert (ask.last, ask.visual) == (full.last, full.visual)


def test_questions_in_words_need_no_picture() -> None:
    question = replace(ONE, image="", question="Which mill belongs to Anna?", visual="Anna")
    model = loaded()
    alone = Loaded(tiny_decoder("llama", vocabulary=600), model.processor.tokenizer, ModelSpec("tiny"))  # type: ignore[attr-defined]
    for one in (model, alone):
        inputs = prepare(one, [question], answers=["the red mill"])
        assert set(inputs.model_inputs) == {"input_ids", "attention_mask"}
        assert inputs.rows[0].image == ()
        assert said(model, inputs.model_inputs["input_ids"][0], inputs.rows[0].visual) == " Anna"


def test_styles() -> None:
    model = loaded()
    [row] = prepare(model, [ONE], images=pictures()[:1], style=Style("Answer in a few words.")).rows
    assert row.text == "USER: <image>\nWhich mill belongs to this person?\nAnswer in a few words. ASSISTANT:"
    [row] = prepare(model, [ONE], images=pictures()[:1], style=Style(template="{image}Q: {question} A:")).rows
    assert row.text == "<image>\nQ: Which mill belongs to this person? A:"
    # A model without a chat template of its own gets LLaVA's words.
    [row] = prepare(loaded("llava_phi"), [ONE], images=pictures()[:1]).rows
    assert row.text == "USER: <image>\nWhich mill belongs to this person? ASSISTANT:"
    with pytest.raises(OptionError, match="once, where the question goes"):
        Style(template="{image}")
    with pytest.raises(OptionError, match="does not hold the picture"):
        prepare(model, [ONE], images=pictures()[:1], style=Style(template="Q: {question}"))


@given(
    before=st.lists(st.integers(2, 9), max_size=6),
    after=st.lists(st.integers(2, 9), max_size=6),
    pictured=st.lists(st.integers(0, 1), min_size=1, max_size=5),
)
def test_tokens_around_the_picture_are_found_again(before: list[int], after: list[int], pictured: list[int]) -> None:
    plain, full = [*before, 1, *after], [*before, *pictured, *after]
    places = aligned(plain, full)
    assert places[: len(before)] == list(range(len(before)))
    gap = len(full) - len(plain)
    assert places[len(before) + 1 :] == [k + gap for k in range(len(before) + 1, len(plain))]


def test_bad_questions() -> None:
    model, shown = loaded(), pictures()[:1]
    with pytest.raises(DataError, match="visual constraint 'that person' is not in the question"):
        prepare(model, [replace(ONE, visual="that person")], images=shown)
    with pytest.raises(DataError, match="textual constraint 'summer' is not in the question"):
        prepare(model, [replace(TWO, textual=("summer",))], images=shown)
    with pytest.raises(DataError, match=r"makes 2 image placeholders \(<image>\) for 1 pictures"):
        prepare(model, [replace(ONE, question="<image> Which mill belongs to this person?")], images=shown)
    for empty in ("", "  "):
        with pytest.raises(DataError, match="has no tokens"):
            prepare(model, [ONE], answers=[empty], images=shown)
    with pytest.raises(DataError, match="there is no question"):
        prepare(model, [])
    with pytest.raises(DataError, match="2 answers for 1 questions"):
        prepare(model, [ONE], answers=ANSWERS, images=shown)
    with pytest.raises(DataError, match="keep them apart"):
        prepare(model, [ONE, replace(ONE, image="")])


def test_a_language_model_reads_no_pictures() -> None:
    model = Loaded(tiny_decoder("llama"), loaded().processor.tokenizer, ModelSpec("tiny"))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="LlamaForCausalLM reads no pictures"):
        prepare(model, [ONE])


def test_pictures_that_cannot_be_read() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        prepare(loaded(), [ONE])


def test_a_space_that_is_a_token_belongs_to_the_word_after_it() -> None:
    question = replace(ONE, question="Which mill belongs to Everest?", visual="Everest")
    model = loaded()
    inputs = prepare(model, [question], answers=["Everest"], images=pictures()[:1])
    [row] = inputs.rows
    assert said(model, inputs.model_inputs["input_ids"][0], row.visual) == " Everest"
    assert said(model, inputs.model_inputs["input_ids"][0], row.answer) == " Everest"
    assert said(model, inputs.model_inputs["input_ids"][0], (row.visual[0],)) == " "
