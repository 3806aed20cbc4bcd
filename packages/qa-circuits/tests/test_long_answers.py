"""Rel-Score by hand and against single passes; what is left of a context without some spans."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits.long_answers import (
    LongAnswer,
    RelScore,
    log_probabilities,
    random_spans,
    rel_scores,
    relative_change,
    summarise,
    without,
)
from pellucid.qa_circuits.prompts import render
from pellucid.qa_circuits.spans import Span, sentences
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTEXT = "Ben owns Rex. Anna is tall. Rex barks.  Tom lives in Rome."


@pytest.fixture(scope="module")
def tokenizer():
    text = render(None, CONTEXT, "Who owns Rex ?").replace(".", " . ").replace("?", " ? ").replace(":", " : ")
    words = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(text.split())]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words[:97])}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def slow_log_p(model, tokenizer, context, question, response):
    """One unpadded pass a token."""
    ids = tokenizer(render(tokenizer, context, question))["input_ids"]
    total = 0.0
    for token in tokenizer(response)["input_ids"]:
        with torch.no_grad():
            total += float(model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[token])
        ids = [*ids, token]
    return total


def test_removed_spans_by_hand():
    one, two, three, four = sentences(CONTEXT)
    assert without(CONTEXT, []) == CONTEXT
    assert without(CONTEXT, [one]) == "Anna is tall. Rex barks.  Tom lives in Rome."
    assert without(CONTEXT, [three, two]) == "Ben owns Rex. Tom lives in Rome."
    assert without(CONTEXT, [four]) == "Ben owns Rex. Anna is tall. Rex barks."
    assert without(CONTEXT, [one, two, three, four]) == ""
    assert without("a b", [Span(1, 2)]) == "ab"


@given(st.lists(st.sampled_from(["One.", "Two is it.", "Three?"]), min_size=1, max_size=6), st.randoms())
def test_what_is_left_is_the_other_sentences(pieces, rng):
    text = " ".join(pieces)
    spans = sentences(text)
    gone = rng.sample(spans, rng.randint(0, len(spans)))
    assert without(text, gone) == " ".join(span.of(text) for span in spans if span not in gone)


def test_log_probabilities_equal_a_pass_a_token(tokenizer):
    model = tiny_decoder("llama")
    asked = [
        (CONTEXT, "Who owns Rex ?", "Ben owns Rex ."),
        ("", "Who is tall ?", "Anna"),
        ("Rex barks.", "Who is tall ?", "Tom lives in Rome ."),
    ]
    got = log_probabilities(model, tokenizer, asked, batch=2)
    assert got == pytest.approx([slow_log_p(model, tokenizer, *one) for one in asked], abs=1e-5)


def test_rel_scores_equal_the_formula(tokenizer):
    model = tiny_decoder("llama")
    spans = sentences(CONTEXT)
    answers = [
        LongAnswer(CONTEXT, "Who owns Rex ?", "Ben owns Rex .", (spans[0],)),
        LongAnswer(CONTEXT, "Who is tall ?", "Anna", (spans[1], spans[3])),
    ]
    got = rel_scores(model, tokenizer, answers, draws=2, seed=4)
    for answer, score in zip(answers, got, strict=True):
        rng = random.Random(f"4\n{answer.context}\n{answer.question}\n{answer.response}")
        drawn = [random_spans(CONTEXT, len(answer.spans), "sentence", rng) for _ in range(2)]
        whole, gone, *others = (
            slow_log_p(model, tokenizer, context, answer.question, answer.response)
            for context in [CONTEXT, *(without(CONTEXT, removed) for removed in (answer.spans, *drawn))]
        )
        assert score.log_p == pytest.approx(whole, abs=1e-5)
        assert score.attributed == pytest.approx(abs((whole - gone) / gone), abs=1e-5)
        assert score.random == pytest.approx(sum(abs((whole - o) / o) for o in others) / 2, abs=1e-5)
    assert rel_scores(model, tokenizer, answers[1:], draws=2, seed=4)[0].random == pytest.approx(
        got[1].random, abs=1e-6
    )


def test_relative_change_by_hand():
    assert relative_change(-1.0, -4.0) == 0.75
    assert relative_change(-4.0, -1.0) == 3.0
    assert math.isfinite(relative_change(-1.0, 0.0))


def test_random_spans_are_the_contexts_own_and_as_many():
    spans = sentences(CONTEXT)
    drawn = random_spans(CONTEXT, 2, "sentence", random.Random(0))
    assert len(set(drawn)) == 2
    assert set(drawn) <= set(spans)
    assert random_spans(CONTEXT, 9, "sentence", random.Random(0)) == tuple(spans)
    assert len(random_spans(CONTEXT, 3, 2, random.Random(0))) == 3


def test_summary_is_paired():
    scores = [RelScore(1.0 + i, 0.5 + i, -1.0) for i in range(20)]
    found = summarise(scores, seed=1)
    ends = (found.difference.low, found.difference.value, found.difference.high)
    assert ends == pytest.approx((0.5, 0.5, 0.5))
    assert found.attributed.low < found.random.value  # unpaired, the intervals overlap
    assert found.attributed.value - found.random.value == pytest.approx(0.5)


def test_bad_input(tokenizer):
    model = tiny_decoder("llama")
    span = (Span(0, 3),)
    for answer, options, error, message in [
        (LongAnswer(" ", "Who ?", "Ben", span), {}, DataError, "the context is empty"),
        (LongAnswer(CONTEXT, "Who ?", "Ben", ()), {}, DataError, "has no attributed spans"),
        (LongAnswer(CONTEXT, "Who ?", " ", span), {}, DataError, "leaves no tokens"),
        (LongAnswer("Rex . " * 400, "Who ?", "Ben", span), {}, OptionError, "the model reads 512"),
        (LongAnswer(CONTEXT, "Who ?", "Ben", span), {"draws": 0}, OptionError, "0 random draws"),
    ]:
        with pytest.raises(error, match=message):
            rel_scores(model, tokenizer, [answer], **options)
