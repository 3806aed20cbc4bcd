import numpy as np
import pytest
import torch
from pellucid.compose.prompts_data import parse_two_objects
from pellucid.compose.text_contributions import (
    Unintended,
    contribution_map,
    pipeline_encoders,
    single_encoder,
    unintended_attention,
    unintended_counts,
)
from pellucid.core.errors import DataError, SiteError
from pellucid.core.testing_pipelines import tiny_pipeline

PROMPTS = [
    parse_two_objects(prompt)
    for prompt in ("a red dog and a blue car", "a Blue house and a red metallic tree", "green tree and the red lamp")
]


@pytest.fixture(scope="module")
def sd3():
    return tiny_pipeline("sd3")


@pytest.fixture(scope="module", params=["text_encoder", "text_encoder_2", "text_encoder_3"])
def encoder(request, sd3):
    return next(found for found in pipeline_encoders(sd3) if found.name == request.param)


def slow_vectors(encoder, prompt):
    """(layers, i, j, width) by the formula of section 9.2.3, head by head, from the model's own eager attention."""
    tokens = encoder.tokens([prompt])
    model, causal = encoder.model, encoder.anatomy.causal
    names = ("v_proj", "out_proj") if causal else ("v", "o")
    kept = {}
    hooks = []
    for layer in range(encoder.layers):
        block = model.get_submodule(encoder.attention_block(layer))
        value = getattr(block, names[0])
        hooks.append(value.register_forward_hook(lambda _, __, out, at=layer: kept.__setitem__(at, out[0])))
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(input_ids=tokens["input_ids"], output_attentions=True).attentions
    model.set_attn_implementation(before)
    for hook in hooks:
        hook.remove()
    layers = []
    for layer, maps in enumerate(attentions):
        weight = getattr(model.get_submodule(encoder.attention_block(layer)), names[1]).weight
        heads = maps.shape[1]
        size = weight.shape[1] // heads
        total = 0
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            written = kept[layer][:, part] @ weight[:, part].T
            total = total + maps[0, head][:, :, None] * written[None]
        layers.append(total)
    return torch.stack(layers), tokens


def test_the_map_is_the_formula(encoder):
    found = contribution_map(encoder, "a red dog and a blue car")
    vectors, tokens = slow_vectors(encoder, "a red dog and a blue car")
    np.testing.assert_allclose(found.values, vectors.norm(dim=-1).numpy(), rtol=2e-4, atol=2e-5)
    assert len(found.tokens) == found.values.shape[1] == tokens["input_ids"].shape[1]
    if encoder.anatomy.causal:
        assert not np.triu(found.values, 1).any()


def test_words_are_their_tokens_vectors_summed(encoder):
    found = unintended_attention(encoder, PROMPTS)
    assert found.contributions.shape == (3, 3, 2, 2)
    for row, prompt in enumerate(PROMPTS):
        vectors, tokens = slow_vectors(encoder, prompt.prompt)
        offsets = tokens["offset_mapping"][0].tolist()
        spans = [[at for at, (start, stop) in enumerate(offsets) if start < last and stop > first and stop > start]
                 for first, last in (*prompt.objects, *prompt.attributes)]  # fmt: skip
        for one in range(2):
            for other in range(2):
                summed = vectors[:, spans[one][-1], spans[2 + other]].sum(1).norm(dim=-1)
                np.testing.assert_allclose(found.contributions[row, :, one, other], summed, rtol=2e-4, atol=2e-5)
    if encoder.anatomy.causal:
        assert not found.first.any()
        assert not found.contributions[:, :, 0, 1].any()


def test_prompts_do_not_depend_on_their_company(encoder):
    together = unintended_attention(encoder, PROMPTS)
    alone = unintended_attention(encoder, PROMPTS, batch=1)
    np.testing.assert_allclose(together.contributions, alone.contributions, rtol=1e-4, atol=1e-5)


def test_the_rule_of_the_thesis():
    values = np.zeros((1, 4, 2, 2))
    values[0, 0] = [[2, 1], [1, 2]]  # as it should be
    values[0, 1] = [[2, 1], [2, 1]]  # the second object looks at the first attribute
    values[0, 2] = [[1, 2], [1, 2]]  # the first object looks at the second attribute
    values[0, 3] = [[1, 2], [2, 1]]  # both: one layer
    t5 = Unintended("t5", False, ("x",), values)
    assert t5.layers.tolist() == [3]
    assert (t5.share().value, t5.share(both=False).value) == (0.75, 0.5)
    values = values.copy()
    values[:, :, 0, 1] = 0  # causal
    clip = Unintended("clip", True, ("x",), values)
    assert clip.layers.tolist() == [2]
    counts = unintended_counts([t5, clip])
    assert counts["t5"].tolist() == [0, 0, 0, 1, 0]
    assert counts["clip"].tolist() == [0, 0, 1, 0, 0]


def test_all_families_are_read():
    for family in ("sdxl", "pixart", "if"):
        found = [unintended_attention(encoder, PROMPTS[:1]) for encoder in pipeline_encoders(tiny_pipeline(family))]
        assert all((one.contributions[:, :, 1] > 0).all() for one in found)


def test_an_encoder_alone(sd3):
    found = single_encoder("mine", sd3.text_encoder_3, sd3.tokenizer_3)
    same = pipeline_encoders(sd3)[2]
    mine, other = (unintended_attention(one, PROMPTS).contributions for one in (found, same))
    np.testing.assert_array_equal(mine, other)
    with pytest.raises(SiteError, match="AutoencoderKL"):
        single_encoder("vae", sd3.vae, sd3.tokenizer)


def test_what_cannot_be_measured_is_named(sd3):
    encoder = pipeline_encoders(sd3)[0]
    with pytest.raises(DataError, match="a_1 o_1"):
        unintended_attention(encoder, [])
    long = parse_two_objects(f"a red dog and a blue {'x' * 90}")
    assert long is not None
    with pytest.raises(DataError, match="cut off"):
        unintended_attention(encoder, [parse_two_objects(f"a red {'x' * 90} and a blue car")])
