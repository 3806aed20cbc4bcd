"""The four baselines: what they ask, what they make of a quotation, cosines, and gradients against differences."""

from pathlib import Path

import pytest
import torch
from pellucid.core.errors import DataError, ModelError, OptionError
from pellucid.core.loading import load
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits import baselines
from pellucid.qa_circuits.asking import answered, sources
from pellucid.qa_circuits.baselines import (
    embedding_gradients,
    gradient,
    iterative_prompt,
    ranked_by_quote,
    self_attribution,
    sentence_similarity,
)
from pellucid.qa_circuits.prompts import render, render_located
from pellucid.qa_circuits.sentence_encoder import SentenceEncoder
from pellucid.qa_circuits.spans import Span, sentences, tokens_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

CONTEXT = "Ben owns Rex. Anna is tall. Rex barks. Tom lives in Rome."
QUESTION = "Who owns Rex?"
TEMPLATE = "{% for m in messages %}<s> {{ m['role'] }} : {{ m['content'] }} {% endfor %}<s> assistant :"


def words_tokenizer(template=None):
    text = f"{render(None, CONTEXT, QUESTION)} user assistant Sentence"
    split = pre_tokenizers.Whitespace()
    words = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(word for word, _ in split.pre_tokenize_str(text))]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words[:97])}, unk_token="<unk>"))
    raw.pre_tokenizer = split
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        chat_template=template, model_max_length=40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    config = BertConfig(
        vocab_size=97, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=34,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return SentenceEncoder.load(folder)


# Prompts and quotations


def test_the_examples_sources_hold_their_answers():
    assert sources() == ("The favourite food of Ben is soup.", "The head office of Apple is in Lima.")


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_what_the_model_writes_is_looked_for_in_the_context(monkeypatch, style):
    asked = []

    def complete(model, tokenizer, prompts, length):
        asked.append((tokenizer.decode(prompts[0]), length))
        return [" Tom lives in Rome. \n\nContext: Anna is tall."]

    monkeypatch.setattr(baselines, "complete", complete)
    model, tokenizer = tiny_decoder("llama"), words_tokenizer(TEMPLATE)
    found = self_attribution(model, tokenizer, CONTEXT, QUESTION, style=style, k=2, max_new_tokens=9)
    assert [piece.span.of(CONTEXT) for piece in found] == ["Tom lives in Rome.", "Ben owns Rex."]
    assert [piece.score for piece in found] == [1.0, 0.0]
    told = iterative_prompt(model, tokenizer, CONTEXT, QUESTION, " Rome ", style=style, spans=2)
    assert told[0].span.of(CONTEXT) == "Tom lives"
    assert len(told) == 3
    (first, length), (second, _) = asked
    assert length == 9
    assert first.count("<s>") == second.count("<s>") == (1 if style == "plain" else 6)
    assert "Answer : Rome" in second
    assert "Answer" not in first
    assert all("Question : Who owns Rex" in text for text in (first, second))


def test_a_quotation_scores_by_the_words_it_shares():
    one, two, three, four = sentences(CONTEXT)
    best = ranked_by_quote(CONTEXT, "“rex BARKS”, and Ben owns Rex", k=4)
    assert [piece.span for piece in best] == [one, three, two, four]
    assert [piece.score for piece in best] == [pytest.approx(2 * 3 / (3 + 6)), pytest.approx(2 * 2 / (2 + 6)), 0, 0]
    assert ranked_by_quote("It is — there. No.", "—", spans=1)[0].span == Span(6, 7)
    assert {piece.score for piece in ranked_by_quote(CONTEXT, "")} == {0.0}


# Similarity


def test_encodings_equal_the_mean_of_each_text_alone(encoder):
    texts = ["Ben owns Rex.", "Anna", CONTEXT + " " + CONTEXT]
    got = encoder.encode(texts)
    for text, vector in zip(texts, got, strict=True):
        ids = encoder.tokenizer(text)["input_ids"][:32]
        with torch.no_grad():
            mean = encoder.model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=0)


def test_the_sentence_most_alike_comes_first(encoder):
    found = sentence_similarity(encoder, CONTEXT, "Anna is tall.", k=4)
    assert found[0].span == sentences(CONTEXT)[1]
    assert found[0].score == pytest.approx(1, abs=1e-5)
    vectors = encoder.encode([piece.span.of(CONTEXT) for piece in found])
    cosines = vectors @ encoder.encode(["Anna is tall."])[0]
    assert [piece.score for piece in found] == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=1e-5)


def test_an_encoder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ModelError, match="no such folder"):
        SentenceEncoder.load(tmp_path / "none")
    with pytest.raises(ModelError, match=r"cannot be loaded .*give a folder, or zoo:minilm"):
        SentenceEncoder.load(tmp_path)


# Gradient


@pytest.mark.parametrize("family", DECODERS)
def test_gradients_equal_differences_in_the_embeddings(family):
    model = tiny_decoder(family).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (9,), generator=generator).tolist()
    got = embedding_gradients(model, ids, 6)
    assert got.shape == (9,)
    assert got[-1] == 0
    assert not any(parameter.requires_grad for parameter in model.parameters())

    def loss(move):
        hook = model.get_input_embeddings().register_forward_hook(lambda _, __, out: out + move)
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        hook.remove()
        return -sum(float(log_p[t - 1, ids[t]]) for t in range(6, 9))

    step = 3e-3  # norms and softmax run in float32 whatever the model
    for token in (0, 4, 7):
        slopes = []
        for channel in range(32):
            move = torch.zeros(1, 9, 32, dtype=torch.float64)
            move[0, token, channel] = step
            slopes.append((loss(move) - loss(-move)) / (2 * step))
        assert float(got[token]) == pytest.approx(torch.tensor(slopes).norm().item(), rel=3e-3)


def test_a_span_scores_its_steepest_token():
    model, tokenizer = tiny_decoder("llama"), words_tokenizer()
    found = gradient(model, tokenizer, CONTEXT, QUESTION, "Ben", k=9)
    ids, start = answered(tokenizer, CONTEXT, QUESTION, "Ben")
    assert tokenizer.decode(ids[start:]) == "Ben"
    norms = embedding_gradients(model, ids, start)
    prompt, place = render_located(tokenizer, CONTEXT, QUESTION)
    located = tokens_of(tokenizer, prompt, place)
    for piece in found:
        inside = [
            float(norms[located.first + i])
            for i, (a, b) in enumerate(located.offsets)
            if piece.span.start <= a < b <= piece.span.stop
        ]
        assert piece.score == pytest.approx(max(inside), rel=1e-5)
    assert [piece.score for piece in found] == sorted((piece.score for piece in found), reverse=True)
    assert {piece.span for piece in found} == set(sentences(CONTEXT))


def test_an_offloaded_model_has_no_gradient(tmp_path: Path):
    tiny_decoder("llama").save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    loaded = load(tmp_path, max_memory={"cpu": "20KB"}, offload_folder=str(tmp_path / "disk"))
    with pytest.raises(OptionError, match="some are offloaded: allow more memory"):
        gradient(loaded.model, loaded.tokenizer, CONTEXT, QUESTION, "Ben")


def test_a_model_in_four_bits_has_one(tmp_path: Path):
    tiny_decoder("llama", hidden_size=64).save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    loaded = load(tmp_path, quantize="nf4")
    found = gradient(loaded.model, loaded.tokenizer, CONTEXT, QUESTION, "Ben", k=4)
    assert all(0 < piece.score < float("inf") for piece in found)


def test_bad_input(encoder):
    model, tokenizer = tiny_decoder("llama"), words_tokenizer()
    for ask in (
        lambda text: self_attribution(model, tokenizer, text, QUESTION),
        lambda text: iterative_prompt(model, tokenizer, text, QUESTION, "Ben"),
        lambda text: sentence_similarity(encoder, text, "Ben"),
        lambda text: gradient(model, tokenizer, text, QUESTION, "Ben"),
    ):
        with pytest.raises(DataError, match="the context is empty"):
            ask(" \n ")
    long = "Rex barks. " * 300
    for ask in (
        lambda: self_attribution(model, tokenizer, long, QUESTION),
        lambda: iterative_prompt(model, tokenizer, long, QUESTION, "Ben"),
        lambda: gradient(model, tokenizer, long, QUESTION, "Ben"),
    ):
        with pytest.raises(OptionError, match="the model reads 512: give a shorter context"):
            ask()
    with pytest.raises(DataError, match="leaves no tokens"):
        gradient(model, tokenizer, CONTEXT, QUESTION, " ")
    with pytest.raises(OptionError, match="needs a tokenizer with a chat template"):
        self_attribution(model, tokenizer, CONTEXT, QUESTION, style="chat")
