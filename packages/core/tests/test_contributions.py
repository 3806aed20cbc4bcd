import copy
from typing import Any

import pytest
import torch
from pellucid.core.anatomy import decoder_anatomy
from pellucid.core.attention import around_attention, attention_weights
from pellucid.core.contributions import attention_contributions
from pellucid.core.errors import OptionError, SiteError
from pellucid.core.testing import DECODERS, tiny_decoder
from pellucid.core.tracing import capture, find_module, patch
from torch import Tensor

SLIDING = {"mistral": {"sliding_window": 6}, "gemma2": {"sliding_window": 6}, "gemma3_text": {"sliding_window": 6}}


def decoder(family: str) -> Any:
    return tiny_decoder(family, **SLIDING.get(family, {}))


def padded(lengths: list[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    width = max(lengths)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(3, 97, (length,), generator=generator)
    mask = (ids > 0).long()
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def vectors_of(model: Any, inputs: dict[str, Tensor], queries: Tensor) -> tuple[dict[int, Tensor], dict[Any, Any]]:
    """All contributions as vectors, and the attention blocks' outputs in the same pass."""
    anatomy = decoder_anatomy(model)
    sites = [anatomy.attention(layer) for layer in range(anatomy.layers)]
    with (
        attention_contributions(anatomy, queries, reduce=lambda vectors, _: vectors) as found,
        capture(model, sites) as got,
    ):
        model(**inputs)
    return found, got


@pytest.mark.parametrize("family", DECODERS)
def test_contributions_add_up_to_the_attention_output(family: str) -> None:
    model, inputs = decoder(family), padded([5, 11])
    queries = torch.tensor([[7, 10, 8], [0, 4, 10]])
    found, got = vectors_of(model, inputs, queries)
    anatomy = decoder_anatomy(model)
    for layer in range(anatomy.layers):
        output = got[anatomy.attention(layer)][0].gather(1, queries[..., None].expand(-1, -1, 32))
        bias = getattr(find_module(model, anatomy.output_projection(layer)), "bias", None)
        total = found[layer].sum(2) + (0 if bias is None else bias)
        torch.testing.assert_close(total, output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_contributions_are_those_of_the_eager_maps(family: str) -> None:
    """The slow twin: whole attention maps, and every weight matrix by hand."""
    model, inputs = decoder(family), padded([9, 4])
    queries = torch.tensor([[3, 8], [6, 8]])
    found, _ = vectors_of(model, inputs, queries)
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    names = [f"model.layers.{layer}.self_attn.v_proj" for layer in range(3)]
    values: dict[str, Tensor] = {}
    for name in names:
        find_module(twin, name).register_forward_hook(lambda _, __, out, name=name: values.update({name: out}))
    maps = twin(**inputs, use_cache=False, output_attentions=True).attentions
    for layer, name in enumerate(names):
        out_weight = find_module(twin, f"model.layers.{layer}.self_attn.o_proj").weight
        slow = torch.zeros_like(found[layer])
        for row in range(2):
            for place, query in enumerate(queries[row].tolist()):
                for token in range(9):
                    for head in range(4):
                        value = values[name][row, token, 8 * (head // 2) : 8 * (head // 2) + 8]
                        vector = out_weight[:, 8 * head : 8 * head + 8] @ value
                        slow[row, place, token] += maps[layer][row, head, query, token] * vector
        torch.testing.assert_close(found[layer], slow, atol=1e-5, rtol=1e-5)


def test_the_default_keeps_norms_of_all_layers_and_the_model_is_left_as_it_was() -> None:
    model, inputs = decoder("llama"), padded([6])
    before = model.config._attn_implementation
    plain = model(**inputs).logits
    with attention_contributions(decoder_anatomy(model), [[5, 2]], layers=[1]) as found:
        assert torch.equal(model(**inputs).logits, plain)
    assert model.config._attn_implementation == before
    assert list(found) == [1]
    assert found[1].shape == (1, 2, 6)
    vectors, _ = vectors_of(model, inputs, torch.tensor([[5, 2]]))
    torch.testing.assert_close(found[1], vectors[1].norm(dim=-1))
    assert (found[1][0, 1, 3:] == 0).all()  # nothing comes from later tokens


def test_generation_is_recorded_at_the_prompt() -> None:
    model, inputs = decoder("mistral"), padded([8, 3])
    queries = torch.tensor([[7], [6]])
    with attention_contributions(decoder_anatomy(model), queries) as found:
        model(**inputs)
    inputs.pop("position_ids")
    with attention_contributions(decoder_anatomy(model), queries) as again:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    for layer in range(3):
        torch.testing.assert_close(again[layer], found[layer], atol=1e-6, rtol=1e-5)


def test_heads_changed_after_attention_are_refused() -> None:
    model, inputs = decoder("llama"), padded([6])
    anatomy = decoder_anatomy(model)
    gate = {anatomy.head_outputs(1): lambda value, _: value * 0.5}
    with (
        pytest.raises(SiteError, match="layer 1 of LlamaForCausalLM does more"),
        patch(model, gate),
        attention_contributions(anatomy, [[5]]),
    ):
        model(**inputs)


def test_what_cannot_be_recorded() -> None:
    model, inputs = decoder("llama"), padded([6])
    anatomy = decoder_anatomy(model)
    with pytest.raises(SiteError, match="never computed"), attention_contributions(anatomy, [[5]]):
        pass
    with pytest.raises(SiteError, match="no layer 3"), attention_contributions(anatomy, [[5]], layers=[3]):
        model(**inputs)
    with pytest.raises(OptionError, match="layers is empty"), attention_contributions(anatomy, [[5]], layers=[]):
        model(**inputs)
    with pytest.raises(OptionError, match="position 6 lies outside the 6"), attention_contributions(anatomy, [[6]]):
        model(**inputs)
    with pytest.raises(OptionError, match="2 rows, and the"), attention_contributions(anatomy, [[1], [2]]):
        model(**inputs)
    for wrong in ([[0.5]], [1, 2], [[1], [2, 3]]):
        with pytest.raises(OptionError, match="queries"), attention_contributions(anatomy, wrong):
            model(**inputs)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_weights_of_blocks_that_are_not_causal(implementation: str) -> None:
    """A CLIP vision tower: every token sees every token."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    model = CLIPVisionModel(config).eval()
    model.set_attn_implementation("eager")
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = model(pixels, output_attentions=True).attentions
        model.set_attn_implementation(implementation)
        weights = []

        def attend(base: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
            weights.append(attention_weights(module, *args, queries=torch.tensor([[0, 3]]), **kwargs))
            return base(module, *args, **kwargs)

        with around_attention(model, attend):
            model(pixels)
    for got, slow in zip(weights, maps, strict=True):
        torch.testing.assert_close(got, slow[:, :, [0, 3]], atol=1e-6, rtol=1e-5)
