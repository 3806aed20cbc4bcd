import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import load
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits.attribution import (
    Attribution,
    attribute,
    attribute_batch,
    attribute_response,
    stream_attributions,
)
from pellucid.qa_circuits.prompts import EXAMPLES, render_located
from pellucid.qa_circuits.spans import cut
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CONTEXT = "Anna owns Rex. Tom, a dog of 3.5 years, lives in Øster.  Ben plays the drums.\nEve is in Rome."
ITEMS = [(CONTEXT, "Where does Tom live?"), ("Ben owns Rex.", "Who owns Rex?"), (CONTEXT[15:], "Who plays the drums?")]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def make_tokenizer() -> Any:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([f"{e.context} {e.question} Answer: Context: Question:" for e in EXAMPLES] * 3, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )


TOKENIZER = make_tokenizer()


def decoder(family: str = "llama", **options: Any) -> Any:
    window = {"sliding_window": 40} if family in ("mistral", "gemma2", "gemma3_text") else {}
    settings = {"vocabulary": len(TOKENIZER), "max_position_embeddings": 2048, **window, **options}
    return tiny_decoder(family, **settings)


def slowly(model: Any, context: str, question: str, head: tuple[int, int], how: Any, k: int, new: int) -> list[Any]:
    """The slow twin: the eager model's whole maps without a cache, and spans scored letter by letter."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    prompt, (begin, _) = render_located(TOKENIZER, context, question, "plain")
    encoded = TOKENIZER(prompt, return_offsets_mapping=True)
    ids, found = list(encoded["input_ids"]), []
    for _ in range(new):
        out = twin(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
        row = out.attentions[head[0]][0, head[1], -1]
        scored = []
        for span in cut(context, how):
            letters = {i for i in range(span.start, span.stop) if not context[i].isspace()}
            weights = [
                float(row[t])
                for t, (a, b) in enumerate(encoded["offset_mapping"])
                if any(i - begin in letters for i in range(a, b))
            ]
            scored.append((span, max(weights)))
        found.append(sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k])
        ids.append(int(out.logits[0, -1].argmax()))
    return found


@contextmanager
def saying(model: Any, *answers: str, end: str = "</s>") -> Iterator[list[int]]:
    """Make a model say given texts, whatever it reads; what is yielded holds one entry a token said."""
    ids = [TOKENIZER(text + end, add_special_tokens=False)["input_ids"] for text in answers]
    said: list[int] = []

    def force(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        wanted = torch.tensor([sequence[min(len(said), len(sequence) - 1)] for sequence in ids])
        said.append(len(said))
        return torch.nn.functional.one_hot(wanted, output.shape[-1])[:, None].to(output) * 9

    handle = model.lm_head.register_forward_hook(force)
    try:
        yield said
    finally:
        handle.remove()


def assert_alike(one: Attribution, other: Attribution) -> None:
    assert one.answer == other.answer
    assert [token.text for token in one.tokens] == [token.text for token in other.tokens]
    for mine, theirs in zip((one, *one.tokens), (other, *other.tokens), strict=True):
        assert [s.span for s in mine.spans] == [s.span for s in theirs.spans]
        assert [s.score for s in mine.spans] == pytest.approx([s.score for s in theirs.spans], abs=1e-6)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("how", ["sentence", 3])
def test_attribution_is_that_of_the_eager_models_maps(family: str, how: Any) -> None:
    model = decoder(family)
    model.generation_config.eos_token_id = None
    context, question = ITEMS[0]
    got = attribute(model, TOKENIZER, context, question, head=(1, 2), spans=how, k=2, max_new_tokens=3)
    slow = slowly(model, context, question, (1, 2), how, 2, 3)[: len(got.tokens)]
    assert len(got.tokens) >= 1
    for token, expected in zip(got.tokens, slow, strict=True):
        assert [s.span for s in token.spans] == [span for span, _ in expected]
        assert [s.score for s in token.spans] == pytest.approx([score for _, score in expected], abs=1e-5)
    every = sorted({(-s.score, s.span) for token in got.tokens for s in token.spans})
    assert (-got.spans[0].score, got.spans[0].span) == every[0]
    assert len({s.span for s in got.spans}) == len(got.spans) <= 2
    assert list(got.spans) == sorted(got.spans, key=lambda s: -s.score)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("style", ["plain", "chat"])
def test_batches_give_what_single_questions_give(family: str, style: Any) -> None:
    model = decoder(family)
    options: Any = {"head": (2, 1), "style": style, "max_new_tokens": 4}
    singles = [attribute(model, TOKENIZER, *item, **options) for item in ITEMS]
    for batch in (2, 3):
        for one, other in zip(attribute_batch(model, TOKENIZER, ITEMS, batch=batch, **options), singles, strict=True):
            assert_alike(one, other)
    assert attribute_batch(model, TOKENIZER, [], **options) == []


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_a_stream_gives_the_same_token_by_token(style: Any) -> None:
    model = decoder("qwen2")
    options: Any = {"head": (0, 3), "style": style, "spans": 4, "max_new_tokens": 5}
    whole = attribute(model, TOKENIZER, *ITEMS[0], **options)
    assert list(stream_attributions(model, TOKENIZER, *ITEMS[0], **options)) == [
        (token.text, token.spans) for token in whole.tokens
    ]


def test_a_stream_comes_as_it_is_made_and_stops_where_it_is_left() -> None:
    model = decoder()
    with saying(model, "x" * 400) as said:
        stream = stream_attributions(model, TOKENIZER, *ITEMS[0], head=(0, 0), max_new_tokens=400)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert 1 <= len(said) < 400
    assert model.config._attn_implementation == "sdpa"


def test_an_error_while_streaming_reaches_the_reader() -> None:
    model = decoder()

    def fail(*_: Any) -> None:
        raise RuntimeError("out of order")

    model.lm_head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        list(stream_attributions(model, TOKENIZER, *ITEMS[0], head=(0, 0)))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("style", ["plain", "chat"])
def test_a_given_response_has_the_rows_that_its_generation_has(family: str, style: Any) -> None:
    model, answer = decoder(family), "Øster, with Anna."
    options: Any = {"head": (2, 2), "style": style, "k": 4}
    with saying(model, f" {answer}" if style == "plain" else answer):
        generated = attribute(model, TOKENIZER, *ITEMS[0], **options)
    assert generated.answer == answer
    assert_alike(attribute_response(model, TOKENIZER, *ITEMS[0], f" {answer} ", **options), generated)


def test_the_answer_is_one_line_in_plain_style_and_whole_in_chat() -> None:
    model = decoder()
    with saying(model, " \nRome. It is\n\nContext: x") as said:
        got = attribute(model, TOKENIZER, *ITEMS[0], head=(0, 0))
    assert got.answer == "Rome. It is"
    assert "".join(token.text for token in got.tokens) == " \nRome. It is"
    assert len(said) <= len(got.tokens) + 1
    with saying(model, "Rome.\n\nIt is Ø"):
        got = attribute(model, TOKENIZER, *ITEMS[0], head=(0, 0), style="chat")
    assert got.answer == "Rome.\n\nIt is Ø" == "".join(token.text for token in got.tokens)
    assert [token.text for token in got.tokens][-2:] == ["", "Ø"]


def test_answers_end_with_the_text_or_at_the_limit() -> None:
    model = decoder()
    with saying(model, "Rex") as said:
        assert attribute(model, TOKENIZER, *ITEMS[0], head=(0, 0), max_new_tokens=50).answer == "Rex"
        assert len(said) < 10
    with saying(model, "x" * 50):
        assert attribute(model, TOKENIZER, *ITEMS[0], head=(0, 0), max_new_tokens=4).answer == "xxxx"
    with saying(model, ""):
        assert attribute(model, TOKENIZER, *ITEMS[0], head=(0, 0)) == Attribution("", (), ())


def test_a_context_too_long_is_told_or_read_in_windows() -> None:
    names = ["Anna", "Ben", "Eve", "Tom", "Rex", "Ida", "Max", "Leo", "Mia", "Zoe"]
    context = " ".join(f"{name} lives in room {i}." for i, name in enumerate(names * 6))
    question = "Where does Eve live?"
    prompt = TOKENIZER(render_located(TOKENIZER, context, question, "plain")[0])["input_ids"]
    model = decoder(max_position_embeddings=500)
    with pytest.raises(OptionError, match=rf"the prompt has {len(prompt)} tokens .* window is 500: .*window=True"):
        attribute(model, TOKENIZER, context, question, head=(0, 0))
    with pytest.raises(OptionError, match="window is 500"):
        attribute_response(model, TOKENIZER, context, question, "Rome", head=(0, 0))
    options: Any = {"head": (1, 1), "max_new_tokens": 2, "k": 100}
    lengths: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    got = attribute(model, TOKENIZER, context, question, window=True, **options)
    handle.remove()
    prefills = [length for length in lengths if length > 1]
    assert len(prefills) >= 3
    assert max(prefills) <= 498
    sentences = cut(context)
    assert {s.span for s in got.spans} <= set(sentences)
    # Pieces are whole contexts of their own; the best of them is what is kept.
    wide = decoder(max_position_embeddings=4096)
    assert_alike(
        attribute(wide, TOKENIZER, context, question, window=True, **options),
        attribute(wide, TOKENIZER, context, question, **options),
    )
    with pytest.raises(OptionError, match="no room for a context"):
        attribute(decoder(max_position_embeddings=64), TOKENIZER, context, question, head=(0, 0), window=True)


def test_windows_cover_the_context_and_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from pellucid.qa_circuits import attribution

    seen: list[tuple[int, int]] = []
    original = attribution.pieces
    monkeypatch.setattr(attribution, "pieces", lambda *a: seen.extend(got := original(*a)) or got)  # type: ignore[func-returns-value]
    context = " ".join(f"Anna lives in room {i}." for i in range(60))
    model = decoder(max_position_embeddings=500)
    options: Any = {"head": (2, 0), "max_new_tokens": 1, "k": 1}
    got = attribute(model, TOKENIZER, context, "Where?", window=True, **options)
    assert seen[0][0] == 0
    assert seen[-1][1] == len(context)
    assert all(later[0] < earlier[1] for earlier, later in pairwise(seen))
    alone = [attribute(model, TOKENIZER, context[a:b], "Where?", **options) for a, b in seen]
    assert got.spans[0].score == pytest.approx(max(a.spans[0].score for a in alone), abs=1e-6)


def test_bad_input_is_told_in_one_line() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = decoder()

    def refuse(error: type[Exception], match: str, context: str = CONTEXT, **options: Any) -> None:
        options = {"head": (0, 0)} | options
        with pytest.raises(error, match=match):
            attribute(model, TOKENIZER, context, "Who?", **options)
        with pytest.raises(error, match=match):
            stream_attributions(model, TOKENIZER, context, "Who?", **options)

    refuse(DataError, "the context is empty", context=" \n")
    refuse(OptionError, r"no head 3\.0", head=(3, 0))
    refuse(OptionError, "an answer of 0 tokens", max_new_tokens=0)
    refuse(OptionError, "the best 0 spans", k=0)
    refuse(OptionError, "windows of 0 words", spans=0)
    refuse(OptionError, "no spans 'word'", spans="word")
    refuse(OptionError, "no prompt style 'loud'", style="loud")
    with pytest.raises(DataError, match="the response is empty"):
        attribute_response(model, TOKENIZER, CONTEXT, "Who?", " ", head=(0, 0))
    bloom = BloomForCausalLM(BloomConfig(vocab_size=len(TOKENIZER), hidden_size=8, n_layer=1, n_head=2)).eval()
    with pytest.raises(OptionError, match="does not use transformers' attention interface"):
        attribute(bloom, TOKENIZER, CONTEXT, "Who?", head=(0, 0))


@pytest.mark.parametrize("fields", [{"max_memory": {"cpu": "60KB"}}, {"quantize": "nf4"}])
def test_offloaded_and_quantised_models(fields: dict[str, Any], tmp_path: Path) -> None:
    if "quantize" in fields:
        pytest.importorskip("bitsandbytes")
    decoder().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", offload_folder=str(tmp_path / "disk"), **fields)
    options: Any = {"head": (1, 2), "k": 5, "max_new_tokens": 3}
    got = attribute(loaded.model, TOKENIZER, *ITEMS[0], **options)
    assert len(got.tokens) >= 1
    if "max_memory" in fields:
        assert any(parameter.is_meta for parameter in loaded.model.parameters())
        assert_alike(got, attribute(decoder(), TOKENIZER, *ITEMS[0], **options))
    # Attention set to eager before is kept, and gives the same.
    loaded.model.set_attn_implementation("eager")
    assert_alike(attribute(loaded.model, TOKENIZER, *ITEMS[0], **options), got)
    assert loaded.model.config._attn_implementation == "eager"
