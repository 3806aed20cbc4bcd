"""Steered attention against plain loops, in every family, with cache, padding, windows and soft-caps."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.core.loading import load
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits.attention_rows import attention_rows
from pellucid.qa_circuits.components import Component
from pellucid.qa_circuits.upweighting import context_mask, raised, top_layers, upweighting
from tokenizers import Tokenizer, models

LENGTHS, PLACES = (14, 9), ((4, 10), (2, 5))
NEW = 5  # tokens generated
LAYERS, BETA = (0, 2), 10.0


def prompts():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 97, (2, 14), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    return ids * mask, mask


def generate(model, **options):
    ids, mask = prompts()
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True, **options,
    )  # fmt: skip


def attention_of(model):
    return sys.modules[type(model).__module__]


def loops(layers, context, beta, first):
    """Attention one query at a time; those from `first` on are steered, as they each were the last of their pass."""

    def attend(module, query, key, value, attention_mask, scaling, softcap=None, **_):
        out = torch.zeros(len(query), query.shape[2], query.shape[1], query.shape[3])
        for b in range(len(query)):
            for h in range(query.shape[1]):
                group = h // (query.shape[1] // key.shape[1])
                for t in range(query.shape[2]):
                    logits = key[b, group] @ query[b, h, t] * scaling
                    if softcap is not None:
                        logits = torch.tanh(logits / softcap) * softcap
                    seen = [i for i in range(key.shape[2]) if attention_mask[b, 0, t, i] > -1]
                    inside = [i for i in seen if i < first + 1 and context[b, i]]
                    if module.layer_idx in layers and t >= first and inside:
                        best = max(inside, key=lambda i: float(logits[i]))
                        logits[best] = logits[best] + (beta - 1) * abs(logits[best])
                    if seen:
                        weights = logits[seen].softmax(-1)
                        out[b, t, h] = sum(w * value[b, group, i] for w, i in zip(weights, seen, strict=True))
        return out, None

    return attend


def reference(model, sequences, mask, monkeypatch, *steering):
    """Logits that predict each generated token, from one plain pass without a cache over the finished sequences."""
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    mask = torch.cat([mask, mask.new_ones(2, NEW)], 1)[:, :-1]
    with monkeypatch.context() as patched, torch.no_grad():
        patched.setattr(attention_of(model), "eager_attention_forward", loops(*steering))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=sequences[:, :-1], attention_mask=mask, position_ids=positions, use_cache=False).logits
    model.set_attn_implementation(own)
    return logits[:, -NEW:]


def check(model, monkeypatch, **options):
    context = context_mask(LENGTHS, PLACES)
    with upweighting(model, LAYERS, context, BETA):
        got = generate(model, **options)
    found = torch.stack(got.logits, 1)
    expected = reference(model, got.sequences, prompts()[1], monkeypatch, LAYERS, context, BETA, 13)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    plain = torch.stack(generate(model, **options).logits, 1)
    assert (plain[:, 0] - found[:, 0]).abs().max() > 1e-3  # steering does something


@pytest.mark.parametrize("family", DECODERS)
def test_generation_with_cache_equals_loops_without(family, monkeypatch):
    check(tiny_decoder(family), monkeypatch)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_sliding_windows_shorter_than_the_prompt(family, monkeypatch):
    check(tiny_decoder(family, sliding_window=6), monkeypatch)


def test_other_caches_and_attention(monkeypatch):
    model = tiny_decoder("llama")
    check(model, monkeypatch, cache_implementation="static")
    model.set_attn_implementation("eager")
    check(model, monkeypatch)


def test_an_offloaded_model_is_steered_alike(tmp_path):
    model = tiny_decoder("llama")
    model.save_pretrained(tmp_path)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    offloaded = load(tmp_path, max_memory={"cpu": "20KB"}, offload_folder=str(tmp_path / "disk")).model
    assert "disk" in offloaded.hf_device_map.values()
    with upweighting(model, LAYERS, context_mask(LENGTHS, PLACES), BETA):
        expected = torch.stack(generate(model).logits)
    with upweighting(offloaded, LAYERS, context_mask(LENGTHS, PLACES), BETA):
        got = torch.stack(generate(offloaded).logits)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_weights_of_the_last_row_rise_at_each_heads_best_token():
    model = tiny_decoder("llama")
    model.set_attn_implementation("eager")
    ids, mask = prompts()
    context = context_mask(LENGTHS, PLACES)
    plain = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    with upweighting(model, [0], context, BETA):
        steered = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    before, after = plain[0][:, :, -1], steered[0][:, :, -1]
    best = before.masked_fill(~context[:, None], -1).argmax(-1, keepdim=True)
    assert (after.gather(-1, best) > before.gather(-1, best)).all()
    torch.testing.assert_close(after.sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(steered[0][:, :, :-1], plain[0][:, :, :-1], atol=0, rtol=0)


def test_the_model_is_left_as_it_was_and_beta_1_changes_nothing():
    model = tiny_decoder("qwen2")
    ids, mask = prompts()
    before = model(input_ids=ids, attention_mask=mask).logits
    context = context_mask(LENGTHS, PLACES)
    with upweighting(model, LAYERS, context, 1.0):
        same = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(same[:, -1], before[:, -1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ZeroDivisionError), upweighting(model, LAYERS, context):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)


@given(
    st.lists(st.floats(-20, 20, allow_subnormal=False).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=8),
    st.integers(1, 7),
    st.floats(1.01, 50),
)
def test_the_largest_weight_rises_whatever_its_logits_sign(values, count, beta):
    logits = torch.tensor(values, dtype=torch.float64)
    context = torch.arange(len(values)) < min(count, len(values) - 1)
    best = logits.masked_fill(~context, -torch.inf).argmax()
    new = raised(logits, context, beta)
    assert new[best] > logits[best]
    assert new.softmax(-1)[best] >= logits.softmax(-1)[best]
    others = torch.arange(len(values)) != best
    assert torch.equal(new[others], logits[others])
    assert torch.equal(raised(logits, torch.zeros_like(context), beta), logits)


def test_raised_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [-3.0, -2.0, 5.0]])
    context = torch.tensor([True, True, False])
    assert raised(logits, context, 10.0).tolist() == [[1.0, 20.0, 5.0], [-3.0, 16.0, 5.0]]


def test_top_layers_and_masks():
    circuit = [Component("head", 4, 1), Component("mlp", 9), Component("head", 2, 0), Component("head", 4, 0)]
    assert top_layers(circuit) == [4, 2]
    assert top_layers([Component("attention", i) for i in (5, 1, 3, 2)]) == [5, 1, 3]
    with pytest.raises(OptionError, match="no attention layers and no heads"):
        top_layers([Component("mlp", 0)])
    assert context_mask([3, 2], [(1, 3), (0, 1)]).tolist() == [[False, True, True], [False, True, False]]


def test_rows_recorded_while_steering_are_the_plain_ones():
    # The recorder is inside: it reads the queries and keys that steering leaves alone in the first layer.
    model = tiny_decoder("llama")
    ids, mask = prompts()
    with attention_rows(model, [(0, 1)]) as plain, torch.no_grad():
        model(input_ids=ids, attention_mask=mask)
    with upweighting(model, [0], context_mask(LENGTHS, PLACES)), attention_rows(model, [(0, 1)]) as rows:
        generate(model)
    torch.testing.assert_close(rows.rows[0], plain.rows[0], atol=1e-6, rtol=0)
    assert len(rows.rows) == NEW


def test_bad_options():
    model = tiny_decoder("llama")
    context = context_mask(LENGTHS, PLACES)
    for layers, marks, beta, message in [
        ([3], context, 10, "no layer 3: choose from its 3"),
        ([], context, 10, "no layer is given"),
        ([0], context, 0.5, "beta is 0.5"),
        ([0], context & False, 10, "do not mark a token"),
    ]:
        with pytest.raises(OptionError, match=message), upweighting(model, layers, marks, beta):
            pass
    with upweighting(model, [0], context[:1]), pytest.raises(OptionError, match="2 sequences are read"):
        generate(model)
    assert model.config._attn_implementation == "sdpa"
