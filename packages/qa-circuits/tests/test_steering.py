"""Each way of steering does what its parts do alone; what lacks something is told."""

from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing import tiny_decoder, word_tokenizer
from pellucid.qa_circuits.ablation import ablating, mean_writes
from pellucid.qa_circuits.attribution import attribute
from pellucid.qa_circuits.components import Component
from pellucid.qa_circuits.context_aware import complete_context_aware
from pellucid.qa_circuits.prompts import complete, first_line, render, render_located
from pellucid.qa_circuits.spans import ScoredSpan, sentences, tokens_of
from pellucid.qa_circuits.steering import METHODS, Steering, attributed_prompt, steered_replies
from pellucid.qa_circuits.upweighting import context_mask, upweighting
from tokenizers import pre_tokenizers

ASKED = [("Ben owns Rex. Anna is tall.", "Who owns Rex?"), ("Rex barks. Tom lives in Rome. Anna sings.", "Where?")]
FULL = Steering(head=(1, 2), layers=(0, 2), mlps=(1, 2), beta=5.0, alpha=1.0, spans="sentence", k=1)
TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} {% endfor %}<s> assistant :"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_decoder("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    text = " ".join(render(None, *pair) for pair in ASKED) + " Most relevant user assistant"  # type: ignore[arg-type]
    return word_tokenizer(text, chat_template=TEMPLATE)


def replies(model: Any, tokenizer: Any, method: Any, **options: Any) -> list[str]:
    return steered_replies(model, tokenizer, ASKED, method, FULL, length=6, **options)


def plainly(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    return [first_line(text) for text in complete(model, tokenizer, [tokenizer(t)["input_ids"] for t in texts], 6)]


def test_plain_is_the_usual_prompt(model: Any, tokenizer: Any) -> None:
    assert replies(model, tokenizer, "plain") == plainly(model, tokenizer, [render(tokenizer, *p) for p in ASKED])


def test_attributed_points_out_what_the_head_found(model: Any, tokenizer: Any) -> None:
    prompts = []
    for context, question in ASKED:
        found = attribute(model, tokenizer, context, question, head=(1, 2), k=1, max_new_tokens=6)
        prompts.append(attributed_prompt(tokenizer, context, question, found.spans))
    assert replies(model, tokenizer, "attributed") == plainly(model, tokenizer, prompts)


def test_the_attributed_prompt_reads_in_the_texts_order(tokenizer: Any) -> None:
    context, question = ASKED[1]
    one, two, three = sentences(context)
    prompt = attributed_prompt(tokenizer, context, question, [ScoredSpan(three, 0.9), ScoredSpan(one, 0.5)])
    assert prompt.endswith(f"\n\nContext: {context}\nMost relevant: Rex barks. Anna sings.\nQuestion: Where?\nAnswer:")
    assert "Most relevant: The favourite food of Ben is soup.\nQuestion: What is the favourite food of Ben?" in prompt
    chat = attributed_prompt(tokenizer, context, question, [ScoredSpan(two, 0.9)], "chat")
    assert chat.count("<s>") == 6
    assert "Most relevant: Tom lives in Rome.\nQuestion: Where?\nAnswer: <s> assistant :" in chat


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_upweighted_marks_each_context_in_its_padded_row(model: Any, tokenizer: Any, style: Any) -> None:
    expected = []
    for context, question in ASKED:
        prompt, place = render_located(tokenizer, context, question, style)
        located = tokens_of(tokenizer, prompt, place, special=style == "plain")
        marks = context_mask([len(located.ids)], [(located.first, located.stop)])
        assert tokenizer.decode(torch.tensor(located.ids)[marks[0]]) == " ".join(
            word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(context)
        )
        with upweighting(model, [0, 2], marks, 5.0):
            expected += [first_line(text) for text in complete(model, tokenizer, [located.ids], 6)]
    assert replies(model, tokenizer, "upweighted", style=style) == expected


def test_zeroed_ablates_the_memory_mlps(model: Any, tokenizer: Any) -> None:
    with ablating(model, [Component("mlp", 1), Component("mlp", 2)], "zero"):
        expected = plainly(model, tokenizer, [render(tokenizer, *p) for p in ASKED])
    assert replies(model, tokenizer, "zeroed") == expected


def test_mean_ablated_puts_the_means_in_the_mlps_place(model: Any, tokenizer: Any) -> None:
    components = [Component("mlp", 1), Component("mlp", 2)]
    means = mean_writes(model, tokenizer, [("Anna owns Rome.", "Who is tall?")], components)
    with ablating(model, components, "mean", means):
        expected = plainly(model, tokenizer, [render(tokenizer, *p) for p in ASKED])
    assert replies(model, tokenizer, "mean_ablated", means=means) == expected
    with pytest.raises(OptionError, match="needs the mean of mlp 1"):
        replies(model, tokenizer, "mean_ablated")


def test_context_aware_takes_its_alpha(model: Any, tokenizer: Any) -> None:
    expected = [first_line(text) for text in complete_context_aware(model, tokenizer, ASKED, 6, alpha=1.0)]
    assert replies(model, tokenizer, "context_aware") == expected


def test_the_ways_differ_and_leave_the_model_as_it_was(model: Any, tokenizer: Any) -> None:
    before = replies(model, tokenizer, "plain")
    steered = {method: tuple(replies(model, tokenizer, method)) for method in METHODS if method != "mean_ablated"}
    assert len(set(steered.values())) >= 4
    assert replies(model, tokenizer, "plain") == before


def test_what_is_lacking_is_told(model: Any, tokenizer: Any) -> None:
    for method, need in [
        ("attributed", "head"),
        ("upweighted", "layers"),
        ("zeroed", "mlps"),
        ("mean_ablated", "mlps"),
    ]:
        with pytest.raises(OptionError, match=f"'{method}' needs '{need}'"):
            Steering().check(method)
        assert FULL.check(method) == method
    assert Steering().check("plain") == "plain"
    with pytest.raises(OptionError, match="no method 'magic': choose from plain, attributed"):
        FULL.check("magic")
    with pytest.raises(DataError, match="nothing is asked"):
        steered_replies(model, tokenizer, [], "plain", FULL)
    with pytest.raises(DataError, match="the context is empty"):
        steered_replies(model, tokenizer, [(" ", "Who?")], "plain", FULL)
    with pytest.raises(OptionError, match="the model reads 256"):
        steered_replies(model, tokenizer, [("Rex barks. " * 99, "Who?")], "plain", FULL)
