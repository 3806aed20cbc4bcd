import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.qa_circuits.attention_rows import around_attention, attention_rows
from pellucid.qa_circuits.prompts import pad_left
from torch import Tensor, nn

HEADS = [(2, 3), (0, 1), (2, 0), (1, 2)]
SLIDING = {"mistral": {"sliding_window": 6}, "gemma2": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6}}
GREEDY = {"do_sample": False, "pad_token_id": 0, "disable_compile": True, "eos_token_id": None}


def decoder(family: str, window: bool = True) -> Any:
    return tiny_decoder(family, **(SLIDING.get(family, {}) if window else {}))


def prompts(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return pad_left([torch.randint(3, 97, (n,), generator=generator).tolist() for n in lengths], 0)


def eager_maps(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The slow twin: whole attention maps of the eager model, without a cache."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = twin(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, output_attentions=True)
    return tuple(out.attentions)


def check_generation(model: Any, lengths: list[int], new: int, **options: Any) -> list[Tensor]:
    ids, mask = prompts(lengths, seed=len(lengths))
    before = model.config._attn_implementation
    plain = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, **GREEDY, **options)
    with attention_rows(model, HEADS) as recorder:
        got = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, **GREEDY, **options)
    assert model.config._attn_implementation == before
    assert torch.equal(got, plain)
    assert len(recorder.rows) == new
    for step, row in enumerate(recorder.rows):
        width = ids.shape[1] + step
        seen = torch.cat([mask, mask.new_ones(len(ids), step)], dim=1)
        maps = eager_maps(model, got[:, :width], seen)
        slow = torch.stack([maps[layer][:, head, -1] for layer, head in HEADS], dim=1)
        assert row.shape == (len(ids), len(HEADS), width)
        assert row.dtype == torch.float32
        torch.testing.assert_close(row, slow, atol=1e-5, rtol=0)
    return recorder.rows


@pytest.mark.parametrize("family", DECODERS)
def test_rows_during_generation_are_those_of_the_eager_model(family: str) -> None:
    # Windows of 6 tokens and prompts of up to 11: both the mask and the cache cut keys off.
    rows = check_generation(decoder(family), [4, 11, 7], 4)
    weight = rows[-1][:, 0].sum(-1)
    torch.testing.assert_close(weight, torch.ones_like(weight))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("lengths", [[9], [3, 9]])
def test_a_cache_with_room_for_tokens_to_come(family: str, lengths: list[int]) -> None:
    check_generation(decoder(family), lengths, 3, cache_implementation="static")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_without_a_cache(family: str) -> None:
    check_generation(decoder(family), [3, 8], 2, use_cache=False)


MODELS = {family: decoder(family) for family in ("llama", "qwen3", "mistral", "gemma2")}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.lists(st.integers(1, 14), min_size=1, max_size=4), st.integers(1, 3))
def test_rows_for_any_lengths_and_batches(family: str, lengths: list[int], new: int) -> None:
    check_generation(MODELS[family], lengths, new)


@pytest.mark.parametrize("family", DECODERS)
def test_several_queries_and_chosen_keys(family: str) -> None:
    model = decoder(family)
    ids, mask = prompts([5, 12])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with attention_rows(model, HEADS, queries=4, keys=slice(2, 9)) as recorder:
        model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1)
    maps = eager_maps(model, ids, mask)
    slow = torch.stack([maps[layer][:, head, -4:, 2:9] for layer, head in HEADS], dim=1)
    torch.testing.assert_close(recorder.rows[0], slow, atol=1e-5, rtol=0)


def test_grouped_queries_of_every_kind() -> None:
    for groups in (1, 2, 4):
        check_generation(tiny_decoder("llama", num_key_value_heads=groups), [2, 6], 2)


def test_a_prompt_read_in_pieces() -> None:
    model = decoder("mistral")
    ids, mask = prompts([10])
    cache = None
    with attention_rows(model, HEADS, queries=2) as recorder:
        for start, stop in ((0, 4), (4, 8), (8, 10)):
            out = model(
                input_ids=ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
    maps = eager_maps(model, ids, mask)
    for row, stop in zip(recorder.rows, (4, 8, 10), strict=True):
        slow = torch.stack([maps[layer][:, head, stop - 2 : stop, :stop] for layer, head in HEADS], dim=1)
        torch.testing.assert_close(row, slow, atol=1e-5, rtol=0)


def test_nothing_is_left_behind_after_an_error() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    model = decoder("llama")
    names = set(AttentionInterface()), set(AttentionMaskInterface())
    ids, mask = prompts([5])
    with pytest.raises(RuntimeError, match="broken off"), attention_rows(model, HEADS):
        raise RuntimeError("broken off")
    assert model.config._attn_implementation == "sdpa"
    assert (set(AttentionInterface()), set(AttentionMaskInterface())) == names
    with attention_rows(model, HEADS) as recorder:
        handle = model.model.layers[1].register_forward_pre_hook(_fail)
        with pytest.raises(RuntimeError, match="half way"):
            model(input_ids=ids, attention_mask=mask)
        handle.remove()
        model(input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=False)
    assert [tuple(row.shape) for row in recorder.rows] == [(1, len(HEADS), 3)]


def _fail(*_: Any) -> None:
    raise RuntimeError("half way")


def test_blocks_may_be_nested_and_attention_may_be_changed_within() -> None:
    model = decoder("llama")
    ids, mask = prompts([3, 6])
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    plain = model(**inputs).logits

    def doubled(base: Any, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        out, weights = base(module, *args, **kwargs)
        return out * 2, weights

    with attention_rows(model, HEADS) as outer, around_attention(model, doubled), attention_rows(model, HEADS) as inner:
        changed = model(**inputs).logits
    assert not torch.allclose(changed, plain)
    assert torch.equal(outer.rows[0], inner.rows[0])
    assert torch.equal(model(**inputs).logits, plain)


def test_the_models_own_attention_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), fused(*a, **k))[1]
    )
    ids, mask = prompts([5])
    for implementation, expected in (("sdpa", 3), ("eager", 0)):
        model = decoder("llama")
        model.set_attn_implementation(implementation)
        calls.clear()
        with attention_rows(model, HEADS):
            model(input_ids=ids, attention_mask=mask)
        assert len(calls) == expected
        assert model.config._attn_implementation == implementation


def test_memory_is_one_row_a_token() -> None:
    model = decoder("llama")
    ids, mask = prompts([40])
    with attention_rows(model, [(1, 1)]) as recorder:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, **GREEDY)
    assert [row.untyped_storage().nbytes() for row in recorder.rows] == [4 * (40 + i) for i in range(5)]


@pytest.mark.parametrize("head", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_head_that_does_not_exist(head: tuple[int, int]) -> None:
    model = decoder("llama")
    with (
        pytest.raises(OptionError, match=rf"no head {head[0]}\.{head[1]}: it has 3 layers of 4 heads"),
        attention_rows(model, [head]),
    ):
        pass
    with pytest.raises(OptionError, match="no attention head is given"), attention_rows(model, []):
        pass


def test_a_model_without_the_interface() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2)).eval()
    with (
        pytest.raises(OptionError, match="BloomForCausalLM does not use transformers' attention interface"),
        attention_rows(model, [(0, 0)]),
    ):
        pass
    with pytest.raises(OptionError, match="Linear does not use"), attention_rows(nn.Linear(2, 2), [(0, 0)]):  # type: ignore[arg-type]
        pass
