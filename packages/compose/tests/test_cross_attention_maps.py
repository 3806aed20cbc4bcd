import numpy as np
import pytest
import torch
from pellucid.compose.attach import attach
from pellucid.compose.cross_attention_maps import WordMaps, binding_contrast, cross_attention_maps
from pellucid.compose.embedding_parts import embedding_parts
from pellucid.compose.generation import Sampling, encode_prompts, generate
from pellucid.compose.projection import TextProjection
from pellucid.compose.token_subsets import token_subset
from pellucid.core.denoiser_anatomy import denoiser_anatomy
from pellucid.core.errors import DataError, OptionError
from pellucid.core.testing_pipelines import tiny_pipeline
from torch.nn.functional import interpolate

PROMPT, WORDS = "a red dog and a blue car", ["red", "dog", "blue", "car"]
QUICK = Sampling(steps=2)


class Explicit:
    """Cross-attention written out, which keeps its probabilities."""

    def __init__(self, kept):
        self.kept = kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        query, key, value = (attn.head_to_batch_dim(part) for part in (query, key, value))
        weights = (attn.scale * query @ key.transpose(1, 2)).softmax(-1)
        if encoder_hidden_states is not None:
            self.kept.append(weights.reshape(len(hidden_states), -1, *weights.shape[1:]).mean(1))
        return attn.to_out[0](attn.batch_to_head_dim(weights @ value)) / attn.rescale_output_factor


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_maps_are_the_models_own_attention(family):
    pipe = tiny_pipeline(family)
    found = cross_attention_maps(pipe, PROMPT, WORDS, [3, 4], sampling=QUICK)
    kept = []
    pipe.unet.set_attn_processor(Explicit(kept))
    arguments = {name: value[[0, 0]] for name, value in encode_prompts(pipe, [PROMPT]).items()}
    pictures = generate(pipe, arguments, [3, 4], QUICK)
    assert np.abs(pictures.astype(int) - found.pictures).max() <= 1
    layers = len(denoiser_anatomy(pipe).cross_attentions)
    assert len(kept) == 2 * layers
    tokens = torch.stack([token_subset(pipe, PROMPT, "nouns", [word]) for word in WORDS]).double()
    side = found.maps.shape[-1]
    slow = 0
    for weights in kept:
        one = (weights[2:].double() @ tokens.T).transpose(1, 2)
        width = int(one.shape[-1] ** 0.5)
        slow = slow + interpolate(one.reshape(2, 4, width, width), size=(side, side), mode="bilinear")
    np.testing.assert_allclose(found.maps, slow / len(kept), atol=1e-5)


@pytest.mark.parametrize("family", ["sd2", "sd3", "pixart", "if"])
def test_all_families_are_read(family):
    pipe = tiny_pipeline(family)
    arguments = encode_prompts(pipe, [PROMPT])
    found = cross_attention_maps(pipe, PROMPT, WORDS, [3], sampling=QUICK)
    np.testing.assert_array_equal(found.pictures, generate(pipe, arguments, [3], QUICK))
    assert found.maps.shape[:2] == (1, 4)
    assert (found.maps > 0).all()
    assert (found.maps.sum(1) < 1).all()
    same = cross_attention_maps(pipe, PROMPT, WORDS[:1], [3, 9], sampling=QUICK)
    np.testing.assert_allclose(same.maps[0, 0], found.maps[0, 0], atol=1e-4)
    assert not np.allclose(same.maps[1, 0], same.maps[0, 0], atol=1e-6)


def test_one_layer_and_no_guidance():
    pipe = tiny_pipeline("sd")
    every = cross_attention_maps(pipe, PROMPT, WORDS, [1], sampling=Sampling(steps=1, guidance=1.0))
    layers = range(len(denoiser_anatomy(pipe).cross_attentions))
    each = [
        cross_attention_maps(pipe, PROMPT, WORDS, [1], sampling=Sampling(steps=1, guidance=1.0), layers=[layer]).maps
        for layer in layers
    ]
    side = every.maps.shape[-1]
    sized = [interpolate(torch.from_numpy(maps), size=(side, side), mode="bilinear").numpy() for maps in each]
    np.testing.assert_allclose(np.mean(sized, axis=0), every.maps, atol=1e-7)


def test_an_attached_projection_takes_part():
    pipe = tiny_pipeline("sd")
    plain = cross_attention_maps(pipe, PROMPT, WORDS, [1], sampling=QUICK)
    projection = TextProjection(embedding_parts(pipe), 0)
    with attach(pipe, projection, 0):
        same = cross_attention_maps(pipe, PROMPT, WORDS, [1], sampling=QUICK)
    np.testing.assert_array_equal(same.maps, plain.maps)
    with torch.no_grad():
        for weight in projection.parameters():
            weight.normal_(std=0.3)
    with attach(pipe, projection, 0):
        changed = cross_attention_maps(pipe, PROMPT, WORDS, [1], sampling=QUICK)
    assert not np.allclose(changed.maps, plain.maps, atol=1e-3)


def test_the_contrast_by_hand():
    maps = np.zeros((3, 4, 2, 2))
    left, right = np.array([[1, 0], [1, 0]]), np.array([[0, 1], [0, 1]])
    maps[0] = [left, left, right, right]
    maps[1] = [right, left, left, right]
    maps[2] = [left, left, left, right]
    found = binding_contrast(WordMaps(PROMPT, tuple(WORDS), np.zeros((3, 2, 2, 3), np.uint8), maps))
    np.testing.assert_allclose(found, [2, -2, 0])
    with pytest.raises(OptionError, match="four"):
        binding_contrast(WordMaps(PROMPT, ("red",), np.zeros((3, 2, 2, 3), np.uint8), maps[:, :1]))


def test_what_cannot_be_mapped_is_named():
    pipe = tiny_pipeline("sd")
    with pytest.raises(DataError, match="'cat'"):
        cross_attention_maps(pipe, PROMPT, ["cat"], [0])
    with pytest.raises(OptionError, match="cross-attention 99"):
        cross_attention_maps(pipe, PROMPT, WORDS, [0], layers=[99])
    with pytest.raises(OptionError, match="0 seeds"):
        cross_attention_maps(pipe, PROMPT, WORDS, [])
