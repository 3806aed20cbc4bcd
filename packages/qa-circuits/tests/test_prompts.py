import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, OptionError, PellucidError
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits.probes import Probe
from pellucid.qa_circuits.prompts import (
    EXAMPLES,
    batches,
    check_style,
    complete,
    encode,
    first_line,
    keeps_to_context,
    pad_left,
    render,
    render_answered,
    render_located,
)
from pellucid.qa_circuits.spans import tokens_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}SPACE{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
PROBES = [
    Probe("Rex", "Who owns Rex?", "Anna", "Ben", "Anna owns Rex.", "Ben owns Rex.", "Eve owns Tom.", "Who owns Tom?"),
    Probe(
        "Tom", "Where does Tom live?", "Rome", "New York", "Tom lives in Rome. Anna owns Tom.",
        "Tom lives in New York. Anna owns Tom.", "Rex lives in Oslo. Anna owns Rex.", "Where does Rex live?",
    ),
]  # fmt: skip
CORPUS = [text for p in PROBES for text in (p.context, p.modified_context, p.corrupted_context, p.question)] * 3


def wrap(raw: Tokenizer, template: str | None = None) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )


def add_bos(raw: Tokenizer, *, eos: bool = False) -> None:
    ids = [(token, raw.token_to_id(token)) for token in ("<s>", "</s>")]
    raw.post_processor = processors.TemplateProcessing(single=f"<s> $A{' </s>' if eos else ''}", special_tokens=ids)


def byte_level(template: str | None = None, *, eos: bool = False) -> Any:
    """A tokenizer in the manner of GPT-2: a space belongs to the word that follows it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    add_bos(raw, eos=eos)
    return wrap(raw, template)


def sentencepiece(template: str | None = None) -> Any:
    """A tokenizer in the manner of Llama 2: a text standing alone gets a space in front."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    letters = [*sorted(set("".join(CORPUS)) | set(map(chr, range(33, 127)))), "▁", "\n"]
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters, show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    add_bos(raw)
    return wrap(raw, template)


# Tokenizer, style, template, and what stands between prompt and answer.
KINDS = {
    "byte-level, plain": (byte_level, "plain", None, " "),
    "byte-level, chat": (byte_level, "chat", TEMPLATE.replace("SPACE", ""), ""),
    "byte-level, chat with a space": (byte_level, "chat", TEMPLATE.replace("SPACE", " "), " "),
    "sentencepiece, plain": (sentencepiece, "plain", None, " "),
    "sentencepiece, chat with a space": (sentencepiece, "chat", TEMPLATE.replace("SPACE", " "), " "),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clean_and_answer_are_the_tokens_of_the_text_as_a_whole(kind: str) -> None:
    make, style, template, between = KINDS[kind]
    tokenizer: Any = make(template)
    for probe, got in zip(PROBES, encode(tokenizer, PROBES, style), strict=True):  # type: ignore[arg-type]
        prompt = render(tokenizer, probe.modified_context, probe.question, style)  # type: ignore[arg-type]
        other = render(tokenizer, probe.corrupted_context, probe.corrupted_question, style)  # type: ignore[arg-type]
        text = prompt + between + probe.answer
        assert got.clean + got.answer == tokenizer(text, add_special_tokens=style == "plain")["input_ids"]
        assert tokenizer.decode(got.answer).strip() == probe.answer
        assert tokenizer.decode(got.corrupted).replace("s> ", "s>").removeprefix("<s>") == other.removeprefix("<s>")
        assert got.clean.count(tokenizer.bos_token_id) == got.corrupted.count(tokenizer.bos_token_id) == 1


def test_sentencepiece_answers_bring_no_second_space() -> None:
    tokenizer = sentencepiece()
    assert encode(tokenizer, PROBES, "plain")[0].answer == tokenizer("Ben", add_special_tokens=False)["input_ids"]


def test_an_answer_that_joins_the_prompts_last_token_moves_the_border() -> None:
    # Without pre-tokenizer, ":" and " " merge with what follows: the space joins the cue.
    vocab = {"<s>": 0, "</s>": 1, "<unk>": 2, ":": 3, " ": 4, "B": 5, ": ": 6}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[(":", " ")], unk_token="<unk>", fuse_unk=False))
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    (got,) = encode(tokenizer, [replace(PROBES[0], answer="B", modified_context="B owns Rex.")], "plain")
    assert got.answer == [6, 5]
    prompt = render(tokenizer, "B owns Rex.", "Who owns Rex?", "plain")
    assert got.clean == tokenizer(prompt)["input_ids"][:-1]
    other = render(tokenizer, "Eve owns Tom.", "Who owns Tom?", "plain")
    assert got.corrupted == tokenizer(other)["input_ids"][:-1]


def test_a_tokenizer_that_ends_texts_does_not_end_prompts() -> None:
    plain, ending = byte_level(), byte_level(eos=True)
    assert ending("x")["input_ids"][-1] == ending.eos_token_id
    assert encode(ending, PROBES, "plain") == encode(plain, PROBES, "plain")


def test_an_answer_without_tokens_is_refused_by_name() -> None:
    raw = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace("Ben", "")
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError, match=r"'Ben' to 'Who owns Rex\?' leaves no tokens"):
        encode(wrap(raw), PROBES, "plain")


def test_plain_prompts_hold_the_worked_examples_and_end_in_the_cue() -> None:
    prompt = render(byte_level(), "Ben owns Rex.", "Who owns Rex?", "plain")
    assert prompt.endswith("Context: Ben owns Rex.\nQuestion: Who owns Rex?\nAnswer:")
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        assert example.answer in example.context
        assert f"Answer: {example.answer}\n\n" in prompt


def test_a_chat_prompt_has_the_worked_examples_as_turns() -> None:
    chatty, what = byte_level(TEMPLATE.replace("SPACE", "")), ("Ben owns Rex.", "Who owns Rex?")
    assert render(chatty, *what, "chat") != render(chatty, *what) == render(byte_level(), *what)
    assert render(chatty, *what, "chat").count("[INST]") == len(EXAMPLES) + 1
    assert f"[/INST]{EXAMPLES[0].answer}</s>" in render(chatty, *what, "chat")


def test_styles_are_checked() -> None:
    assert check_style("plain") == "plain"
    with pytest.raises(OptionError, match="no prompt style 'loud': choose plain, chat"):
        check_style("loud")
    with pytest.raises(OptionError, match="needs a tokenizer with a chat template"):
        render(byte_level(), "c", "q", "chat")


def test_pad_left() -> None:
    ids, mask = pad_left([[5], [6, 7, 8], []], 9)
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8], [9, 9, 9]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1], [0, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64
    assert pad_left([], 0)[0].shape == (0, 0)


def test_batches_hold_every_index_once_and_like_lengths_together() -> None:
    assert list(batches([5, 1, 4, 2, 3], 2)) == [[1, 3], [4, 2], [0]]
    assert list(batches([], 4)) == []


def test_first_line() -> None:
    assert first_line("\n  Paris. \nIt is") == "Paris."
    assert first_line("") == ""


def test_completion_is_greedy_whatever_the_models_own_settings_are() -> None:
    tokenizer = byte_level()
    model = tiny_decoder("llama", vocabulary=len(tokenizer))
    prompts = [e.clean for e in encode(tokenizer, PROBES, "plain")]

    def slowly(prompt: list[int]) -> str:
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 2:
                break
        return str(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))

    model.generation_config.update(do_sample=True, temperature=0.3, top_p=0.5, top_k=7, repetition_penalty=5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert complete(model, tokenizer, prompts, 6) == [slowly(prompt) for prompt in prompts]


def test_replies_are_compared_in_plain_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter([[" ben.\nWho", "\n New  York \n"], ["Ben and Eve", "York"]])
    monkeypatch.setattr("pellucid.qa_circuits.prompts.complete", lambda *_: next(replies))
    assert keeps_to_context(None, byte_level(), PROBES, 2, "plain") == [(True, "ben."), (True, "New  York")]  # type: ignore[arg-type]
    assert keeps_to_context(None, byte_level(), PROBES, 2, "plain") == [(False, "Ben and Eve"), (False, "York")]  # type: ignore[arg-type]


def test_replies_come_back_in_order_whatever_the_batch() -> None:
    tokenizer = byte_level()
    model = tiny_decoder("llama", vocabulary=len(tokenizer))
    probes = [PROBES[1], PROBES[0], replace(PROBES[0], question="Who is it that owns Rex?")]
    assert keeps_to_context(model, tokenizer, probes, 1, "plain") == keeps_to_context(
        model, tokenizer, probes, 3, "plain"
    )


@pytest.mark.slow
def test_smollm2_answers_from_the_context() -> None:
    from pellucid.core.loading import load

    try:
        loaded = load("zoo:smollm2")
    except PellucidError as error:
        pytest.skip(str(error))
    for style, tail in (("plain", "Answer:"), ("chat", "<|im_start|>assistant\n")):
        for probe, got in zip(PROBES, encode(loaded.tokenizer, PROBES, style), strict=True):  # type: ignore[arg-type]
            assert str(loaded.tokenizer.decode(got.clean)).endswith(tail)
            assert str(loaded.tokenizer.decode(got.answer)).strip() == probe.answer
    # A model that reads "Ben owns Rex" and knows nothing of Rex has nowhere else to take the answer from.
    assert any(kept for kept, _ in keeps_to_context(loaded.model, loaded.tokenizer, PROBES, style="plain"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [PROBES[1].context, EXAMPLES[1].context, " Ben owns\nRex. ", "Question: Ben?"])
def test_the_context_is_found_in_its_prompt(kind: str, context: str) -> None:
    make, style, template, _ = KINDS[kind]
    tokenizer: Any = make(template)
    prompt, (start, stop) = render_located(tokenizer, context, "Who owns Rex?", style)  # type: ignore[arg-type]
    assert prompt == render(tokenizer, context, "Who owns Rex?", style)  # type: ignore[arg-type]
    assert prompt[start:stop] == context
    assert prompt[stop:].startswith("\nQuestion: Who owns Rex?\nAnswer:")
    tokens = tokens_of(tokenizer, prompt, (start, stop), special=style == "plain")
    assert tokens.ids == tokenizer(prompt, add_special_tokens=style == "plain")["input_ids"]
    letters = {i for a, b in tokens.offsets for i in range(a, b)}
    assert {i for i, letter in enumerate(context) if not letter.isspace()} <= letters


def test_a_template_that_alters_the_context_is_told_of() -> None:
    loud = byte_level("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(OptionError, match="chat template alters the context"):
        render_located(loud, "Ben owns Rex.", "Who owns Rex?", "chat")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_follows_its_prompt(kind: str) -> None:
    make, style, template, between = KINDS[kind]
    what = make(template), "Ben owns Rex.", "Who owns Rex?"
    prompt = render(*what, style)  # type: ignore[arg-type]
    assert render_answered(*what, "Ben", style) == f"{prompt}{between}Ben"  # type: ignore[arg-type]
