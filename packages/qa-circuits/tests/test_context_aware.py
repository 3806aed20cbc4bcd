"""Context-aware decoding against one full pass a token, and what is asked of it wrongly."""

import pytest
import torch
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing import tiny_decoder
from pellucid.qa_circuits.context_aware import ContextAware, complete_context_aware, render_without
from pellucid.qa_circuits.prompts import complete, pad_left, render
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ASKED = [("Ben owns Rex. Anna is tall.", "Who owns Rex?"), ("Tom lives in Rome.", "Where does Tom live?")]
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[assistant]"


def words_tokenizer(template=None):
    text = " ".join(render(None, *pair) for pair in ASKED).replace(".", " . ").replace("?", " ? ").replace(":", " : ")
    words = ["<pad>", "<s>", "</s>", "<unk>", "[", "]", "user", "assistant", *dict.fromkeys(text.split())]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words[:97])}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", chat_template=template
    )


def one_by_one(model, tokenizer, context, question, alpha, length):
    """Greedy, each token from two full passes without cache or padding."""
    ids = tokenizer(render(tokenizer, context, question))["input_ids"]
    bare = tokenizer(render_without(tokenizer, question))["input_ids"]
    new = []
    for _ in range(length):
        with torch.no_grad():
            informed = model(torch.tensor([ids + new])).logits[0, -1]
            plain = model(torch.tensor([bare + new])).logits[0, -1]
        new.append(int(((1 + alpha) * informed - alpha * plain).argmax()))
        if new[-1] == model.generation_config.eos_token_id:
            break
    return tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_batch_with_cache_equals_one_pass_a_token(family):
    model, tokenizer = tiny_decoder(family), words_tokenizer()
    got = complete_context_aware(model, tokenizer, ASKED, 8, alpha=1.5)
    assert got == [one_by_one(model, tokenizer, *pair, 1.5, 8) for pair in ASKED]
    assert got != complete(model, tokenizer, [tokenizer(render(tokenizer, *p))["input_ids"] for p in ASKED], 8)


def test_alpha_0_is_plain_decoding():
    model, tokenizer = tiny_decoder("llama"), words_tokenizer()
    plain = complete(model, tokenizer, [tokenizer(render(tokenizer, *p))["input_ids"] for p in ASKED], 8)
    assert complete_context_aware(model, tokenizer, ASKED, 8, alpha=0) == plain


def test_logits_by_the_formula():
    model = tiny_decoder("llama")
    ids, without = [[5, 6, 7, 8], [9, 10]], [[7, 8], [10]]
    padded, mask = pad_left(ids, 0)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    scores = model(padded, attention_mask=mask, position_ids=positions).logits[:, -1]
    mixed = ContextAware(model, without, 0, alpha=0.5)(padded, scores)
    for row in range(2):
        informed = model(torch.tensor([ids[row]])).logits[0, -1]
        plain = model(torch.tensor([without[row]])).logits[0, -1]
        torch.testing.assert_close(mixed[row], 1.5 * informed - 0.5 * plain, atol=1e-5, rtol=1e-5)


def test_prompts_without_context():
    tokenizer = words_tokenizer(TEMPLATE)
    plain = render_without(tokenizer, "Who owns Rex?")
    assert plain.endswith("\n\nQuestion: Who owns Rex?\nAnswer:")
    assert "Context" not in plain
    assert plain.count("Question:") == 3
    assert render_without(tokenizer, "Who owns Rex?", "chat").endswith(
        "[user] Question: Who owns Rex?\nAnswer: [assistant]"
    )


def test_bad_options():
    model, tokenizer = tiny_decoder("llama"), words_tokenizer()
    for asked, options, error, message in [
        ([], {}, DataError, "nothing is asked"),
        ([(" \n", "Who?")], {}, DataError, "the context is empty"),
        ([("Rex. " * 300, "Who?")], {}, OptionError, r"the model reads 512: give a shorter context"),
        (ASKED, {"alpha": -1}, OptionError, "alpha is -1"),
        (ASKED, {"style": "chat"}, OptionError, "needs a tokenizer with a chat template"),
    ]:
        with pytest.raises(error, match=message):
            complete_context_aware(model, tokenizer, asked, 2, **options)
    with pytest.raises(OptionError, match="without beams"):
        model.generate(
            torch.tensor([[5, 6]]), num_beams=2, max_new_tokens=2, logits_processor=[ContextAware(model, [[6]], 0)]
        )
