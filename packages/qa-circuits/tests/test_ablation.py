"""Ablating direct edges: against a slow twin without cache or hooks that change anything, in every family."""

from typing import Any

import pytest
import torch
from pellucid.core.anatomy import DecoderAnatomy, decoder_anatomy
from pellucid.core.errors import DataError, OptionError, SiteError
from pellucid.core.testing import DECODERS, tiny_decoder, word_tokenizer
from pellucid.core.tracing import capture
from pellucid.qa_circuits.ablation import ablating, mean_writes
from pellucid.qa_circuits.asking import token_ids
from pellucid.qa_circuits.components import Component
from pellucid.qa_circuits.prompts import complete, render
from torch import Tensor

HEADS = (Component("head", 0, 1), Component("head", 0, 2), Component("head", 2, 3))
MIXED = (*HEADS, Component("attention", 1), Component("mlp", 0), Component("mlp", 2))
ASKED = [("Ben owns Rex.", "Who owns Rex?"), ("Rex barks. Tom lives in Rome. Anna sings.", "Where?"), ("Eve.", "Who?")]


def some_means(anatomy: DecoderAnatomy) -> dict[Component, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {c: torch.randn(anatomy.head_dim if c.kind == "head" else 32, generator=draw) for c in MIXED}


def slow_logits(model: Any, ids: list[int], components: tuple[Component, ...], means: Any) -> Tensor:
    """Logits of the last position: one forward pass that changes nothing, then the sum taken apart by hand."""
    anatomy = decoder_anatomy(model)
    layers = range(anatomy.layers)
    blocks = [anatomy.attention(i) for i in layers] + [anatomy.mlp(i) for i in layers]
    slices = [anatomy.head_outputs(i) for i in layers]
    with capture(model, [*blocks, *slices, anatomy.final_residual()]) as store, torch.inference_mode():
        model(torch.tensor([ids]), use_cache=False)
    residual = store[anatomy.final_residual()][0][0, -1]
    for layer in layers:
        old = store[anatomy.attention(layer)][0][0, -1]
        if (whole := Component("attention", layer)) in components:
            new = torch.zeros_like(old) if means is None else means[whole]
        else:
            heads = store[anatomy.head_outputs(layer)][0][0, -1].clone().unflatten(-1, (4, 8))
            for head in components:
                if head.kind == "head" and head.layer == layer:
                    heads[head.index] = 0 if means is None else means[head]
            # The output projection is linear, so that it may be called on what is left of the heads.
            new = model.get_submodule(anatomy.output_projection(layer))(heads.flatten())
        residual = residual + anatomy.attention_write(layer, new) - anatomy.attention_write(layer, old)
        if (mlp := Component("mlp", layer)) in components:
            old = store[anatomy.mlp(layer)][0][0, -1]
            new = torch.zeros_like(old) if means is None else means[mlp]
            residual = residual + anatomy.mlp_write(layer, new) - anatomy.mlp_write(layer, old)
    return anatomy.unembed(residual)


@pytest.mark.parametrize("replacement", ["zero", "mean"])
@pytest.mark.parametrize("family", DECODERS)
def test_logits_equal_the_slow_twin(family: str, replacement: str) -> None:
    model = tiny_decoder(family)
    means = some_means(decoder_anatomy(model)) if replacement == "mean" else None
    ids = [5, 9, 13, 40, 41, 42, 7, 80]
    plain = model(torch.tensor([ids])).logits
    for components in (HEADS, MIXED, MIXED[3:4], MIXED[4:]):
        with ablating(model, components, replacement, means):
            got = model(torch.tensor([ids])).logits
        assert not torch.allclose(got, plain, atol=1e-2)
        for last in (3, 7):
            expected = slow_logits(model, ids[: last + 1], components, means)
            torch.testing.assert_close(got[0, last], expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(model(torch.tensor([ids])).logits, plain)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_with_cache_and_padding_equals_the_slow_twin(family: str, cache: Any) -> None:
    model = tiny_decoder(family)
    model.generation_config.eos_token_id = None
    prompts = [[5, 9, 13, 40, 41], [61, 7, 80]]
    ids, mask = torch.tensor([prompts[0], [0, 0, *prompts[1]]]), torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    with ablating(model, MIXED):
        got = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0,
            cache_implementation=cache,
        )  # fmt: skip
    for row, grown in enumerate(prompts):
        grown = list(grown)
        for _ in range(6):
            grown.append(int(slow_logits(model, grown, MIXED, None).argmax()))
        assert got[row, 5:].tolist() == grown[-6:]


def test_a_projection_with_a_bias_keeps_it_for_heads_and_loses_it_with_the_layer() -> None:
    model = tiny_decoder("llama", attention_bias=True)
    assert model.model.layers[0].self_attn.o_proj.bias is not None
    ids = [5, 9, 13]
    for components in (HEADS, MIXED):
        with ablating(model, components):
            got = model(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(got, slow_logits(model, ids, components, None), atol=1e-4, rtol=1e-5)


def test_other_components_see_what_is_ablated() -> None:
    model = tiny_decoder("qwen2")
    anatomy = decoder_anatomy(model)
    sites = [site(i) for i in range(3) for site in (anatomy.attention, anatomy.mlp, anatomy.residual_before_mlp)]
    ids = torch.tensor([[5, 9, 13]])
    with capture(model, sites) as before:
        model(ids)
    with ablating(model, MIXED), capture(model, sites) as during:
        model(ids)
    for site in sites:
        assert torch.equal(before[site][0], during[site][0])


def test_all_heads_of_a_layer_are_its_attention() -> None:
    model = tiny_decoder("gemma2")
    ids = torch.tensor([[5, 9, 13]])
    with ablating(model, [Component("head", 1, i) for i in range(4)]):
        heads = model(ids).logits
    with ablating(model, [Component("attention", 1)]):
        torch.testing.assert_close(heads, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_forward_that_broke_off_leaves_nothing_behind() -> None:
    model = tiny_decoder()
    long, short = torch.tensor([[5, 9, 13, 2]]), torch.tensor([[5, 9]])

    def fail(*_: Any) -> None:
        raise RuntimeError("broke off")

    with ablating(model, MIXED):
        expected = model(short).logits
    with ablating(model, MIXED):
        handle = model.model.layers[2].mlp.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="broke off"):
            model(long)
        handle.remove()
        assert torch.equal(model(short).logits, expected)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    text = " ".join(render(None, *pair) for pair in ASKED)  # type: ignore[arg-type]
    return word_tokenizer(text)


def test_means_are_those_of_the_prompts_one_by_one(tokenizer: Any) -> None:
    model = tiny_decoder("gemma2")
    anatomy = decoder_anatomy(model)
    got = mean_writes(model, tokenizer, ASKED, MIXED, batch=2)
    sums: dict[Component, Any] = dict.fromkeys(MIXED, 0)
    for pair in ASKED:
        ids = torch.tensor([token_ids(tokenizer, render(tokenizer, *pair))])
        sites = {c: anatomy.mlp(c.layer) if c.kind == "mlp" else anatomy.attention(c.layer) for c in MIXED[3:]}
        sites |= {c: anatomy.head(c.layer, c.index or 0) for c in HEADS}
        with capture(model, sites.values()) as store, torch.inference_mode():
            model(ids)
        for component in MIXED:
            sums[component] = sums[component] + store[sites[component]][0][0, -1]
    for component in MIXED:
        torch.testing.assert_close(got[component], sums[component] / len(ASKED), atol=1e-5, rtol=1e-4)
    with ablating(model, MIXED, "mean", got):
        complete(model, tokenizer, [token_ids(tokenizer, render(tokenizer, *ASKED[0]))], 3)


def test_nothing_ablated_changes_nothing() -> None:
    model = tiny_decoder()
    ids = torch.tensor([[5, 9, 13]])
    plain = model(ids).logits
    with ablating(model, []):
        assert torch.equal(model(ids).logits, plain)


def test_what_cannot_be_is_told(tokenizer: Any) -> None:
    model = tiny_decoder()
    one = Component("mlp", 0)
    for components, replacement, means, error in [
        ([Component("mlp", 3)], "zero", None, "has no mlp 3: it has 3 layers"),
        ([Component("head", 0, 4)], "zero", None, "has no head 0.4"),
        ([Component("head", 0, 1), Component("attention", 0)], "zero", None, "both head 0.1 and its whole"),
        ([one, one], "zero", None, "names one of them twice"),
        ([one], "half", None, "no replacement 'half': choose from zero, mean"),
        ([one], "mean", None, "needs the mean of mlp 0"),
        ([one], "mean", {Component("mlp", 1): torch.zeros(32)}, "needs the mean of mlp 0"),
        ([one], "mean", {one: torch.zeros(8)}, r"mean of mlp 0 has shape \(8,\) where this model has \(32,\)"),
    ]:
        with pytest.raises(OptionError, match=error), ablating(model, components, replacement, means):
            pass
    with pytest.raises(SiteError, match="never computed"), ablating(model, [one]):
        pass
    with pytest.raises(DataError, match="nothing to take means over"):
        mean_writes(model, tokenizer, [], [one])
