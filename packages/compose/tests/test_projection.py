from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.compose.embedding_parts import EmbeddingPart, embedding_parts
from pellucid.compose.projection import TextProjection, WindowProjection, load_projection, text_projection
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline

ONE = (EmbeddingPart("text_encoder", (0, 3)),)
THREE = (  # as SD3 lays them
    EmbeddingPart("text_encoder", (0, 2), (0, 4)),
    EmbeddingPart("text_encoder_2", (2, 5), (0, 4)),
    EmbeddingPart("text_encoder_3", (0, 7), (4, None)),
)


def drawn(parts, window, seed=0):
    projection = TextProjection(parts, window)
    chance = torch.Generator().manual_seed(seed)
    for weight in projection.parameters():
        weight.data = torch.randn(weight.shape, generator=chance)
    return projection


def slow_window(layer, embeddings):
    """c'_i = W^T CONCATENATION(c_j for j = i - s .. i + s) + b, token by token."""
    new = torch.empty_like(embeddings)
    rows, tokens, width = embeddings.shape
    for row in range(rows):
        for i in range(tokens):
            window = [
                embeddings[row, j] if 0 <= j < tokens else torch.zeros(width)
                for j in range(i - layer.window, i + layer.window + 1)
            ]
            new[row, i] = layer.weight.T @ torch.cat(window) + layer.bias
    return new


@settings(deadline=None, max_examples=30)
@given(window=st.integers(0, 4), tokens=st.integers(1, 6), width=st.integers(1, 5), seed=st.integers(0, 9))
def test_the_window_map_is_the_thesis_s_sum_token_by_token(window, tokens, width, seed):
    chance = torch.Generator().manual_seed(seed)
    layer = WindowProjection(width, window)
    layer.weight.data = torch.randn(layer.weight.shape, generator=chance)
    layer.bias.data = torch.randn(width, generator=chance)
    embeddings = torch.randn(2, tokens, width, generator=chance)
    torch.testing.assert_close(layer(embeddings), slow_window(layer, embeddings), rtol=1e-5, atol=1e-5)


def test_clp_treats_each_token_alone():
    projection, embeddings = drawn(ONE, 0), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    alone = torch.stack([projection(embeddings[:, [token]])[:, 0] for token in range(5)], 1)
    torch.testing.assert_close(projection(embeddings), alone)
    assert projection.maps["text_encoder"].weight.shape == (3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_projection_at_zero_is_the_identity_to_the_bit(dtype):
    embeddings = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    new = TextProjection(THREE)(embeddings)
    assert new.dtype == dtype
    assert torch.equal(new, embeddings)


def test_what_is_learnt_is_added_to_the_embedding():
    projection, embeddings = drawn(ONE, 1), torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(2))
    expected = embeddings + slow_window(projection.maps["text_encoder"], embeddings)
    torch.testing.assert_close(projection(embeddings), expected)


def test_each_encoder_has_a_map_of_its_own_part():
    projection, embeddings = drawn(THREE, 1), torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(3))
    new, expected = projection(embeddings), embeddings.clone()
    for part, block in zip(
        THREE, [(slice(0, 4), slice(0, 2)), (slice(0, 4), slice(2, 5)), (slice(4, 6), slice(0, 7))], strict=True
    ):
        inside = embeddings[:, block[0], block[1]]
        expected[:, block[0], block[1]] += slow_window(projection.maps[part.encoder], inside)
    torch.testing.assert_close(new, expected)
    assert torch.equal(new[:, :4, 5:], embeddings[:, :4, 5:])  # the filling of zeros beside the CLIPs


def test_chosen_tokens_change_as_they_would_and_others_not_at_all():
    projection, embeddings = drawn(ONE, 2), torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(4))
    everything = projection(embeddings)
    chosen = torch.tensor([[True, False, True, False, False, False], [False] * 6])
    some = projection(embeddings, chosen)
    assert torch.equal(some[chosen], everything[chosen])
    assert torch.equal(some[~chosen], embeddings[~chosen])
    assert torch.equal(projection(embeddings, chosen[0]), torch.where(chosen[0][:, None], everything, embeddings))


def test_gradients_reach_every_weight_and_the_embedding():
    projection = drawn(THREE, 1)
    embeddings = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(5), requires_grad=True)
    projection(embeddings).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in [embeddings, *projection.parameters()])


def test_a_saved_projection_comes_back(tmp_path):
    projection, embeddings = drawn(THREE, 1), torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(6))
    again = load_projection(projection.save(tmp_path / "new" / "wiclp"))
    assert (again.parts, again.window) == (projection.parts, 1)
    assert torch.equal(again(embeddings), projection(embeddings))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("config.json", b'"pellucid_projection": 1', b'"pellucid_projection": 2', "version 2"),
        ("config.json", b'"window": 1', b'"window": 2', "damaged"),
        ("config.json", b'"window"', b'"fenster"', "damaged"),
        ("config.json", b"{", b"", "cannot be read"),
        ("projection.safetensors", b"{", b"x", "cannot be read"),
    ],
)
def test_a_damaged_projection_is_told_in_one_line(tmp_path, file, old, new, said):
    drawn(ONE, 1).save(tmp_path)
    content = (tmp_path / file).read_bytes()
    assert old in content
    (tmp_path / file).write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=said) as caught:
        load_projection(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_projection_in_a_folder(tmp_path):
    with pytest.raises(DataError, match="holds no projection"):
        load_projection(tmp_path)


def test_what_cannot_be_projected_is_told():
    with pytest.raises(OptionError, match="window is -1"):
        TextProjection(ONE, -1)
    with pytest.raises(OptionError, match="another encoder"):
        TextProjection((*ONE, *ONE))
    with pytest.raises(OptionError, match=r"shape \(1, 4, 2\)"):
        TextProjection(ONE)(torch.zeros(1, 4, 2))
    with pytest.raises(OptionError, match="choice of tokens"):
        TextProjection(ONE)(torch.zeros(1, 4, 3), torch.ones(5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("family", "blocks"),
    [
        ("sd", [(0, 32, 0, None)]),
        ("sd2", [(0, 32, 0, None)]),
        ("sdxl", [(0, 32, 0, None), (32, 64, 0, None)]),
        ("sd3", [(0, 32, 0, 77), (32, 64, 0, 77), (0, 64, 77, None)]),
        ("pixart", [(0, 32, 0, None)]),
        ("if", [(0, 32, 0, None)]),
    ],
)
def test_the_parts_of_each_family(family, blocks):
    pipe = tiny_pipeline(family)
    assert [(*part.channels, *part.tokens) for part in embedding_parts(pipe)] == blocks
    assert text_projection(pipe).window == 2


def test_parts_hold_what_their_encoder_says():
    pipe, prompt = tiny_pipeline("sdxl"), "a red cat"
    embeds = pipe.encode_prompt(prompt, prompt, "cpu", 1, False)[0]
    for part in embedding_parts(pipe):
        tokenizer = getattr(pipe, part.encoder.replace("text_encoder", "tokenizer"))
        ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden = getattr(pipe, part.encoder)(ids, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(part.of(embeds), hidden)


def test_flux_and_a_missing_encoder_are_told():
    with pytest.raises(OptionError, match="FluxTransformer2DModel"):
        embedding_parts(tiny_pipeline("flux"))
    pipe = tiny_pipeline("sd3")
    pipe.text_encoder_2 = None
    with pytest.raises(OptionError, match="text_encoder_2 of StableDiffusion3Pipeline is not loaded"):
        embedding_parts(pipe)


def test_a_part_knows_its_width():
    assert replace(ONE[0], channels=(2, 9)).width == 7
